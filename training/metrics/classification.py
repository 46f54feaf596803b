"""Metrics over labels and probabilities: accuracy, F1, AUROC, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CALIBRATION_BINS = 15
"""Equal-width bins of the expected calibration error (Guo et al. 2017 use 15)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class of a multi-class task. support: how often it is true; the scores are NaN where they are 0/0."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """One bin of a reliability plot: mean confidence, share that was right, count."""

    low: float
    high: float
    confidence: float
    accuracy: float
    count: int

    @property
    def spread(self) -> tuple[float, float]:
        """95 % interval of the share that was right (Wilson 1927); answers are taken as independent."""
        return wilson(self.accuracy * self.count, self.count)


def wilson(hits: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share; (NaN, NaN) without data."""
    if not count:
        return float("nan"), float("nan")
    share = hits / count
    # E. B. Wilson, JASA 22 (1927): unlike the normal interval it never leaves 0..1 and has a width at 0 and 1.
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def ratio(part: float, whole: float) -> float:
    """part / whole, NaN where nothing was counted: an empty set has no score, neither 0 nor 1."""
    return part / whole if whole else float("nan")


def accuracy(truth: Sequence[str], said: Sequence[str]) -> float:
    """Share of equal entries."""
    _check_same_length(truth, said)
    return ratio(sum(t == s for t, s in zip(truth, said, strict=True)), len(truth))


def class_scores(truth: Sequence[str], said: Sequence[str], labels: Sequence[str]) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 = 2·TP / (2·TP + FP + FN) of each of `labels`; other answers count as misses."""
    _check_same_length(truth, said)
    true, answered = np.asarray(truth, dtype=object), np.asarray(said, dtype=object)
    scores = []
    for label in labels:
        is_true, is_said = true == label, answered == label
        hits = int(np.sum(is_true & is_said))
        scores.append(
            ClassScore(
                label=label,
                precision=ratio(hits, int(is_said.sum())),
                recall=ratio(hits, int(is_true.sum())),
                f1=ratio(2 * hits, int(is_said.sum()) + int(is_true.sum())),
                support=int(is_true.sum()),
            )
        )
    return tuple(scores)


def macro_f1(scores: Sequence[ClassScore]) -> float:
    """Mean F1 of the classes that occur in the truth; NaN where none does.

    A class without any true example has no recall; taking its F1 as 0 or leaving it out by chance of one wrong answer
    would make small sets incomparable, so it is left out always.
    """
    values = [score.f1 for score in scores if score.support]
    return float(np.mean(values)) if values else float("nan")


def macro_accuracy(truth: Sequence[str], said: Sequence[str], labels: Sequence[str]) -> float:
    """Mean recall over the classes that occur (MS-CXR-T's macro accuracy of one finding)."""
    values = [score.recall for score in class_scores(truth, said, labels) if score.support]
    return float(np.mean(values)) if values else float("nan")


def confusion(truth: Sequence[str], said: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """Counts [true, said], with one further column for answers that are none of `labels`."""
    _check_same_length(truth, said)
    number_of = {label: number for number, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
    for true, answer in zip(truth, said, strict=True):
        table[number_of[true], number_of.get(answer, len(labels))] += 1
    return table


def auroc(truth: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative) + ½·P(equal); NaN with one class only.

    Computed from mid-ranks (Mann-Whitney U / (n₊·n₋)), by numpy alone: on the few scores of a bootstrap's thousand
    resamples scipy's `rankdata` takes six times as long. Raises ValueError for scores that are not finite.
    """
    positive = np.asarray(truth, dtype=bool)
    scores = np.asarray(score, dtype=np.float64)
    if positive.shape != scores.shape:
        raise ValueError(f"{positive.shape} truths and {scores.shape} scores")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    n_positive = int(positive.sum())
    n_negative = positive.size - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    ascending, positives = np.sort(scores), scores[positive]
    below = np.searchsorted(ascending, positives, side="left")
    not_above = np.searchsorted(ascending, positives, side="right")
    ranks = (below + not_above + 1) / 2  # the mean of the places, from 1, that a score shares with its equals
    u = float(ranks.sum()) - n_positive * (n_positive + 1) / 2
    return u / (n_positive * n_negative)


def roc_curve(truth: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1); empty with one class only."""
    positive = np.asarray(truth, dtype=bool)
    scores = np.asarray(score, dtype=np.float64)
    if not positive.any() or positive.all():
        return np.empty(0), np.empty(0)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    misses = np.cumsum(~positive[order])
    # No threshold parts equal scores, so they make one step of the curve.
    last_of_value = np.append(np.diff(scores[order]) != 0, True)
    true_rate = np.concatenate([[0.0], hits[last_of_value] / hits[-1]])
    false_rate = np.concatenate([[0.0], misses[last_of_value] / misses[-1]])
    return false_rate, true_rate


def reliability(
    confidence: ArrayLike, correct: ArrayLike, *, bins: int = CALIBRATION_BINS
) -> tuple[ReliabilityBin, ...]:
    """Equal-width bins over [0, 1], the last one closed; empty bins are left out. ValueError outside [0, 1]."""
    confidences = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    if confidences.shape != right.shape:
        raise ValueError(f"{confidences.shape} confidences and {right.shape} outcomes")
    if confidences.size and not (np.isfinite(confidences).all() and 0 <= confidences.min() <= confidences.max() <= 1):
        raise ValueError("a confidence lies outside 0..1")
    # A confidence of exactly 1 belongs to the last bin.
    bin_of = np.minimum((confidences * bins).astype(int), bins - 1)
    result = []
    for number in range(bins):
        inside = bin_of == number
        if inside.any():
            result.append(
                ReliabilityBin(
                    low=number / bins,
                    high=(number + 1) / bins,
                    confidence=float(confidences[inside].mean()),
                    accuracy=float(right[inside].mean()),
                    count=int(inside.sum()),
                )
            )
    return tuple(result)


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, *, bins: int = CALIBRATION_BINS) -> float:
    """ECE = Σ_b (n_b / n)·|accuracy_b − confidence_b| (Guo et al. 2017); NaN without data."""
    parts = reliability(confidence, correct, bins=bins)
    total = sum(part.count for part in parts)
    return ratio(sum(part.count * abs(part.accuracy - part.confidence) for part in parts), total)


def _check_same_length(truth: Sequence[str], said: Sequence[str]) -> None:
    if len(truth) != len(said):
        raise ValueError(f"{len(truth)} truths and {len(said)} answers")
