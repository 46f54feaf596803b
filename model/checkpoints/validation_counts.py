"""A checkpoint's answers on the validation set that it was calibrated on, as counts: the baseline that it brings along.

Nothing here says whether it was right. The counts are of pairs, because the findings of one pair are not independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

from model.ontology import ontology
from model.schema import Change

Count = Annotated[StrictInt, Field(ge=0)]
BINS = 5
"""Of a continuous figure, by the baseline's quantiles."""
BETTER = frozenset({Change.IMPROVING.value, Change.RESOLVED.value})
WORSE = frozenset({Change.NEW.value, Change.WORSENING.value})
PAIR_CHANGES = ("both", "worse", "better", "stable", "nothing stated")
"""The values of `pair_change`."""


class ValidationSet(BaseModel):
    """The answers to the validation pairs, read as the checkpoint's manifest says.

    pairs: how many; with_prior: so many of them with a prior. present: finding → pairs in which it was stated present;
    each finding of the checkpoint stands here, and each was asked of each pair. abstained: pairs with a finding on
    which the checkpoint abstained. changes: kind → statements on change, all findings together. pair_changes: what the
    changes of a pair with a prior say as a whole. certainty_edges: inner borders of the bins of a pair's certainty
    (`pair_certainty`), quantiles of this very set; certainty: pairs by bin, one more than borders; a value on a border
    belongs to the bin above it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: Annotated[StrictInt, Field(ge=1)]
    with_prior: Count
    present: Annotated[Mapping[str, Count], Field(min_length=1)]
    abstained: Count
    changes: Mapping[str, Count]
    pair_changes: Mapping[str, Count]
    certainty_edges: tuple[float, ...]
    certainty: tuple[Count, ...]

    @model_validator(mode="after")
    def _counts_fit(self) -> ValidationSet:
        if max(self.with_prior, self.abstained, *self.present.values()) > self.pairs:
            raise ValueError(f"more than all of {self.pairs} pairs are counted")
        if unknown := sorted(set(self.present) - set(ontology().findings)):
            raise ValueError(f"findings {unknown} are not in the ontology")
        if unknown := sorted(set(self.changes) - {change.value for change in Change}):
            raise ValueError(f"{unknown} are no changes")
        if unknown := sorted(set(self.pair_changes) - set(PAIR_CHANGES)):
            raise ValueError(f"{unknown} are not among {PAIR_CHANGES}")
        if sum(self.pair_changes.values()) != self.with_prior:
            raise ValueError("the changes of pairs do not add up to the pairs with a prior")
        # n borders part the range in n + 1 bins.
        if len(self.certainty) != len(self.certainty_edges) + 1 or sum(self.certainty) != self.pairs:
            raise ValueError("the bins of certainty do not hold each pair once")
        edges = self.certainty_edges
        if list(edges) != sorted(set(edges)) or any(not 0.0 <= edge <= 1.0 for edge in edges):
            raise ValueError("the borders of the bins of certainty are not ascending numbers between 0 and 1")
        return self


def pair_certainty(probabilities: Sequence[float]) -> float:
    """Mean of |2p - 1| over the findings of a pair; at least one."""
    return sum(abs(2.0 * p - 1.0) for p in probabilities) / len(probabilities)


def pair_change(changes: Iterable[str | None]) -> str:
    """The summary of a pair's changes, a word of `PAIR_CHANGES`."""
    states = {str(change) for change in changes if change is not None}
    better, worse = bool(states & BETTER), bool(states & WORSE)
    if better and worse:
        return "both"
    return "worse" if worse else "better" if better else "stable" if Change.STABLE.value in states else "nothing stated"


def edges_of(values: Sequence[float], bins: int = BINS) -> list[float]:
    """Inner borders of bins that hold equally many of the baseline's values; equal ones are one border."""
    import numpy as np

    cuts = np.quantile(np.asarray(values, dtype=np.float64), np.linspace(0, 1, bins + 1)[1:-1])
    return sorted({float(cut) for cut in cuts})


def bin_counts(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """The number of values in each bin, one more than borders; a value on a border belongs to the bin above it."""
    import numpy as np

    places = np.searchsorted(np.asarray(edges), np.asarray(values, dtype=np.float64), side="right")
    return [int(count) for count in np.bincount(places, minlength=len(edges) + 1)]
