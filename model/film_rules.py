"""Rules from a film classifier's outputs to findings on films of people: pure functions of values of the manifest.

A checkpoint that was trained on phantoms knows little of people; its film classifier, trained on films of people, reads
those. The rules for one finding:

1. The log-odds that it is on one film are a weighted sum of the classifier's two outputs: what reports mention, and
   what radiologists mark.
2. With a prior, one belief over the six states of `model.finding_states`. Log-scores: 0 for neither film, slope *
   l(film) + alone for one film (± contrast * difference), slope * (l(prior) + l(current)) + both for both films.
   What is on both films is worsening, stable or improving by a logistic curve over the difference of the two amounts.
   Swapping the films swaps the states exactly, by construction.
3. It is present on a film where the belief reaches the finding's threshold, for both films alike; the change then
   follows from the two, and on both films it is worsening or improving where the amounts differ by the finding's cut.
   So the statement on the swapped pair is the inverse one, and the same film twice is stable or has nothing.
4. A finding that is not `stated` gets no statement on films of people, on presence or change: it abstains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from model.finding_states import NONE, STATES, Belief, shift_probability
from model.schema import Change, Finding, Presence

MAX_LOG_ODDS = 12.0
"""Of one film: nothing is surer than this."""


class Figure(BaseModel):
    """One measured value with its 95 % interval by patient, and how many positives it rests on. on: data and labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float
    positives: int = Field(ge=0)
    on: str


class FilmRule(BaseModel):
    """The rule for one finding: how it is read, and what allows it.

    mined, marked: weights of the log-odds of what reports mention and of what radiologists mark; bias is added. slope,
    alone, both, contrast: of the belief over a pair (rule 2).
    degree_bias: log-odds of worsening against stable at no difference; degree_slope: by which a difference of amounts
    of one raises them; degree_cut: difference from which on a degree other than stable is stated. stated: statements
    on films of people are allowed; change_stated: also of change. deny_below: belief below which "not seen" may be said
    (`Finding.deny_below`). measured: what decided that. localised: share of
    radiologists' marks in which the map's peak lay; None: no regions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mined: float = Field(default=0.0, ge=0.0)
    marked: float = Field(default=0.0, ge=0.0)
    bias: float = 0.0
    slope: float = Field(default=1.0, ge=0.0)
    alone: float = 0.0
    both: float = 0.0
    contrast: float = Field(default=0.0, ge=0.0)
    degree_bias: float = -1.0
    degree_slope: float = Field(default=0.0, ge=0.0)
    degree_cut: float = Field(default=0.3, gt=0.0)
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    stated: bool = False
    change_stated: bool = False
    deny_below: float | None = Field(default=None, ge=0.0, le=1.0)
    measured: Mapping[str, Figure] = Field(default_factory=dict)
    localised: float | None = Field(default=None, ge=0.0, le=1.0)


class FilmReading(BaseModel):
    """The rules of every finding that the film classifier reads. others: findings of the checkpoint that have no rule
    are read as "abstained" on films of people. learned_on: training films, in words. backbone: origin and licence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    findings: Mapping[str, FilmRule]
    learned_on: str = ""
    backbone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmScores:
    """The classifier's outputs for one finding on one film: log-odds, the amount (None where it has no such output),
    and "left", "right" or "bilateral" by its map (None where it has none)."""

    mined: float | None = None
    marked: float | None = None
    amount: float | None = None
    side: str | None = None


def film_log_odds(scores: FilmScores, rule: FilmRule) -> float:
    """Rule 1."""
    weighted = ((rule.mined, scores.mined), (rule.marked, scores.marked))
    total = rule.bias + sum(weight * value for weight, value in weighted if value is not None)
    return min(max(total, -MAX_LOG_ODDS), MAX_LOG_ODDS)


def pair_states(prior: float, current: float, difference: float, rule: FilmRule) -> dict[str, float]:
    """Rule 2: state → probability, of two films' log-odds and current minus prior amount."""
    degrees = {
        "worsening": rule.degree_bias + rule.degree_slope * difference,
        "stable": 0.0,
        "improving": rule.degree_bias - rule.degree_slope * difference,
    }
    # The three degrees share what "on both films" has: they part it among themselves and add nothing to it.
    normal = _log_sum(degrees.values())
    on_both = rule.slope * (prior + current) + rule.both
    scores = {
        "new": rule.slope * current + rule.alone + rule.contrast * difference,
        **{name: on_both + value - normal for name, value in degrees.items()},
        "resolved": rule.slope * prior + rule.alone - rule.contrast * difference,
        NONE: 0.0,
    }
    # A softmax in the log domain, the state "none" as its zero.
    total = _log_sum(scores.values())
    return {name: math.exp(scores[name] - total) for name in STATES}


def believe_films(current: FilmScores, prior: FilmScores | None, rule: FilmRule) -> Belief:
    """Derive the belief in one finding from one film or two."""
    now = film_log_odds(current, rule)
    if prior is None:
        return Belief(presence=1.0 / (1.0 + math.exp(-now)))
    states = pair_states(film_log_odds(prior, rule), now, difference_of(prior, current), rule)
    # Exact sums: added in another order, the same film twice could lie on both sides of its threshold.
    return Belief(
        presence=min(math.fsum(share for name, share in states.items() if STATES[name][1]), 1.0),
        prior_presence=min(math.fsum(share for name, share in states.items() if STATES[name][0]), 1.0),
        states=states,
    )


def difference_of(prior: FilmScores, current: FilmScores) -> float:
    """Current minus prior amount; 0 where the classifier gives none."""
    return current.amount - prior.amount if current.amount is not None and prior.amount is not None else 0.0


def read_film_finding(
    key: str, current: FilmScores, prior: FilmScores | None, rule: FilmRule | None, *, floor: float
) -> Finding:
    """Rules 3 and 4. floor: least certainty of a stated presence, as in `model.finding_states`."""
    if rule is None:
        return Finding(key=key, presence=Presence.ABSTAINED, probability=0.5)
    belief = believe_films(current, prior, rule)
    present = belief.presence >= rule.threshold
    # Moved so that the threshold lies at one half: certainty is counted from there.
    sure = shift_probability(belief.presence, rule.threshold)
    silent = not rule.stated or max(sure, 1.0 - sure) < floor
    difference = difference_of(prior, current) if prior is not None else 0.0
    change, certainty = _film_change(belief, rule, present, difference)
    if silent:
        change, certainty = None, None
    elif change is not None and not rule.change_stated:
        change, certainty = Change.NOT_COMPARABLE, None
    return Finding(
        key=key,
        presence=Presence.ABSTAINED if silent else Presence.PRESENT if present else Presence.ABSENT,
        probability=belief.presence,
        prior_probability=belief.prior_presence,
        change=change,
        change_probability=certainty,
        location=current.side if present and not silent else None,
        deny_below=rule.deny_below,
    )


def _film_change(
    belief: Belief, rule: FilmRule, present: bool, difference: float
) -> tuple[Change | None, float | None]:
    """The change by rule 3, and the belief in it."""
    if belief.states is None or belief.prior_presence is None:
        return None, None
    before = belief.prior_presence >= rule.threshold
    if not (before or present):
        return None, None
    change = Change.NEW if not before else Change.RESOLVED if not present else Change.STABLE
    # Both films have it: only the difference of amounts can tell the degree.
    if before and present and abs(difference) >= rule.degree_cut:
        change = Change.WORSENING if difference > 0.0 else Change.IMPROVING
    return change, belief.states[change.value]


def _log_sum(values: Iterable[float]) -> float:
    numbers = list(values)
    greatest = max(numbers)
    return greatest + math.log(sum(math.exp(value - greatest) for value in numbers))
