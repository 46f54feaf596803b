"""Making probabilities honest: temperatures, the joint reading, thresholds and the certainty floor.

Pure functions of validation scores. `training` fits after training and writes the values into the manifest;
`model.predict` applies them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from model.finding_states import POOLED, STATES, FindingAnswers, JointWeights, evidence

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
JOINT_PENALTY = 1e-3
"""Of the squared biases of `fit_joint`: a state that validation never saw gets no endless bias."""
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class ThresholdObjective(StrEnum):
    """The aim for which a threshold is chosen."""

    YOUDEN = "youden"
    """Greatest sensitivity + specificity - 1."""
    F1 = "f1"
    """Greatest harmonic mean of precision and recall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A cut on a probability and what it gives on the set it was chosen on: present where probability >= value."""

    value: float
    sensitivity: float
    specificity: float
    precision: float
    positives: int
    negatives: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """A certainty below which no statement is made, and what remains: share of answers kept, accuracy among them."""

    value: float
    coverage: float
    accuracy: float


def apply_temperature(scores: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """softmax(scores / temperature) over the last axis; scores are logits or (unnormalised) log-probabilities.

    The best answer stays the best. Raises ValueError for a temperature that is not positive and finite.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"a temperature is positive, got {temperature}")
    values = np.asarray(scores, dtype=np.float64) / temperature
    best = values.max(axis=-1, keepdims=True)
    powers = np.exp(values - np.where(np.isfinite(best), best, 0.0))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def negative_log_likelihood(scores: Sequence[ArrayLike], truths: Sequence[int], temperature: float) -> float:
    """Mean of -log softmax(scores_i / temperature)[truth_i]."""
    total = 0.0
    for row, truth in zip(scores, truths, strict=True):
        values = np.asarray(row, dtype=np.float64) / temperature
        best = float(values.max())
        total += best + math.log(float(np.exp(values - best).sum())) - float(values[truth])
    return total / max(len(truths), 1)


def fit_temperature(scores: Sequence[ArrayLike], truths: Sequence[int]) -> float:
    """The temperature of least negative log-likelihood on a validation set (Guo et al. 2017, "temperature scaling").

    scores: for each question the scores of its allowed answers, as many as it has; truths: index of the right one.
    The likelihood has one minimum in 1 / T, so a golden-section search over log T finds it; the result is kept within
    MIN_TEMPERATURE..MAX_TEMPERATURE, where it ends up for sets that are all right or carry nothing.
    1.0 for an empty set.
    """
    if not len(truths):
        return 1.0
    rows = _pad(scores)
    index = np.asarray(truths, dtype=np.int64)

    def loss(log_temperature: float) -> float:
        values = rows / math.exp(log_temperature)
        best = values.max(axis=1)
        normaliser = best + np.log(np.exp(values - best[:, None]).sum(axis=1))
        return float((normaliser - values[np.arange(len(index)), index]).mean())

    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    # Each turn keeps one of the two probes for the next one, so it costs one evaluation of the loss.
    while high - low > 1e-5:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2)


def fit_joint(samples: Sequence[tuple[FindingAnswers, str]]) -> JointWeights:
    """The weights of `JointWeights` of least loss on a validation set; the defaults for an empty one.

    samples: the calibrated answers on one finding of one pair with a prior, and its true state (a key of
    `STATES`). loss = mean of -log p(true state) + JOINT_PENALTY * sum of squared biases, weights not negative:
    a multinomial logistic regression with three shared slopes and five intercepts ("none" has 0). It is convex, so the
    minimum found is the one there is. Raises ValueError for a state that its change question does not allow.
    """
    if not samples:
        return JointWeights()
    names = tuple(STATES)
    table, allowed, truths = _evidence_table(samples, names)
    free, rows = len(names) - 1, np.arange(len(samples))

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        # The last state ("none") is the reference with bias 0: without one, all biases could rise together and change
        # nothing.
        slopes, biases = values[: len(POOLED)], np.append(values[len(POOLED) :], 0.0)
        scores = np.where(allowed, table @ slopes + biases, -np.inf)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        # The gradient of the mean of -log p(truth) by a score is its share minus one at the truth.
        surplus = shares.copy()
        surplus[rows, truths] -= 1.0
        by_slope = np.einsum("ns,nsk->k", surplus, table) / len(truths)
        by_bias = surplus.mean(axis=0)[:free] + 2 * JOINT_PENALTY * biases[:free]
        value = float(-np.log(np.maximum(shares[rows, truths], 1e-300)).mean() + JOINT_PENALTY * (biases**2).sum())
        return value, np.concatenate([by_slope, by_bias])

    start = np.array([1.0] * len(POOLED) + [0.0] * free)
    bounds = [(0.0, None)] * len(POOLED) + [(None, None)] * free
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    slopes = dict(zip(POOLED, (float(value) for value in fitted), strict=False))
    bias = dict(zip(names, (float(value) for value in fitted[len(POOLED) :]), strict=False))
    return JointWeights(**slopes, bias=bias)


def _evidence_table(
    samples: Sequence[tuple[FindingAnswers, str]], names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Log-probabilities [N, states, answers], 0 where a state is not allowed; allowed [N, states]; true state [N]."""
    table = np.zeros((len(samples), len(names), len(POOLED)))
    allowed = np.zeros(table.shape[:2], dtype=bool)
    for number, (answers, truth) in enumerate(samples):
        known = evidence(answers)
        if truth not in known:
            raise ValueError(f"the true state {truth!r} is none of the allowed {sorted(known)}")
        for column, name in enumerate(names):
            if name in known:
                allowed[number, column] = True
                table[number, column] = [known[name].get(answer, 0.0) for answer in POOLED]
    return table, allowed, np.array([list(names).index(truth) for _, truth in samples], dtype=np.int64)


def choose_threshold(
    probabilities: ArrayLike,
    present: ArrayLike,
    objective: ThresholdObjective = ThresholdObjective.YOUDEN,
    *,
    slack: float = 0.0,
) -> Threshold:
    """The cut that serves the objective best on a validation set; halfway between the two neighbouring probabilities.

    Cuts whose objective lies within `slack` of the best count as equal: on few positives the difference is chance.
    Among equal ones the one nearest to 0.5, which is right for calibrated probabilities. Raises ValueError unless both
    classes occur: there is nothing to choose on.
    """
    values, truth = _pair(probabilities, present)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        raise ValueError(f"a threshold needs both classes, got {positives} present and {negatives} absent")
    # A cut between two neighbouring values is one of a kind: any other between them decides every case alike.
    levels = np.unique(values)
    cuts = [float(levels[0]), *((levels[:-1] + levels[1:]) / 2).tolist()]
    options = [_at(values, truth, cut, positives, negatives) for cut in cuts]
    # Rounding must not shut the best one out.
    enough = max(_worth(option, objective) for option in options) - slack - 1e-12
    return min(
        (option for option in options if _worth(option, objective) >= enough),
        key=lambda option: abs(option.value - 0.5),
    )


def choose_floor(
    confidences: ArrayLike, correct: ArrayLike, target_accuracy: float, *, least_coverage: float = 0.0
) -> Floor:
    """The lowest certainty from which on the answers are right at least as often as wanted (selective accuracy).

    For a floor t: coverage(t) = share of answers with confidence >= t, accuracy(t) = share of right ones among them.
    Given is the smallest t with accuracy(t) >= target_accuracy and coverage(t) >= least_coverage. Where no floor has
    both, the one of greatest accuracy among those of enough coverage: the caller sees `accuracy` and decides.
    Raises ValueError for an empty set.
    """
    sure, right = _pair(confidences, correct)
    if not sure.size:
        raise ValueError("a certainty floor needs answers to be chosen on")
    if not 0.0 <= least_coverage <= 1.0:
        raise ValueError(f"a coverage lies in 0..1, got {least_coverage}")
    # From the surest answer down: `running` is the accuracy of all answers that a floor at this place would keep.
    order = np.argsort(-sure, kind="stable")
    running = np.cumsum(right[order]) / np.arange(1, sure.size + 1)
    last = np.append(np.diff(sure[order]) != 0, True)  # a floor cannot part equal certainties
    kept = np.flatnonzero(last)
    kept = kept[(kept + 1) / sure.size >= least_coverage - 1e-12]
    enough = kept[running[kept] >= target_accuracy]
    chosen = int(enough[-1]) if enough.size else int(kept[np.argmax(running[kept])])
    return Floor(value=float(sure[order][chosen]), coverage=(chosen + 1) / sure.size, accuracy=float(running[chosen]))


def _pad(scores: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """[N, K]: rows with fewer answers are filled with -inf, which takes no part in a softmax."""
    rows = [np.asarray(answer_scores, dtype=np.float64) for answer_scores in scores]
    out = np.full((len(rows), max(row.size for row in rows)), -np.inf)
    for number, row in enumerate(rows):
        out[number, : row.size] = row
    return out


def _pair(values: ArrayLike, flags: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    numbers, truth = np.asarray(values, dtype=np.float64).ravel(), np.asarray(flags, dtype=bool).ravel()
    if numbers.shape != truth.shape:
        raise ValueError(f"{numbers.size} values and {truth.size} flags")
    if numbers.size and not (np.isfinite(numbers).all() and numbers.min() >= 0.0 and numbers.max() <= 1.0):
        raise ValueError("probabilities lie in 0..1")
    return numbers, truth


def _at(values: NDArray[Any], truth: NDArray[np.bool_], cut: float, positives: int, negatives: int) -> Threshold:
    positive = values >= cut
    hits, false = int((positive & truth).sum()), int((positive & ~truth).sum())
    return Threshold(
        value=cut,
        sensitivity=hits / positives,
        specificity=1.0 - false / negatives,
        precision=hits / (hits + false) if hits + false else 0.0,
        positives=positives,
        negatives=negatives,
    )


def _worth(option: Threshold, objective: ThresholdObjective) -> float:
    if objective is ThresholdObjective.YOUDEN:
        return option.sensitivity + option.specificity - 1.0
    both = option.precision + option.sensitivity
    return 2.0 * option.precision * option.sensitivity / both if both else 0.0
