"""The findings of a phantom pair: balanced over changes, degrees and sides, and never hiding one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from model.schema import Change
from training.phantom.scene import (
    BILATERAL,
    GRADE_RANGES,
    GRADED,
    GRADES,
    LATERAL,
    PHANTOM_FINDINGS,
    STABLE_JITTER,
    FindingState,
    PhantomPair,
    changes_between,
    sample_acquisition,
    sample_patient,
)

_GRADED_CHANGES = (Change.NEW, Change.RESOLVED, Change.STABLE, Change.WORSENING, Change.IMPROVING)
_UNGRADED_CHANGES = (Change.NEW, Change.RESOLVED, Change.STABLE)
_DEGREE_SHARES = (0.16, 0.16, 0.20, 0.24, 0.24)
"""Shares of the five changes where a graded finding is in the pair: changes of degree are the hardest to learn, so
they come more often than new and resolved ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOptions:
    """The options for drawing pairs.

    share: probability that a given finding is on at least one film of the pair. normal: share of pairs without any
    finding. same_film: share of pairs that are one film twice, up to noise. strength: of positioning and exposure.
    """

    share: float = 0.24
    normal: float = 0.07
    same_film: float = 0.05
    strength: float = 1.0


def sample_pair(
    seed: int, options: PairOptions | None = None, *, wanted: Mapping[str, Change] | None = None
) -> PhantomPair:
    """A pair from a seed; `wanted` names findings and their changes that it must have, and nothing else then."""
    options = options or PairOptions()
    rng = np.random.default_rng([seed, 3])
    changes = wanted
    if changes is None:
        changes = {} if rng.random() < options.normal else _draw_changes(rng, options.share)
    prior: dict[str, FindingState] = {}
    current: dict[str, FindingState] = {}
    for key, change in changes.items():
        before, after = _draw_states(rng, key, change)
        if before is not None:
            prior[key] = before
        if after is not None:
            current[key] = after
    prior, current = _keep_visible(rng, prior, current)
    patient = sample_patient(seed)
    # Two seeds of one pair that no other pair has, so that the two films differ in everything but the patient.
    films = [sample_acquisition(seed * 2 + i, strength=options.strength) for i in (0, 1)]
    if rng.random() < options.same_film and wanted is None:
        # One film shown twice, apart from its noise: the model must learn to call this "no change".
        prior = dict(current)
        films[0] = replace(films[1], seed=films[0].seed)
    return PhantomPair(
        patient=patient,
        prior=prior,
        current=current,
        prior_film=films[0],
        current_film=films[1],
        changes=changes_between(prior, current),
    )


def _draw_changes(rng: Generator, share: float) -> dict[str, Change]:
    """Independent draws for every finding."""
    drawn: dict[str, Change] = {}
    for key in PHANTOM_FINDINGS:
        if rng.random() >= share:
            continue
        if key in GRADED:
            drawn[key] = _GRADED_CHANGES[int(rng.choice(len(_GRADED_CHANGES), p=_DEGREE_SHARES))]
        else:
            drawn[key] = _UNGRADED_CHANGES[int(rng.integers(len(_UNGRADED_CHANGES)))]
    return drawn


def _draw_severity(rng: Generator, grade: str) -> float:
    low, high = GRADE_RANGES[grade]
    return float(rng.uniform(low, high))


def _draw_states(rng: Generator, key: str, change: Change) -> tuple[FindingState | None, FindingState | None]:
    """The finding on the prior and on the current film such that `change` is the truth."""
    side: str | None = None
    if key in LATERAL:
        side = "bilateral" if key in BILATERAL and rng.random() < 0.22 else str(rng.choice(["left", "right"]))
    if key == "pacemaker":
        side = "left" if rng.random() < 0.75 else "right"
    zone = str(rng.choice(["upper", "middle", "lower"])) if key in {"consolidation", "lung_nodule"} else None
    base = FindingState(key=key, severity=1.0, side=side, zone=zone, seed=int(rng.integers(2**31)))
    if key not in GRADED:
        return (None if change is Change.NEW else base), (None if change is Change.RESOLVED else base)
    if change in (Change.WORSENING, Change.IMPROVING):
        # Two grades that differ: a change within one grade could not be told by its words.
        low, high = sorted(rng.choice(3, size=2, replace=False).tolist())
        less = replace(base, severity=_draw_severity(rng, GRADES[low]))
        more = replace(base, severity=_draw_severity(rng, GRADES[high]))
        return (less, more) if change is Change.WORSENING else (more, less)
    grade = GRADES[int(rng.integers(3))]
    state = replace(base, severity=_draw_severity(rng, grade))
    if change is Change.NEW:
        return None, state
    if change is Change.RESOLVED:
        return state, None
    # A stable finding is not drawn twice alike, but it keeps its grade, or the truth would be another.
    low_end, high_end = GRADE_RANGES[grade]
    jitter = float(np.clip(state.severity + rng.uniform(-STABLE_JITTER, STABLE_JITTER), low_end, high_end))
    return state, replace(state, severity=jitter)


def _keep_visible(
    rng: Generator, prior: dict[str, FindingState], current: dict[str, FindingState]
) -> tuple[dict[str, FindingState], dict[str, FindingState]]:
    """Move what another finding of the pair would hide; drop it where there is no place left.

    Fluid hides the base, a collapsed lung hides what lies in it: the truth would then name what nobody can see.
    """
    # A finding's place is one on both films, so what hides it on either film moves it on both.
    both: dict[str, FindingState] = {**prior, **current}
    moves: dict[str, dict[str, str | None] | None] = {}
    fluid, air = both.get("pleural_effusion"), both.get("pneumothorax")
    for key in ("atelectasis", "consolidation", "lung_nodule"):
        state = both.get(key)
        if state is None:
            continue
        blocked = {air.side} if air else set()
        if key == "atelectasis" and fluid:
            blocked |= {"left", "right"} if fluid.side == "bilateral" else {fluid.side}
        if key == "lung_nodule" and (solid := both.get("consolidation")):
            blocked |= {"left", "right"} if solid.side == "bilateral" else {solid.side}
        free = [side for side in ("left", "right") if side not in blocked]
        if not free:
            moves[key] = None
            continue
        side = state.side if not blocked or state.side in free else str(rng.choice(free))
        zone = state.zone
        if zone == "lower" and fluid and (fluid.side == "bilateral" or side in (fluid.side, "bilateral")):
            zone = "upper"
        if zone == "middle" and key == "consolidation" and fluid:
            zone = "upper"
        both[key] = replace(state, side=side, zone=zone)
        moves[key] = {"side": side, "zone": zone}
    return _move(prior, moves), _move(current, moves)


def _move(
    states: dict[str, FindingState], moves: Mapping[str, Mapping[str, str | None] | None]
) -> dict[str, FindingState]:
    kept: dict[str, FindingState] = {}
    for key, state in states.items():
        if key not in moves:
            kept[key] = state
        elif (move := moves[key]) is not None:
            kept[key] = replace(state, side=move["side"], zone=move["zone"])
    return kept
