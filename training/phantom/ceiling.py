"""The best possible prediction of the next film of a course: exact, from what a reader of that setting can know.

For each group of findings the forward algorithm gives the distribution of its hidden state, and the process gives the
next film's degrees: nobody who knows no more can do better, on average, than to say the likeliest answer. That holds
because the observer uses the very matrices that the courses are drawn from (`training.phantom.process.groups`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np

from model.questions.answers import CHANGE_ANSWERS
from model.schema import Change
from training.phantom.chain import FilmObservation, Matrix, filter_states, likelihood
from training.phantom.process import CADENCES, Group, groups


class Knowledge(StrEnum):
    """The knowledge of a reader when the next film is predicted."""

    CURRENT = "current"
    """The current film alone: LUMEN's setting."""
    BOTH = "both"
    """The prior and the current film, and the days between them."""
    ALL = "all"
    """Every film so far, and the days between them."""
    CURRENT_CHART = "current and chart"
    """The current film; treatments and laboratory values with it."""
    BOTH_CHART = "both and chart"
    """The prior and the current film, and the chart."""
    CHART = "all and chart"
    """Every film so far, and the chart."""
    STATE = "true state"
    """The hidden trends too: what is left is chance."""


def answer_of_levels(before: int, after: int) -> str:
    """The answer to the prediction question for two degrees (0 absent)."""
    if before == after:
        return Change.STABLE.value if before else "none"
    if before == 0:
        return Change.NEW.value
    if after == 0:
        return Change.RESOLVED.value
    return Change.WORSENING.value if after > before else Change.IMPROVING.value


def best_answers(
    seen: Sequence[FilmObservation], cadence: int, knowledge: Knowledge, *, states: Sequence[int] = ()
) -> dict[str, dict[str, float]]:
    """Finding -> probability of each answer to "how will it change from the current to the next image?".

    seen: what each film so far shows, oldest first, the current one last; what stands in `treatments` and `flags` is
    used in the settings that know it. cadence: days between two films, used where two films tell it. states: of each
    group at the current film, for `Knowledge.STATE`.
    """
    answers: dict[str, dict[str, float]] = {}
    for number, group in enumerate(groups()):
        after = np.zeros(group.chain.size)
        if knowledge is Knowledge.STATE:
            after = group.chain.across(cadence)[states[number]]
        else:
            for days, share in _cadences(cadence, len(seen), knowledge).items():
                belief = filter_states(group.chain, known(seen, knowledge), days, start=group.start)
                after = after + share * (belief @ group.chain.across(days))
        answers |= _answers(group, seen[-1], after)
    return answers


def known(seen: Sequence[FilmObservation], knowledge: Knowledge) -> list[FilmObservation]:
    """The part of each film's facts that a reader of this setting sees."""
    images, _, chart = knowledge.value.partition(" and ")
    shown = {"current": 1, "both": 2}.get(images, len(seen))
    films = [FilmObservation(levels=film.levels) for film in seen[-shown:]]
    return [*films[:-1], seen[-1]] if chart else films


def _cadences(cadence: int, films: int, knowledge: Knowledge) -> Mapping[int, float]:
    """The days to the next film as far as they are known: one film alone does not tell them."""
    alone = knowledge in (Knowledge.CURRENT, Knowledge.CURRENT_CHART)
    return CADENCES if films < 2 or alone else {cadence: 1.0}


def _answers(group: Group, current: FilmObservation, after: Matrix) -> dict[str, dict[str, float]]:
    answers = {}
    for key, levels in group.chain.levels.items():
        shares = dict.fromkeys(CHANGE_ANSWERS, 0.0)
        for level in range(4):
            shares[answer_of_levels(current.levels[key], level)] += float(after[levels == level].sum())
        answers[key] = shares
    return answers


def can_explain(seen: FilmObservation) -> bool:
    """Tell whether the process can show this film at all."""
    return all(bool(likelihood(group.chain, seen).any()) for group in groups())
