"""Significance of differences: paired Wilcoxon on run-averaged scores, bootstrap clustered by patient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEW_PATIENTS = 6
"""Of so many patients there are at most 462 different resamples: each is measured once, however often it is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its 95 % bootstrap interval. resamples: how many gave a finite value (a class may be missing)."""

    value: float
    low: float
    high: float
    resamples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two systems on the same questions. difference: mean of (second − first); n: questions; p: two-sided."""

    first: float
    second: float
    difference: float
    p: float
    n: int


def average_runs(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean score of each question over the runs (seeds) of one system.

    Averaging first keeps the questions as the unit: three seeds of one question are not three independent samples.
    Raises ValueError where the runs did not answer the same questions.
    """
    if not runs:
        raise ValueError("no run to average")
    keys = set(runs[0])
    for number, run in enumerate(runs):
        if set(run) != keys:
            raise ValueError(f"run {number} answered other questions than run 0: {len(keys ^ set(run))} differ")
    return {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}


def compare(first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]) -> Comparison:
    """Two-sided Wilcoxon signed-rank test on the paired run averages of two systems (zero differences dropped).

    p is 1 where all differences are zero. Raises ValueError where the two did not answer the same questions.
    """
    a, b = average_runs(first), average_runs(second)
    if set(a) != set(b):
        raise ValueError(f"the systems answered different questions: {len(set(a) ^ set(b))} differ")
    if not a:
        raise ValueError("no question to compare on")
    from scipy.stats import wilcoxon  # 70 MB and a second of start-up, which the intervals below do without

    values = np.array([(a[key], b[key]) for key in a])
    difference = values[:, 1] - values[:, 0]
    p = float(wilcoxon(difference, zero_method="wilcox").pvalue) if np.any(difference != 0) else 1.0
    means = values.mean(axis=0)
    return Comparison(
        first=float(means[0]), second=float(means[1]), difference=float(difference.mean()), p=p, n=len(difference)
    )


def bootstrap_one_by_patient(
    patients: Sequence[str],
    metric: Callable[[NDArray[np.intp]], float],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """`bootstrap_by_patient` for a single figure."""
    return bootstrap_by_patient(patients, lambda rows: {"": metric(rows)}, resamples=resamples, seed=seed)[""]


def bootstrap_by_patient(
    patients: Sequence[str],
    metrics: Callable[[NDArray[np.intp]], Mapping[str, float]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """95 % percentile intervals of several figures when patients, not rows, are drawn with replacement.

    patients: the patient of each row. metrics: takes row indices (with repetition, in an order that means nothing to
    it) and may give NaN for a resample that lacks a class; such resamples are left out of that figure, and its
    `resamples` shows how many counted.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, patient in enumerate(patients):
        rows_of[patient].append(row)
    groups = [np.asarray(rows, dtype=np.intp) for rows in rows_of.values()]
    values = metrics(np.arange(len(patients), dtype=np.intp))
    resampled: dict[str, list[float]] = {name: [] for name in values}
    rng = np.random.default_rng(seed)
    measured: dict[tuple[int, ...], Mapping[str, float]] = {}
    for _ in range(resamples if groups else 0):
        drawn = rng.integers(0, len(groups), len(groups))
        # The figure does not depend on the order, so with few patients the same draw comes again and is measured once.
        key = tuple(sorted(drawn.tolist())) if len(groups) <= FEW_PATIENTS else ()
        scores = measured.get(key) or metrics(np.concatenate([groups[number] for number in drawn]))
        if key:
            measured[key] = scores
        for name, score in scores.items():
            # A resample may lack a class; a figure that is not defined there is left out, not taken as 0.
            if np.isfinite(score):
                resampled[name].append(score)
    return {name: _interval(float(value), resampled[name]) for name, value in values.items()}


def _interval(value: float, scores: Sequence[float]) -> Interval:
    if not scores:
        return Interval(value=value, low=float("nan"), high=float("nan"), resamples=0)
    low, high = np.percentile(scores, [2.5, 97.5])
    return Interval(value=value, low=float(low), high=float(high), resamples=len(scores))
