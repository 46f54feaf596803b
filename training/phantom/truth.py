"""The exact truth of a synthetic pair, as every reader gives it."""

from __future__ import annotations

from training.phantom.scene import PHANTOM_FINDINGS, PhantomPair
from training.records.truth import FindingTruth, ImageTruth, PairTruth


def truth_of_phantom(pair: PhantomPair, pair_id: str, *, with_prior: bool = True) -> PairTruth:
    """The exact truth of a phantom pair (of its current film alone with with_prior=False)."""
    findings = {}
    for key in PHANTOM_FINDINGS:
        images = []
        for states in (pair.current, pair.prior):
            state = states.get(key)
            images.append(
                ImageTruth(present=False)
                if state is None
                else ImageTruth(present=True, side=state.side, grade=state.grade, severity=state.severity)
            )
        findings[key] = FindingTruth(
            key=key,
            current=images[0],
            prior=images[1] if with_prior else None,
            change=pair.changes.get(key) if with_prior else None,
        )
    return PairTruth(
        pair_id=pair_id,
        patient_id=f"phantom-{pair.patient.seed}",
        findings=findings,
        has_prior=with_prior,
        view=pair.current_film.view,
        prior_view=pair.prior_film.view if with_prior else None,
    )
