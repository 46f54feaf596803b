"""The marks that radiologists would make on films that only a report speaks of: the truth of calibration.

Reports under-report: radiologists marked a consolidation on four in ten of the films that they read, reports mention
one on one in twelve of these. Radiologists read only films whose report mentions a finding. So the truth of a film is
- the mark, where radiologists read the film;
- a probability, where its report mentions any finding: by the classifier's log-odds and by whether the report mentions
  this one, fitted on the films that were read, which were chosen by what their reports mention;
- absent, where its report mentions nothing: no radiologist read such a film, so nothing better is known. Where
  radiologists would mark some of these after all, beliefs are too low, never too high.
A finding with few marks keeps its mined label, as does one that radiologists were not asked about (ADR 0028).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

FEWEST_MARKS = 50
"""With fewer films on which radiologists marked a finding, its mined labels are the truth: three values are fitted."""
PENALTY = 0.5
"""Of the squared weights, on the sum of the log-losses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkOdds:
    """Log-odds that radiologists mark a finding on a film whose report mentions any: slope * the classifier's log-odds
    + mention, where the report mentions this finding, + bias."""

    slope: float
    mention: float
    bias: float

    def of(self, log_odds: NDArray[np.float64], mined: NDArray[np.float64]) -> NDArray[np.float64]:
        """log_odds [N]; mined [N]: 1, 0 or NaN where reports cannot mention the finding."""
        return self.slope * log_odds + self.mention * np.nan_to_num(mined) + self.bias


def fit_mark_odds(
    log_odds: NDArray[np.float64], mined: NDArray[np.float64], marked: NDArray[np.float64]
) -> MarkOdds | None:
    """Fit on the films that radiologists read (marked is not NaN); None with fewer than FEWEST_MARKS marks."""
    read = ~np.isnan(marked)
    if min((marked[read] > 0.0).sum(), (marked[read] == 0.0).sum()) < FEWEST_MARKS:
        return None
    truth, odds, mention = marked[read], log_odds[read], np.nan_to_num(mined[read])

    def loss(free: NDArray[np.float64]) -> float:
        values = free[0] * odds + free[1] * mention + free[2]
        # log(1 + e^v) - t·v is the cross-entropy of a share t, without overflow.
        return float((np.logaddexp(0.0, values) - truth * values).sum() + PENALTY * (free[:2] ** 2).sum())

    # Neither slope nor mention may be negative: more evidence for a finding never makes it less likely.
    slope, weight, bias = minimize(
        loss, np.zeros(3), method="L-BFGS-B", bounds=[(0.0, None), (0.0, None), (None, None)]
    ).x
    return MarkOdds(slope=float(slope), mention=float(weight), bias=float(bias))


def expected_marks(
    log_odds: NDArray[np.float64],
    mined: NDArray[np.float64],
    marked: NDArray[np.float64],
    mentions_any: NDArray[np.bool_],
    marks: MarkOdds | None,
) -> NDArray[np.float64]:
    """The truth of N films by the rules above: a probability, NaN where nothing is known."""
    if marks is None:
        return np.where(np.isnan(marked), mined, marked)
    probable = 1.0 / (1.0 + np.exp(-marks.of(log_odds, mined)))
    unread = np.where(mentions_any, probable, mined)
    return np.where(np.isnan(marked), unread, marked)


def expected_pairs(
    shares: NDArray[np.float64], prior: Sequence[float | None], current: Sequence[float | None]
) -> NDArray[np.float64]:
    """Shares [P, 4] of neither, the current film alone, the prior alone, and both, given what is known of either film.

    prior, current: 1 or 0 where it is known, None where only `shares` tell.
    """
    kept = shares.copy()
    for row, (before, after) in enumerate(zip(prior, current, strict=True)):
        if before is not None:
            # Neither, current alone, prior alone, both: what is known of a film rules two of them out.
            kept[row, [0, 1] if before else [2, 3]] = 0.0
        if after is not None:
            kept[row, [0, 2] if after else [1, 3]] = 0.0
    total: NDArray[np.float64] = kept / kept.sum(axis=1, keepdims=True)
    return total
