"""Prognoses and what came of them: each is held against the patient's next study once that has its result.

A prognosis of a result is judged by the current result, of the same checkpoint, whose prior is the image that it was
made on, and by the week of that result. Where the later report is not sure of the finding's change, nothing is judged.

The figure of a week is the share of prognoses that came true (observed) beside the mean of their stated probabilities
(predicted), overall and by bands of the stated probability, which is the calibration. If every probability is right,
the number that comes true is Poisson-binomial; its quantiles at alpha / 2 are the limits.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from dicom_node.drift.limits import DriftVerdict, share_of
from dicom_node.index.tables.core import Outcome, Result
from model.schema import COMPARED_CHANGES, Change

CAME_TRUE = "prognosis came true"
"""The beginning of the figures' names."""
BANDS = (0.0, 0.4, 0.6, 0.8, 1.0)
"""Edges of the stated probability."""
STATED = "stated probabilities"
"""The baseline of these figures, by name."""
MIN_BAND = 20
"""Prognoses that a band needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPrognosis:
    """One prognosis and what the next study showed. probability: as stated, 0..1."""

    finding: str
    predicted: Change
    probability: float
    observed: Change | None
    """None: it was and stayed absent."""

    @property
    def came_true(self) -> bool:
        return self.predicted is self.observed


def load_judged_prognoses(
    session: Session, *, since: dt.datetime, until: dt.datetime
) -> dict[str, list[JudgedPrognosis]]:
    """Device UID → prognoses whose next study has a current result of [since, until)."""
    earlier = aliased(Result)
    rows = session.execute(
        select(Result.device_uid, earlier.prediction, Result.prediction)
        .join(earlier, (earlier.sop_instance_uid == Result.prior_sop_instance_uid) & earlier.is_current)
        .where(
            Result.is_current,
            Result.outcome == Outcome.COMPARED,
            Result.created_at >= since,
            Result.created_at < until,
            earlier.device_uid == Result.device_uid,
        )
        .order_by(Result.id)
    )
    judged: dict[str, list[JudgedPrognosis]] = {}
    for device_uid, before, after in rows:
        verifiable = _judge_result(before, after)
        if verifiable:
            judged.setdefault(device_uid, []).extend(verifiable)
    return judged


def _judge_result(before: Mapping[str, object], after: Mapping[str, object]) -> list[JudgedPrognosis]:
    """The prognoses of one stored result by what the next states."""
    shown = {str(finding["key"]): finding for finding in _items(after, "findings")}
    judged = []
    for item in _items(before, "prognosis"):
        key, predicted = str(item["key"]), Change(str(item["change"]))
        later = shown.get(key, {})
        change = str(later.get("change"))
        # "New" was foretold and the finding is still not seen: that is an answer, although no change is stated.
        stays_absent = later.get("change") is None and later.get("seen") == "not seen" and predicted is Change.NEW
        if not stays_absent and change not in COMPARED_CHANGES:
            continue
        observed = None if stays_absent else Change(change)
        probability = float(str(item["probability"]))
        judged.append(JudgedPrognosis(finding=key, predicted=predicted, probability=probability, observed=observed))
    return judged


def _items(values: Mapping[str, object], key: str) -> Sequence[Mapping[str, object]]:
    items = values.get(key)
    return items if isinstance(items, list) else []


def judge_prognoses(
    judged: Sequence[JudgedPrognosis], *, min_items: int, false_alarms: float
) -> dict[str, DriftVerdict]:
    """Figure → verdict: value is what was observed, baseline what was predicted. Nothing of too few. Pure."""
    if len(judged) < min_items:
        return {}
    groups = {CAME_TRUE: list(judged)}
    for low, high in pairwise(BANDS):
        band = [
            prognosis
            for prognosis in judged
            # Half-open bands; the last one has its upper end as well, or a certainty of 1 would be in none.
            if low <= prognosis.probability < high or (high == prognosis.probability == BANDS[-1])
        ]
        if len(band) >= MIN_BAND:
            groups[f"{CAME_TRUE}, stated {low:.0%} to {high:.0%}"] = band
    # Shared out over all figures: together they alarm by chance at most as often as set (Bonferroni).
    alpha = share_of(false_alarms, len(groups))
    return {name: _verdict(group, alpha) for name, group in groups.items()}


def _verdict(group: Sequence[JudgedPrognosis], alpha: float) -> DriftVerdict:
    n, count = len(group), sum(prognosis.came_true for prognosis in group)
    probabilities = np.asarray([prognosis.probability for prognosis in group])
    shares = np.ones(1)
    for probability in probabilities:  # the Poisson-binomial distribution, one prognosis after the other
        shares = np.convolve(shares, (1.0 - probability, probability))
    below = np.cumsum(shares)
    low = int(np.searchsorted(below, alpha / 2))
    high = min(n, int(np.searchsorted(below, 1 - alpha / 2)))
    return DriftVerdict(
        n=n,
        value=count / n,
        low=low / n,
        high=high / n,
        baseline=float(probabilities.mean()),
        alarm=not low <= count <= high,
    )
