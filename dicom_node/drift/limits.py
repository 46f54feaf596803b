"""Control limits: when a week's figure is further from its baseline than chance explains. Pure functions.

Shares (finding rates, abstentions, agreement): a p-chart whose limits are those of the predictive distribution. The
baseline saw x of m; with Jeffreys' prior its rate is Beta(x + 1/2, m - x + 1/2), and the count of a week of n pairs is
beta-binomial. The limits are its quantiles at alpha / 2. Unlike the three-sigma limits of the classical p-chart
(Montgomery, Introduction to Statistical Quality Control, section 7.3) they count that the baseline is itself a sample,
and hold for small n and rare findings.

Distributions (pixel figures, view, manufacturer, certainty, change): the population stability index
PSI = sum over bins of (q - p) ln(q / p). Without a change, PSI / (1/n + 1/m) is distributed like chi-squared with
B - 1 degrees of freedom (Yurdakul and Naranjo, Statistical properties of the population stability index, Journal of
Risk Model Validation 14(4), 2020), so the limit is (1/n + 1/m) times its quantile at 1 - alpha. A week must also pass
PSI >= MATERIAL, below which nobody calls a population shifted: at a big site trifles are significant.

alpha is the chance of one figure; `share_of` divides the chance of a week by the number of figures (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.checkpoints.validation_counts import bin_counts

MATERIAL = 0.1
"""The usual rule of thumb: below it no change, above 0.25 a large one (Siddiqi, Credit Risk Scorecards, 2006)."""
LEAST_EXPECTED = 5.0
"""Bins of a distribution in which fewer are expected are merged: the approximation does not hold for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftVerdict:
    """A week's value against its limits. alarm: it lies outside [low, high]. baseline: None for a distance."""

    n: int
    value: float
    low: float
    high: float
    baseline: float | None
    alarm: bool


def share_of(false_alarms: float, figures: int) -> float:
    """The chance of a false alarm that each of so many figures may have."""
    return false_alarms / max(1, figures)


def judge_share(count: int, n: int, *, before: int, m: int, alpha: float) -> DriftVerdict:
    """`count` of `n` this week, `before` of `m` in the baseline. n, m > 0."""
    low, high = predictive_limits(n, before=before, m=m, alpha=alpha)
    return DriftVerdict(
        n=n, value=count / n, low=low / n, high=high / n, baseline=before / m, alarm=not low <= count <= high
    )


def predictive_limits(n: int, *, before: int, m: int, alpha: float) -> tuple[int, int]:
    """Least and largest count of n that is no alarm: quantiles of the beta-binomial at alpha / 2 and 1 - alpha / 2."""
    from scipy.stats import betabinom  # 70 MB and a second of start-up, for one look a week

    below = np.cumsum(betabinom.pmf(np.arange(n + 1), n, before + 0.5, m - before + 0.5))
    low = int(np.searchsorted(below, alpha / 2))
    return low, min(n, int(np.searchsorted(below, 1 - alpha / 2)))


def judge_distribution(now: Mapping[str, int], before: Mapping[str, int], *, alpha: float) -> DriftVerdict | None:
    """Counts by bin this week and in the baseline. None where there are not two bins with enough expected."""
    bins = _merge_bins(now, before)
    n, m = sum(now.values()), sum(before.values())
    if len(bins) < 2:
        return None
    psi = 0.0
    for names in bins:
        # Half a count more in each keeps an empty bin finite; it moves PSI by far less than its limit.
        q = (sum(now.get(name, 0) for name in names) + 0.5) / (n + 0.5 * len(bins))
        p = (sum(before.get(name, 0) for name in names) + 0.5) / (m + 0.5 * len(bins))
        psi += (q - p) * math.log(q / p)
    from scipy.stats import chi2  # as above

    limit = max(MATERIAL, (1 / n + 1 / m) * float(chi2.ppf(1 - alpha, len(bins) - 1)))
    return DriftVerdict(n=n, value=psi, low=0.0, high=limit, baseline=None, alarm=psi > limit)


def _merge_bins(now: Mapping[str, int], before: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Bins in which this week and the baseline together let at least LEAST_EXPECTED be expected this week."""
    n, m = sum(now.values()), sum(before.values())
    if not n or not m:
        return []
    expected = {
        name: (now.get(name, 0) + before.get(name, 0)) / (n + m) * min(n, m) for name in sorted({*now, *before})
    }
    large: list[tuple[str, ...]] = [(name,) for name, count in expected.items() if count >= LEAST_EXPECTED]
    small = tuple(name for name, count in expected.items() if count < LEAST_EXPECTED)
    if not small:
        return large
    # Small bins are pooled; where even the pool is small, it joins a large one.
    if sum(expected[name] for name in small) >= LEAST_EXPECTED or not large:
        return [*large, small]
    return [*large[:-1], (*large[-1], *small)]


def count_by_bin(values: Sequence[float], edges: Sequence[float]) -> dict[str, int]:
    """Counts by bin; a value on a border belongs to the bin above it."""
    return name_bins(bin_counts(values, edges))


def name_bins(counts: Sequence[int]) -> dict[str, int]:
    """Counts of bins in order by the bins' names."""
    return {f"bin {number}": count for number, count in enumerate(counts)}
