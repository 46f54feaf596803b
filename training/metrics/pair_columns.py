"""Rows of (pair, finding) as number columns, and the figures computed from them fast enough for a bootstrap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.ontology import ontology
from model.questions.answers import CHANGE_ANSWERS
from training.metrics.classification import ClassScore, auroc, expected_calibration_error, ratio

_FINDINGS = tuple(ontology().findings)
_SIDES = ("", *ontology().sides)
_GRADES = ("", *ontology().grades)
_OTHER = len(CHANGE_ANSWERS)
"""Code of an answer that is none of the changes: "not comparable", missing."""
_UNKNOWN = -1
"""Code of a truth that is not known, or a place of the table that does not apply."""

Columns = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairRow:
    """One finding of one pair, as words; NaN and "" stand for what is not known or does not apply."""

    pair: int
    key: str
    present: float
    probability: float
    said_present: float
    change: str
    said_change: str
    change_probability: float
    side: str
    said_side: str
    grade: str
    said_grade: str
    swap_agrees: float
    swap_counts: bool
    same_agrees: float

    def numbers(self) -> dict[str, float]:
        """The row as numbers: words become their places in the vocabulary."""
        return {
            "key": _FINDINGS.index(self.key),
            "present": self.present,
            "probability": self.probability,
            "said_present": self.said_present,
            "change": CHANGE_ANSWERS.index(self.change) if self.change else _UNKNOWN,
            "said_change": CHANGE_ANSWERS.index(self.said_change) if self.said_change in CHANGE_ANSWERS else _OTHER,
            "change_probability": self.change_probability,
            "side": _SIDES.index(self.side),
            "said_side": _SIDES.index(self.said_side),
            "grade": _GRADES.index(self.grade),
            "said_grade": _GRADES.index(self.said_grade) if self.said_grade in _GRADES else _UNKNOWN,
            "swap_agrees": self.swap_agrees,
            "swap_counts": float(self.swap_counts),
            "same_agrees": self.same_agrees,
        }


class PairColumns:
    """The rows as float64 columns, grouped by pair so that a bootstrap resample is one concatenation of slices."""

    def __init__(self, rows: Sequence[PairRow], pairs: int) -> None:
        numbers = [row.numbers() for row in rows]
        names = list(numbers[0]) if numbers else []
        self._table = np.array([[row[name] for name in names] for row in numbers], dtype=np.float64)
        self._names = names
        groups: list[list[int]] = [[] for _ in range(pairs)]
        for index, row in enumerate(rows):
            groups[row.pair].append(index)
        self._places = [np.asarray(group, dtype=np.intp) for group in groups]

    def of_pairs(self, chosen: NDArray[np.intp]) -> Columns:
        """The columns of these pairs (with repetition); raises ValueError where no pair has a labelled finding."""
        if not self._names:
            raise ValueError("there is no labelled finding to score")
        places = np.concatenate([self._places[number] for number in chosen])
        return dict(zip(self._names, self._table[places].T, strict=True))


def figures_of(data: Columns) -> dict[str, float]:
    """Every figure of `PairScores`, by name; formulas there."""
    return {
        "presence_auroc": _mean(auroc_by_finding(data).values()),
        "presence_accuracy": _presence_accuracy(data),
        "change_f1": _change_f1(data),
        "side_accuracy": _agreement(data, "side"),
        "side_coverage": _side_coverage(data),
        "grade_accuracy": _agreement(data, "grade"),
        "swap_consistency": _mean(data["swap_agrees"]),
        "swap_consistency_changed": _mean(data["swap_agrees"][data["swap_counts"] == 1]),
        "same_image_consistency": _mean(data["same_agrees"]),
        "presence_ece": _presence_ece(data),
        "change_ece": _change_ece(data),
    }


def auroc_by_finding(data: Columns) -> dict[str, float]:
    """AUROC of each labelled finding; NaN where it has one class only."""
    result = {}
    for number in np.unique(data["key"]).astype(int):
        inside = (data["key"] == number) & ~np.isnan(data["present"])
        if inside.any():
            result[_FINDINGS[number]] = auroc(data["present"][inside] == 1, data["probability"][inside])
    return result


def change_scores(data: Columns) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of every change, all findings pooled."""
    known = data["change"] != _UNKNOWN
    truth, answered = data["change"][known], data["said_change"][known]
    scores = []
    for code, label in enumerate(CHANGE_ANSWERS):
        hits = float(((truth == code) & (answered == code)).sum())
        n_true, n_said = int((truth == code).sum()), int((answered == code).sum())
        scores.append(
            ClassScore(
                label=label,
                precision=ratio(hits, n_said),
                recall=ratio(hits, n_true),
                f1=ratio(2 * hits, n_said + n_true),
                support=n_true,
            )
        )
    return tuple(scores)


def change_f1_by_finding(data: Columns) -> dict[str, float]:
    """Macro F1 over the changes of each finding alone."""
    result = {}
    for number in np.unique(data["key"]).astype(int):
        inside = (data["key"] == number) & (data["change"] != _UNKNOWN)
        if inside.any():
            result[_FINDINGS[number]] = _change_f1({name: column[inside] for name, column in data.items()})
    return result


def _mean(values: Iterable[float]) -> float:
    """Mean of what is known, NaN where nothing is."""
    numbers = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float64)
    known = numbers[~np.isnan(numbers)]
    return float(known.mean()) if known.size else float("nan")


def _change_f1(data: Columns) -> float:
    return _mean([score.f1 for score in change_scores(data) if score.support])


def _presence_accuracy(data: Columns) -> float:
    known = ~np.isnan(data["present"])
    # An abstention is NaN in said_present and so equals neither truth: it is wrong.
    return ratio(float((data["present"][known] == data["said_present"][known]).sum()), int(known.sum()))


def _agreement(data: Columns, word: str) -> float:
    """Accuracy of a word among findings that are there, have it, and were called present."""
    asked = (data[word] > 0) & (data["said_present"] == 1)
    return ratio(float((data[word][asked] == data[f"said_{word}"][asked]).sum()), int(asked.sum()))


def _side_coverage(data: Columns) -> float:
    lateral = data["side"] > 0
    return ratio(float((data["said_side"][lateral] > 0).sum()), int(lateral.sum()))


def _presence_ece(data: Columns) -> float:
    known = ~np.isnan(data["present"])
    probability = data["probability"][known]
    confidence = np.maximum(probability, 1 - probability)
    return expected_calibration_error(confidence, (probability >= 0.5) == (data["present"][known] == 1))


def _change_ece(data: Columns) -> float:
    known = (data["change"] != _UNKNOWN) & ~np.isnan(data["change_probability"])
    return expected_calibration_error(
        data["change_probability"][known], data["change"][known] == data["said_change"][known]
    )
