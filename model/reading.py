"""From scored answers to findings: thresholds, certainty floor, and the rules that keep presence and change consistent.

Pure functions. The rules, for one finding with a prior:

1. Presence follows its own question alone: present where its calibrated probability reaches the threshold. To compare
   certainties on one scale the probability is shifted in log-odds by the threshold, so that the cut lies at 0.5.
2. Only six states make sense: (prior, current, change) = (no, yes, new), (yes, no, resolved), (no, no, none) and
   (yes, yes, worsening | stable | improving). Each is worth the product of the three questions' probabilities, so the
   pair of answers with the highest joint probability wins; "new" beside a prior that shows the finding cannot be said.
3. Where the best of the six contradicts rule 1, the answers contradict each other: the change is "not comparable".
4. The stated change carries the calibrated probability of the change question. Below the floor: "not comparable".
5. Absent on both images: no change is stated, nothing is there that could change.
6. A presence whose certainty lies below the floor is "abstained", and its change then "not comparable".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from model.schema import Change, Finding, Presence

NONE = "none"
"""The change answer for a finding that is on neither image."""
_STATES: Mapping[str, tuple[bool, bool]] = {
    "new": (False, True),
    "resolved": (True, False),
    NONE: (False, False),
    "worsening": (True, True),
    "stable": (True, True),
    "improving": (True, True),
}
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


def shifted(probability: float, threshold: float) -> float:
    """The probability moved in log-odds so that `threshold` comes to 0.5."""
    return 1.0 / (1.0 + math.exp(_logit(threshold) - _logit(probability)))


def read_finding(key: str, answers: FindingAnswers, *, threshold: float, floor: float, with_prior: bool) -> Finding:
    """The structured statement on one finding by the rules above."""
    current = shifted(answers.presence, threshold)
    present = answers.presence >= threshold
    presence = Presence.PRESENT if present else Presence.ABSENT
    if max(current, 1.0 - current) < floor:
        presence = Presence.ABSTAINED
    change, certainty = None, None
    if with_prior:
        change, certainty = _change(answers, current, present, threshold=threshold, floor=floor)
        if presence is Presence.ABSTAINED:
            change = Change.NOT_COMPARABLE
    stated = presence is Presence.PRESENT
    return Finding(
        key=key,
        presence=presence,
        probability=answers.presence,
        prior_probability=answers.prior_presence,
        change=change,
        change_probability=certainty if change is not None else None,
        location=_best(answers.side, floor) if stated else None,
        level=_best(answers.grade, floor) if stated else None,
    )


def _change(
    answers: FindingAnswers, current: float, present: bool, *, threshold: float, floor: float
) -> tuple[Change | None, float | None]:
    """Rules 2 to 5: the change and its probability."""
    if answers.prior_presence is None and answers.change is None:
        return None, None
    prior = 0.5 if answers.prior_presence is None else shifted(answers.prior_presence, threshold)
    worth = {
        name: (prior if before else 1.0 - prior) * (current if after else 1.0 - current) * _share(answers, name)
        for name, (before, after) in _STATES.items()
    }
    best = max(worth, key=lambda name: worth[name])
    total = sum(worth.values())
    probability = worth[best] / max(total, _TINY) if answers.change is None else answers.change[best]
    if _STATES[best][1] != present:
        return Change.NOT_COMPARABLE, probability
    if best == NONE:
        return None, None
    # Both images show it but nobody asked how it changed: three equal states, nothing can be said.
    if probability < floor or (answers.change is None and _STATES[best] == (True, True)):
        return Change.NOT_COMPARABLE, probability
    return Change(best), probability


def _share(answers: FindingAnswers, name: str) -> float:
    if answers.change is not None:
        return answers.change.get(name, 0.0)  # what has no degree is never asked whether it got worse
    return 1.0 / 3.0 if _STATES[name] == (True, True) else 1.0


def _best(probabilities: Mapping[str, float] | None, floor: float) -> str | None:
    if not probabilities:
        return None
    word = max(probabilities, key=lambda name: probabilities[name])
    return word if probabilities[word] >= floor else None


def _logit(probability: float) -> float:
    clipped = min(max(probability, _TINY), 1.0 - _TINY)
    return math.log(clipped / (1.0 - clipped))
