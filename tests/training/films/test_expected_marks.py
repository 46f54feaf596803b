"""Regions that radiologists would mark on films described only by a report."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.films.expected_marks import FEWEST_MARKS, MarkOdds, expected_marks, expected_pairs, fit_mark_odds

NAN = math.nan


def _read_films(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-odds, mentions and marks of films that were read; reports mention a third of what is there."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-1.0, 1.5, count)
    marked = (rng.random(count) < 1.0 / (1.0 + np.exp(-2.0 * log_odds - 1.0))).astype(np.float64)
    mined = (marked * (rng.random(count) < 0.33)).astype(np.float64)
    return log_odds, mined, marked


def test_mark_odds_of_read_films_are_found_again() -> None:
    log_odds, mined, marked = _read_films(4000)
    marks = fit_mark_odds(log_odds, np.zeros(len(mined)), marked)
    assert marks is not None
    assert marks.slope == pytest.approx(2.0, abs=0.25)
    assert marks.bias == pytest.approx(1.0, abs=0.25)
    with_mention = fit_mark_odds(log_odds, mined, marked)
    assert with_mention is not None
    assert with_mention.mention > 1.0, "a report that mentions the finding raises what is expected"


def test_films_that_nobody_read_do_not_move_the_fit() -> None:
    log_odds, mined, marked = _read_films(1000)
    more = [
        np.concatenate([values, np.full(500, value)])
        for values, value in ((log_odds, 3.0), (mined, 0.0), (marked, NAN))
    ]
    assert fit_mark_odds(*more) == fit_mark_odds(log_odds, mined, marked)


def test_with_few_marks_mined_labels_stay_the_truth() -> None:
    log_odds, mined, marked = _read_films(1000)
    few = np.where(np.cumsum(marked) < FEWEST_MARKS, marked, 0.0)
    assert fit_mark_odds(log_odds, mined, few) is None
    truth = expected_marks(np.zeros(3), np.array([1.0, 0.0, NAN]), np.array([0.0, NAN, NAN]), np.ones(3, bool), None)
    assert truth[:2].tolist() == [0.0, 0.0]
    assert math.isnan(truth[2])


def test_truth_is_the_mark_then_a_probability_then_the_silent_report() -> None:
    marks = MarkOdds(slope=1.0, mention=1.0, bias=0.0)
    truth = expected_marks(
        np.array([2.0, 2.0, 2.0, 2.0]),
        np.array([1.0, 0.0, 1.0, 0.0]),
        np.array([0.0, NAN, NAN, NAN]),
        np.array([True, True, True, False]),
        marks,
    )
    assert truth[0] == 0.0, "what radiologists did not mark is not there, although the report mentions it"
    assert truth[1] == pytest.approx(1.0 / (1.0 + math.exp(-2.0)))
    assert truth[2] == pytest.approx(1.0 / (1.0 + math.exp(-3.0)))
    assert truth[3] == 0.0, "a report that mentions nothing"


def test_shares_of_a_pair_keep_what_is_known_of_either_film() -> None:
    shares = np.array([[0.4, 0.3, 0.2, 0.1]] * 4)
    found = expected_pairs(shares, [None, 0.0, 1.0, 1.0], [None, None, None, 0.0])
    assert found[0].tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert found[1].tolist() == pytest.approx([4 / 7, 3 / 7, 0.0, 0.0])
    assert found[2].tolist() == pytest.approx([0.0, 0.0, 2 / 3, 1 / 3])
    assert found[3].tolist() == pytest.approx([0.0, 0.0, 1.0, 0.0])
