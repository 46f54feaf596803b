"""Fitting the rules of a film classifier: what is fitted ranks, calibrates and tells degrees as its data do."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from model.film_rules import FilmRule, FilmScores, believe_films
from training.films.fit import FilmSample, PairSample, fit_degree, fit_rule
from training.films.measure import Scored, allows_change, allows_presence, auroc_figure, worse_log_odds


def _films(count: int, seed: int) -> list[FilmSample]:
    """The marked output tells the finding, the mined one is noise; a fifth is present."""
    rng = np.random.default_rng(seed)
    films = []
    for _ in range(count):
        odds = float(rng.normal(-1.5, 1.5))
        present = bool(rng.random() < 1 / (1 + math.exp(-odds)))
        scores = FilmScores(mined=float(rng.normal()), marked=2.0 * odds + 1.0, amount=2.0 if present else 0.0)
        films.append(FilmSample(scores=scores, mined=present, marked=present))
    return films


def _pairs(count: int, seed: int) -> list[PairSample]:
    """Nine in ten findings stay as they are; of those that stay, the amount tells the degree."""
    rng = np.random.default_rng(seed)
    pairs = []
    for film in _films(count, seed):
        stays = rng.random() < 0.9
        amount = float(rng.normal(2.0, 0.7)) if film.marked else 0.0
        scores = FilmScores(mined=film.scores.mined, marked=film.scores.marked, amount=amount)
        other = FilmSample(scores=scores, mined=film.mined, marked=film.marked) if stays else _films(1, seed + 7)[0]
        change = None
        if film.marked and other.marked:
            grown = (other.scores.amount or 0.0) - (film.scores.amount or 0.0)
            change = "worsening" if grown > 0.5 else "improving" if grown < -0.5 else "stable"
        pairs.append(PairSample(prior=film, current=other, change=change))
    return pairs


def test_rule_prefers_the_output_that_ranks_and_is_calibrated() -> None:
    films = _films(1500, 1)
    rule = fit_rule(films, _pairs(600, 2))
    assert rule.marked > 3 * rule.mined
    held = _films(1500, 3)
    believed = [believe_films(film.scores, None, rule).presence for film in held]
    assert sum(believed) / len(held) == pytest.approx(sum(bool(film.marked) for film in held) / len(held), abs=0.03)
    assert 0.15 <= rule.threshold <= 0.6


def test_what_stays_makes_the_films_of_a_pair_believe_each_other() -> None:
    rule = fit_rule(_films(800, 1), _pairs(800, 2))
    unsure, sure = FilmScores(mined=0.0, marked=1.0, amount=1.0), FilmScores(mined=0.0, marked=7.0, amount=1.0)
    alone = believe_films(unsure, None, rule).presence
    assert believe_films(unsure, sure, rule).presence > alone + 0.05


def test_degrees_follow_the_amounts() -> None:
    degrees = fit_degree({"consolidation": _pairs(2000, 5)})["consolidation"]
    assert degrees.degree_slope > 1.0
    assert 0.35 <= degrees.degree_cut <= 0.6
    rule = FilmRule(marked=1.0, **asdict(degrees))
    less, more = FilmScores(marked=3.0, amount=1.0), FilmScores(marked=3.0, amount=3.0)
    states = believe_films(more, less, rule).states
    assert states is not None
    assert states["worsening"] > states["stable"] > states["improving"]
    pair = PairSample(
        prior=FilmSample(scores=less, mined=True, marked=True), current=FilmSample(scores=more, mined=True, marked=True)
    )
    assert worse_log_odds(pair, rule) > 0.5


def test_a_finding_with_no_pairs_leans_on_all_together() -> None:
    fitted = fit_degree({"consolidation": _pairs(2000, 5), "pneumothorax": []})
    assert fitted["pneumothorax"].degree_slope == pytest.approx(fitted["consolidation"].degree_slope, rel=0.05)


def _scored(separation: float, positives: int, seed: int) -> list[Scored]:
    rng = np.random.default_rng(seed)
    rows = [Scored(patient=str(n), score=float(rng.normal(separation)), truth=True) for n in range(positives)]
    return rows + [Scored(patient=f"n{n}", score=float(rng.normal()), truth=False) for n in range(200)]


def test_figures_allow_statements_only_where_enough_films_say_so() -> None:
    clear = auroc_figure(_scored(2.0, 40, 1), "films")
    vague = auroc_figure(_scored(0.3, 40, 1), "films")
    few = auroc_figure(_scored(2.0, 5, 1), "films")
    assert clear is not None
    assert clear.low < clear.value < clear.high
    assert allows_presence([None, clear])
    assert not allows_presence([vague, few, None])
    assert allows_change(clear, 40)
    assert not allows_change(clear, 5)
    assert not allows_change(None, 40)
    assert auroc_figure(_scored(2.0, 0, 1), "films") is None


def test_probabilities_hold_for_what_radiologists_mark_where_reports_under_report() -> None:
    """Reports mention a quarter of the findings, radiologists read a fifth of the films: a belief is still a share of
    films on which radiologists would mark the finding."""
    rng = np.random.default_rng(9)
    films = []
    for film in _films(4000, 8):
        mined = bool(film.marked and rng.random() < 0.25)
        marked = film.marked if rng.random() < 0.2 else None
        films.append(FilmSample(scores=film.scores, mined=mined, marked=marked))
    rule = fit_rule(films, [])
    held = _films(3000, 10)
    beliefs = np.array([believe_films(film.scores, None, rule).presence for film in held])
    truth = np.array([bool(film.marked) for film in held])
    assert beliefs.mean() == pytest.approx(truth.mean(), abs=0.03)
    assert truth[beliefs > 0.5].mean() > 0.6


def test_a_film_whose_report_mentions_nothing_lowers_beliefs() -> None:
    films = [FilmSample(scores=film.scores, mined=film.mined, marked=film.marked) for film in _films(1500, 1)]
    silent = [FilmSample(scores=film.scores, mined=False, marked=None, mentions_any=False) for film in _films(1500, 2)]
    alone, with_silent = fit_rule(films, []), fit_rule(films + silent, [])
    scores = FilmScores(mined=0.0, marked=1.0)
    assert believe_films(scores, None, with_silent).presence < believe_films(scores, None, alone).presence


def test_one_read_film_of_a_pair_tells_of_the_other() -> None:
    """Half of the pairs have a film that nobody read: what stays still makes the films believe each other."""
    pairs = [
        PairSample(prior=pair.prior, current=replace(pair.current, marked=None) if number % 2 else pair.current)
        for number, pair in enumerate(_pairs(800, 2))
    ]
    rule = fit_rule(_films(800, 1), pairs)
    unsure, sure = FilmScores(mined=0.0, marked=1.0, amount=1.0), FilmScores(mined=0.0, marked=7.0, amount=1.0)
    assert believe_films(unsure, sure, rule).presence > believe_films(unsure, None, rule).presence + 0.05
