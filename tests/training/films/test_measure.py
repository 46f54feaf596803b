"""From which belief "not seen" may be said, by what is missed."""

from __future__ import annotations

import numpy as np

from training.films.measure import MAX_MISSED, Scored, choose_positives, deny_below, missed_figure


def _positives(beliefs: list[float]) -> list[Scored]:
    return [Scored(patient=str(number // 2), score=belief, truth=True) for number, belief in enumerate(beliefs)]


def test_few_of_the_films_that_show_a_finding_are_denied() -> None:
    positives = _positives(np.random.default_rng(0).uniform(0.0, 1.0, 200).tolist())
    below = deny_below(positives)
    denied = sum(row.score < below for row in positives) / len(positives)
    assert 0.05 < denied <= MAX_MISSED
    assert 0.05 < below < 0.15


def test_too_few_films_allow_no_denial() -> None:
    assert deny_below(_positives([0.9] * 11)) == 0.0
    assert deny_below(_positives([0.9] * 12)) == 0.0, "none of 12 missed may still be one in four"
    assert deny_below(_positives([0.3] * 30)) == 0.3


def test_films_that_all_have_little_belief_are_never_denied() -> None:
    below = deny_below(_positives([0.0] * 30))
    assert below == 0.0


def test_marks_tell_what_is_shown_where_there_are_enough() -> None:
    rows = {"marks": _positives([0.5] * 12), "reports": _positives([0.1] * 40)}
    assert choose_positives(rows)[0] == "marks"
    few = {"marks": _positives([0.5] * 11), "reports": _positives([0.1] * 40)}
    name, positives = choose_positives(few)
    assert (name, len(positives)) == ("reports", 40)


def test_missed_share_has_an_interval_by_patient() -> None:
    figure = missed_figure(_positives([0.1] * 20 + [0.9] * 60), 0.5, "films")
    assert figure is not None
    assert figure.value == 0.25
    assert 0.1 < figure.low < 0.25 < figure.high < 0.45
    assert figure.positives == 80
    assert missed_figure([], 0.5, "films") is None
