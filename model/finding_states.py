"""From scored answers to findings: one belief over the six states of a finding, then thresholds and a certainty floor.

Pure functions. With a prior, only six states of a finding make sense: (prior, current, change) = (no, yes, new),
(yes, no, resolved), (no, no, none) and (yes, yes, worsening | stable | improving). Three questions speak of them: is it
there now, was it there before, how did it change. The rules:

1. The belief in a state is a weighted product of the three answers' calibrated probabilities times a factor of the
   state (a logarithmic opinion pool; Genest and Zidek 1986): p(s) ~ presence^a * prior^b * change^c * exp(d_s). The
   weights are fitted on validation pairs (`fit_joint` of training) and stand in the manifest; three answers of one
   model are no three witnesses, and their plain product is far too sure of itself.
2. The probability that a finding is there is the sum over the states in which it is. It is present where that reaches
   the threshold. Without a prior, it is the presence answer alone.
3. The change is the likeliest state that agrees with rule 2, so "resolved" is never said of what is called present, nor
   "new" of what is called absent. Its probability is that state's belief. Below the floor: "not comparable".
4. Absent on both images: no change is stated, nothing is there that could change.
5. A presence whose certainty lies below the floor is "abstained", and its change then "not comparable". To compare
   certainties on one scale the probability is shifted in log-odds by the threshold, so that the cut lies at 0.5.
6. An answer that finds its possibilities exactly equal says nothing (half precision does that, and a server that lists
   none of them): of two likeliest ones neither is stated, and a presence of which nobody says anything is "abstained".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from model.schema import Change, Finding, Presence

NONE = "none"
"""The change answer for a finding that is on neither image."""
STATES: Mapping[str, tuple[bool, bool]] = {
    "new": (False, True),
    "worsening": (True, True),
    "stable": (True, True),
    "improving": (True, True),
    "resolved": (True, False),
    NONE: (False, False),
}
"""Answer to the change question → is the finding on the prior, is it on the current image."""
POOLED = ("presence", "prior_presence", "change")
"""The answers that `JointWeights` weighs."""
_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingAnswers:
    """The calibrated answers on one finding; None where a question was not asked.

    presence, prior_presence: probability of "yes". change, side, grade: probability of each allowed answer.
    """

    presence: float
    prior_presence: float | None = None
    change: Mapping[str, float] | None = None
    side: Mapping[str, float] | None = None
    grade: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JointWeights:
    """The weights by which the three answers are combined (rule 1). The defaults are the plain product, for what was
    never fitted.

    presence, prior_presence, change: weight of each answer's log-probability, not negative. bias: d_s of states, 0
    where not named.
    """

    presence: float = 1.0
    prior_presence: float = 1.0
    change: float = 1.0
    bias: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_values(cls, values: Mapping[str, float]) -> JointWeights:
        """From the flat values of a manifest. Raises ValueError naming what does not belong."""
        unknown = sorted(set(values) - set(POOLED) - set(STATES))
        if unknown:
            raise ValueError(f"{unknown} are neither pooled answers ({POOLED}) nor states ({tuple(STATES)})")
        # NaN would pass every comparison below.
        if not all(math.isfinite(value) for value in values.values()):
            raise ValueError("weights and biases are finite")
        weights = {name: float(values[name]) for name in POOLED if name in values}
        if any(value < 0 for value in weights.values()):
            raise ValueError("a negative weight would turn an answer into its opposite")
        return cls(**weights, bias={name: float(values[name]) for name in STATES if name in values})

    def values(self) -> dict[str, float]:
        """The flat values for a manifest."""
        return {**{name: getattr(self, name) for name in POOLED}, **self.bias}


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """The belief in one finding. presence, prior_presence: probability that it is on the image (prior: None where
    nobody asked about it). states: probability of each state, None without a prior or where only presence was asked.
    """

    presence: float
    prior_presence: float | None = None
    states: Mapping[str, float] | None = None


def believe(answers: FindingAnswers, weights: JointWeights, *, with_prior: bool) -> Belief:
    """Rules 1 and 2 without the threshold."""
    if not with_prior or (answers.prior_presence is None and answers.change is None):
        return Belief(presence=answers.presence, prior_presence=answers.prior_presence if with_prior else None)
    # Weighted sums of logs are a log-linear pool (a product of experts): an answer that excludes a state pulls it down
    # whatever the others say, and `_TINY` bounds how far.
    scores = {
        name: weights.bias.get(name, 0.0) + sum(getattr(weights, answer) * value for answer, value in terms.items())
        for name, terms in evidence(answers).items()
    }
    best = max(scores.values())  # subtracted, so that exp neither overflows nor gives zeros only
    powers = {name: math.exp(score - best) for name, score in scores.items()}
    total = sum(powers.values())
    states = {name: power / total for name, power in powers.items()}
    prior = sum(share for name, share in states.items() if STATES[name][0])
    return Belief(
        # Sums of shares may exceed one by a rounding error.
        presence=min(sum(share for name, share in states.items() if STATES[name][1]), 1.0),
        prior_presence=min(prior, 1.0) if answers.prior_presence is not None else None,
        states=states,
    )


def evidence(answers: FindingAnswers) -> dict[str, dict[str, float]]:
    """State → log-probability that each of `POOLED` gives it; an answer that was not asked gives none.

    States that the change question does not allow (degrees of what has none) are left out. Where nobody asked how it
    changed, the three states on both images share what the other answers leave them.
    """
    terms_by_question: dict[str, dict[str, float]] = {}
    for name, (before, after) in STATES.items():
        if answers.change is not None and name not in answers.change:
            continue
        terms = {"presence": _log(answers.presence if after else 1.0 - answers.presence)}
        if answers.prior_presence is not None:
            terms["prior_presence"] = _log(answers.prior_presence if before else 1.0 - answers.prior_presence)
        if answers.change is not None:
            terms["change"] = _log(answers.change[name])
        else:
            # Shared evenly by the three states on both images, so that together they weigh as much as one.
            terms["change"] = -math.log(3.0) if before and after else 0.0
        terms_by_question[name] = terms
    return terms_by_question


def shift_probability(probability: float, threshold: float) -> float:
    """The probability moved in log-odds so that `threshold` comes to 0.5."""
    return 1.0 / (1.0 + math.exp(_logit(threshold) - _logit(probability)))


def read_finding(
    key: str,
    answers: FindingAnswers,
    *,
    threshold: float,
    floor: float,
    with_prior: bool,
    weights: JointWeights | None = None,
) -> Finding:
    """The structured statement on one finding by the rules above."""
    belief = believe(answers, weights or JointWeights(), with_prior=with_prior)
    # Certainty is counted from the threshold, not from one half.
    current = shift_probability(belief.presence, threshold)
    present = belief.presence >= threshold
    presence = Presence.PRESENT if present else Presence.ABSENT
    # Exactly one half: the model was not asked, or said nothing.
    silent = answers.presence == 0.5 and answers.change is None
    if silent or max(current, 1.0 - current) < floor:
        presence = Presence.ABSTAINED
    change, certainty = _change(belief, answers, present, floor)
    if presence is Presence.ABSTAINED and belief.states is not None:
        change, certainty = Change.NOT_COMPARABLE, None
    stated = presence is Presence.PRESENT
    return Finding(
        key=key,
        presence=presence,
        probability=belief.presence,
        prior_probability=belief.prior_presence,
        change=change,
        change_probability=certainty,
        location=_best(answers.side, floor) if stated else None,
        level=_best(answers.grade, floor) if stated else None,
        threshold=threshold,
    )


def _change(belief: Belief, answers: FindingAnswers, present: bool, floor: float) -> tuple[Change | None, float | None]:
    """Rules 3 and 4: the change and its probability."""
    if belief.states is None:
        return None, None
    # Only states that fit the stated presence: a report must not say "absent" and "larger" of one finding.
    fitting = {name: share for name, share in belief.states.items() if STATES[name][1] == present}
    best = likeliest(fitting)
    if best == NONE:
        return None, None
    # Both images show it but nobody asked how it changed: three equal states, nothing can be said.
    if best is None or fitting[best] < floor or (answers.change is None and STATES[best] == (True, True)):
        return Change.NOT_COMPARABLE, None
    return Change(best), fitting[best]


def _best(probabilities: Mapping[str, float] | None, floor: float) -> str | None:
    if not probabilities:
        return None
    word = likeliest(probabilities)
    return word if word is not None and probabilities[word] >= floor else None


def likeliest(shares: Mapping[str, float]) -> str | None:
    """The name with the greatest share; None where two have it (rule 6)."""
    most = max(shares.values())
    names = [name for name, share in shares.items() if share == most]
    return names[0] if len(names) == 1 else None


def says_something(shares: Mapping[str, float]) -> bool:
    """Tell whether not all shares are equal."""
    return len(shares) < 2 or max(shares.values()) > min(shares.values())


def _log(probability: float) -> float:
    return math.log(max(probability, _TINY))


def _logit(probability: float) -> float:
    clipped = min(max(probability, _TINY), 1.0 - _TINY)
    return math.log(clipped / (1.0 - clipped))
