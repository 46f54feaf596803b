"""A film classifier's outputs become findings by rules that hold for every value, not only for likely ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model.film_rules import (
    FilmReading,
    FilmRule,
    FilmScores,
    believe_films,
    pair_states,
    read_film_finding,
)
from model.schema import INVERSE_CHANGE, Change, Presence

KEY = "pleural_effusion"
NUMBERS = st.floats(-8.0, 8.0)
SCORES = st.builds(FilmScores, mined=NUMBERS, marked=NUMBERS, amount=NUMBERS)
RULES = st.builds(
    FilmRule,
    mined=st.floats(0.0, 2.0),
    marked=st.floats(0.0, 2.0),
    bias=st.floats(-3.0, 3.0),
    slope=st.floats(0.0, 2.0),
    alone=st.floats(-2.0, 2.0),
    both=st.floats(-2.0, 3.0),
    contrast=st.floats(0.0, 2.0),
    degree_bias=st.floats(-3.0, -0.01),
    degree_slope=st.floats(0.0, 3.0),
    degree_cut=st.floats(0.01, 3.0),
    threshold=st.floats(0.05, 0.95),
    stated=st.just(True),
    change_stated=st.just(True),
)


@given(prior=NUMBERS, current=NUMBERS, difference=NUMBERS, rule=RULES)
def test_states_of_swapped_films_are_the_swapped_states(
    prior: float, current: float, difference: float, rule: FilmRule
) -> None:
    forth = pair_states(prior, current, difference, rule)
    back = pair_states(current, prior, -difference, rule)
    assert sum(forth.values()) == pytest.approx(1.0)
    swapped = {"new": "resolved", "resolved": "new", "worsening": "improving", "improving": "worsening"}
    for state, share in forth.items():
        assert back[swapped.get(state, state)] == pytest.approx(share, abs=1e-9)


@given(prior=SCORES, current=SCORES, rule=RULES)
def test_change_of_swapped_films_is_the_inverse(prior: FilmScores, current: FilmScores, rule: FilmRule) -> None:
    belief = believe_films(current, prior, rule)
    assert belief.states is not None
    assert belief.prior_presence is not None
    near = min(abs(belief.presence - rule.threshold), abs(belief.prior_presence - rule.threshold))
    forth = read_film_finding(KEY, current, prior, rule, floor=0.0).change
    back = read_film_finding(KEY, prior, current, rule, floor=0.0).change
    if near > 1e-9:  # at an exact tie rounding decides
        assert back == (INVERSE_CHANGE[forth] if forth is not None else None)


@given(film=SCORES, rule=RULES)
def test_the_same_film_twice_is_stable_or_shows_nothing(film: FilmScores, rule: FilmRule) -> None:
    assert read_film_finding(KEY, film, film, rule, floor=0.0).change in (None, Change.STABLE)


def test_presence_follows_the_threshold_and_side_only_what_is_present() -> None:
    rule = FilmRule(marked=1.0, threshold=0.3, stated=True)
    there = read_film_finding(KEY, FilmScores(marked=0.0, side="left"), None, rule, floor=0.0)
    assert (there.presence, there.probability, there.location) == (Presence.PRESENT, 0.5, "left")
    gone = read_film_finding(KEY, FilmScores(marked=-2.0, side="left"), None, rule, floor=0.0)
    assert (gone.presence, gone.location, gone.change) == (Presence.ABSENT, None, None)


def test_a_finding_that_may_not_be_stated_abstains_and_keeps_its_probability() -> None:
    rule = FilmRule(marked=1.0, change_stated=True)
    said = read_film_finding(KEY, FilmScores(marked=4.0), FilmScores(marked=-4.0), rule, floor=0.0)
    assert said.presence is Presence.ABSTAINED
    assert (said.change, said.change_probability) == (None, None)
    assert said.probability > 0.9


def test_a_change_that_may_not_be_stated_is_not_comparable_but_absence_on_both_stays_silent() -> None:
    rule = FilmRule(marked=1.0, stated=True)
    said = read_film_finding(KEY, FilmScores(marked=4.0), FilmScores(marked=-4.0), rule, floor=0.0)
    assert (said.presence, said.change, said.change_probability) == (Presence.PRESENT, Change.NOT_COMPARABLE, None)
    nothing = read_film_finding(KEY, FilmScores(marked=-4.0), FilmScores(marked=-4.0), rule, floor=0.0)
    assert (nothing.presence, nothing.change) == (Presence.ABSENT, None)


def test_a_finding_without_a_rule_says_nothing() -> None:
    said = read_film_finding("central_line", FilmScores(), None, None, floor=0.2)
    assert (said.presence, said.probability, said.change) == (Presence.ABSTAINED, 0.5, None)


def test_more_of_a_finding_is_worsening_and_less_improving() -> None:
    rule = FilmRule(marked=1.0, degree_slope=2.0, degree_bias=-1.0, stated=True, change_stated=True)
    small, large = FilmScores(marked=3.0, amount=0.5), FilmScores(marked=3.0, amount=2.0)
    assert read_film_finding(KEY, large, small, rule, floor=0.0).change is Change.WORSENING
    assert read_film_finding(KEY, small, large, rule, floor=0.0).change is Change.IMPROVING


@pytest.mark.parametrize("wrong", [{"mined": -0.1}, {"threshold": 1.5}, {"bias": float("nan")}, {"weight": 1.0}])
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        FilmRule.model_validate(wrong)


def test_a_reading_survives_the_manifests_json() -> None:
    reading = FilmReading(findings={KEY: FilmRule(mined=0.4, stated=True, localised=0.8)}, learned_on="films")
    assert FilmReading.model_validate_json(reading.model_dump_json()) == reading
