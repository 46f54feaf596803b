"""Consistency of a model with itself: order of the pair, the same image twice. No label is needed."""

from __future__ import annotations

from collections.abc import Sequence

from model.schema import INVERSE_CHANGE, Change, Finding
from training.metrics.pairs import Answered, change_said
from training.metrics.significance import Interval
from training.metrics.summed import interval, mean_figure


def score_consistency(answered: Sequence[Answered], *, resamples: int = 1000) -> dict[str, Interval]:
    """Shares over (pair, finding) of all findings that the model answers, with intervals by patient.

    order: the change in the other order is the inverse (none: none). order_changed: the same where either order states
    a change. same_image: "stable" or no change on an image given twice. Empty where pairs were asked once only.
    """
    order: list[tuple[str, str, float]] = []
    changed: list[tuple[str, str, float]] = []
    same: list[tuple[str, str, float]] = []
    for item in answered:
        if item.swapped is None or item.same is None:
            continue
        back, again = _by_key(item.swapped.findings), _by_key(item.same.findings)
        for finding in item.prediction.findings:
            key, patient = f"{item.truth.pair_id}/{finding.key}", item.truth.patient_id
            forth = change_said(finding)
            turned = change_said(back[finding.key]) if finding.key in back else "missing"
            agrees = (key, patient, float(_inverse(forth) == turned))
            order.append(agrees)
            # Most findings are on neither image, and saying so twice is easy: the figure without them shows the rest.
            if (forth, turned) != ("none", "none"):
                changed.append(agrees)
            twice = change_said(again[finding.key]) if finding.key in again else "missing"
            same.append((key, patient, float(twice in ("stable", "none"))))
    named = (("order", order), ("order_changed", changed), ("same_image", same))
    return {name: _interval(rows, resamples) for name, rows in named if rows}


def _interval(rows: Sequence[tuple[str, str, float]], resamples: int) -> Interval:
    keys, patients, scores = zip(*rows, strict=True)
    return interval([mean_figure(keys, patients, scores)], resamples=resamples)


def _by_key(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {finding.key: finding for finding in findings}


def _inverse(stated: str) -> str:
    known = {change.value for change in Change}
    return INVERSE_CHANGE[Change(stated)].value if stated in known else stated
