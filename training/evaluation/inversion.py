"""Temporal inversion: the pair in both orders against its truth in both orders (TILA, arXiv 2604.04563).

The reversed pair's true change is the inverse of the pair's own. A model that only sees what is there, and not in which
order, is right in one order at most where something changed. The paper's protocol is known here from its abstract and
summaries only ("order sensitivity and consistency under temporal inversion"); the four shares below are our definition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from model.schema import INVERSE_CHANGE, Change
from training.metrics.pairs import Answered, change_said
from training.metrics.significance import Interval
from training.metrics.summed import interval, mean_figure

Row = tuple[str, str, str, str, str]
"""Key, patient, true change, stated change, stated change of the reversed pair."""
CHANGED = ("new", "worsening", "improving", "resolved")


def score_inversion(answered: Sequence[Answered], *, resamples: int = 1000) -> dict[str, Interval]:
    """Shares over (pair, finding) with a known change, intervals by patient; empty where pairs were asked once only.

    forward, backward: right in the order of time, and in the reversed one. both: right in both. sensitivity: of
    findings that changed, those whose stated change in the two orders differs. consistency: the two statements are
    inverse to each other, right or wrong. Each also over changed findings only ("forward, changed").
    """
    rows = [row for item in answered for row in _rows(item)]
    figures: dict[str, Callable[[Row], bool]] = {
        "forward": lambda row: row[3] == row[2],
        "backward": lambda row: row[4] == inverse(row[2]),
        "both": lambda row: row[3] == row[2] and row[4] == inverse(row[2]),
        "consistency": lambda row: row[4] == inverse(row[3]),
    }
    changed = [row for row in rows if row[2] in CHANGED]
    shares = {name: _share(rows, rule, resamples) for name, rule in figures.items() if rows}
    shares |= {f"{name}, changed": _share(changed, rule, resamples) for name, rule in figures.items() if changed}
    if changed:
        shares["sensitivity"] = _share(changed, lambda row: row[3] != row[4], resamples)
    return shares


def _rows(item: Answered) -> list[Row]:
    if item.swapped is None:
        return []
    forth = {finding.key: change_said(finding) for finding in item.prediction.findings}
    back = {finding.key: change_said(finding) for finding in item.swapped.findings}
    return [
        (f"{item.truth.pair_id}/{key}", item.truth.patient_id, truth.change_answer, forth[key], back[key])
        for key, truth in item.truth.findings.items()
        if truth.change_answer is not None and key in forth and key in back
    ]


def _share(rows: Sequence[Row], is_met: Callable[[Row], bool], resamples: int) -> Interval:
    scores = [float(is_met(row)) for row in rows]
    return interval([mean_figure([row[0] for row in rows], [row[1] for row in rows], scores)], resamples=resamples)


def inverse(change: str) -> str:
    """The change of the reversed pair; what is no change stays as it is."""
    known = {state.value for state in Change}
    return INVERSE_CHANGE[Change(change)].value if change in known else change
