"""Answers of the study's runs → figures of each arm with intervals, and whether two arms differ.

Figures are averaged over the runs (seeds) of an arm, in every resample of the bootstrap as well; a test pairs answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from model.questions.answers import CHANGE_ANSWERS
from model.schema import INVERSE_CHANGE, Change
from training.arms.ask import AnswerSet, ArmAnswer
from training.metrics.answers import exact_matches, recalls
from training.metrics.significance import Interval, compare
from training.metrics.summed import SummedFigure, event_figure, interval, mean_figure, text_figures

TOGETHER = (AnswerSet.DIFFERENCE, AnswerSet.PREDICTION)
"""The prognostic sentences that are also scored as one set, as the paper does."""


def measure_run(said: Sequence[ArmAnswer]) -> dict[str, SummedFigure]:
    """Every figure of one run by name; a figure without an answer is left out."""
    of = {kind: [item for item in said if item.set is kind] for kind in AnswerSet}
    figures: dict[str, SummedFigure] = {}
    if closed := of[AnswerSet.CLOSED]:
        figures["closed accuracy"] = _mean(closed, exact_matches(_truth(closed), _said(closed)))
    if opened := of[AnswerSet.OPEN]:
        figures["open recall"] = _mean(opened, recalls(_truth(opened), _said(opened)))
    for name, items in (
        ("difference", of[AnswerSet.DIFFERENCE]),
        ("prediction", of[AnswerSet.PREDICTION]),
        ("together", [item for kind in TOGETHER for item in of[kind]]),
        ("prediction, both images", of[AnswerSet.PREDICTION_BOTH]),
    ):
        if items:
            text_scores = text_figures(_keys(items), _patients(items), _truth(items), _said(items))
            figures |= {f"{name} {metric}": figure for metric, figure in text_scores.items()}
    if items := of[AnswerSet.DIFFERENCE]:
        figures["event F1"] = event_figure(_keys(items), _patients(items), _truth(items), _said(items))
    if changes := of[AnswerSet.CHANGE]:
        figures["change macro F1"] = _changes(changes)
        figures["order-swap"] = _mean(changes, [float(_inverse(i.said) == i.back) for i in changes])
        # Where nothing happened and nothing is said, agreeing in both orders is no merit.
        stated = [i for i in changes if {i.truth, i.said, i.back} != {"none"}]
        figures["order-swap, changed"] = _mean(stated, [float(_inverse(i.said) == i.back) for i in stated])
    return figures


def _keys(items: Sequence[ArmAnswer]) -> list[str]:
    return [f"{item.set.value}/{item.key}" for item in items]


def _patients(items: Sequence[ArmAnswer]) -> list[str]:
    """A held-out pair is one patient of its own."""
    return [str(item.pair) for item in items]


def _truth(items: Sequence[ArmAnswer]) -> list[str]:
    return [item.truth for item in items]


def _said(items: Sequence[ArmAnswer]) -> list[str]:
    return [item.said for item in items]


def _mean(items: Sequence[ArmAnswer], scores: Sequence[float]) -> SummedFigure:
    return mean_figure(_keys(items), _patients(items), scores)


def _changes(items: Sequence[ArmAnswer]) -> SummedFigure:
    """Macro F1 over the changes that occur; each: right or wrong."""
    size = len(CHANGE_ANSWERS)
    sums = np.zeros((len(items), size * size))
    for row, item in enumerate(items):
        sums[row, CHANGE_ANSWERS.index(item.truth) * size + CHANGE_ANSWERS.index(item.said)] = 1
    right = [float(item.truth == item.said) for item in items]
    each = dict(zip(_keys(items), right, strict=True))
    return SummedFigure(patients=tuple(_patients(items)), sums=sums, value=_macro_f1, each=each)


def _macro_f1(sums: NDArray[np.float64]) -> float:
    size = len(CHANGE_ANSWERS)
    table = sums.reshape(size, size)
    true, answered, hits = table.sum(1), table.sum(0), np.diag(table)
    occurs = true > 0
    return float(np.mean(2 * hits[occurs] / (true[occurs] + answered[occurs]))) if occurs.any() else float("nan")


def _inverse(stated: str) -> str:
    return stated if stated == "none" else INVERSE_CHANGE[Change(stated)].value


def arm_figures(runs: Sequence[Mapping[str, SummedFigure]]) -> dict[str, Interval]:
    """Each figure averaged over the runs, with its 95 % interval from a bootstrap over patients."""
    return {name: interval([run[name] for run in runs]) for name in runs[0]}


def p_values(
    first: Sequence[Mapping[str, SummedFigure]], second: Sequence[Mapping[str, SummedFigure]]
) -> dict[str, float]:
    """Two-sided Wilcoxon signed-rank p of each figure: runs averaged for each answer, then the two arms paired.

    Left out where the two do not score the same answers ("order-swap, changed" depends on what was said).
    """
    result = {}
    for name in first[0]:
        a, b = [run[name].each for run in first], [run[name].each for run in second]
        if all(set(run) == set(a[0]) for run in (*a, *b)):
            result[name] = compare(a, b).p
    return result
