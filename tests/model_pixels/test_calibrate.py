"""Temperature, calibration error, thresholds and the certainty floor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.calibrate import (
    Objective,
    apply_temperature,
    choose_floor,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)

scores = st.lists(st.floats(-30, 30), min_size=2, max_size=6)


@settings(deadline=None)
@given(scores, st.floats(0.05, 20))
def test_temperature_keeps_the_order_and_sums_to_one(values: list[float], temperature: float) -> None:
    probabilities = apply_temperature(values, temperature)
    assert probabilities.sum() == pytest.approx(1.0)
    for a in range(len(values)):
        for b in range(len(values)):
            if values[a] > values[b]:
                assert probabilities[a] >= probabilities[b]


def test_temperature_one_is_the_plain_softmax() -> None:
    assert apply_temperature([0.0, math.log(3)], 1.0) == pytest.approx([0.25, 0.75])
    assert apply_temperature([[0.0, math.log(9)]], 2.0)[0] == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        apply_temperature([0.0, 1.0], temperature)


@settings(max_examples=6, deadline=None)
@given(st.floats(0.3, 4.0), st.integers(0, 10_000))
def test_the_true_temperature_is_found_again(true: float, seed: int) -> None:
    """Answers are drawn from softmax(s / T): the fit gives T, also where the numbers of answers differ."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(0, 2.0, int(rng.integers(2, 6))) for _ in range(3000)]
    truths = [int(rng.choice(row.size, p=apply_temperature(row, true))) for row in rows]
    assert fit_temperature(rows, truths) == pytest.approx(true, rel=0.15)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.floats(-8, 8), min_size=3, max_size=3), st.integers(0, 2)), min_size=1, max_size=30)
)
def test_no_other_temperature_is_better(samples: list[tuple[list[float], int]]) -> None:
    rows, truths = [s for s, _ in samples], [t for _, t in samples]
    best = negative_log_likelihood(rows, truths, fit_temperature(rows, truths))
    for other in (0.05, 0.1, 0.5, 1.0, 2.0, 7.0, 20.0):
        assert best <= negative_log_likelihood(rows, truths, other) + 1e-4


def test_an_empty_set_changes_nothing() -> None:
    assert fit_temperature([], []) == 1.0
    assert expected_calibration_error([], []) == 0.0


def test_calibration_error_by_hand() -> None:
    # two bins of two: (0.9, 0.9 | one right) and (0.6, 0.6 | both right): 0.5 * |0.5 - 0.9| + 0.5 * |1 - 0.6|
    assert expected_calibration_error([0.9, 0.9, 0.6, 0.6], [True, False, True, True], bins=10) == pytest.approx(0.4)
    table = reliability([0.0, 1.0, 0.95], [False, True, True], bins=10)
    assert [(item.low, item.count) for item in table] == [(0.0, 1), (0.9, 2)]


def test_scaling_lowers_the_calibration_error_of_overconfident_scores() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 1.5, (4000, 3))
    truths = [int(rng.choice(3, p=apply_temperature(row, 1.0))) for row in rows]
    loud = rows * 3.0
    temperature = fit_temperature(list(loud), truths)
    before, after = apply_temperature(loud, 1.0), apply_temperature(loud, temperature)
    errors = [
        expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == np.asarray(truths)) for p in (before, after)
    ]
    assert errors[0] > 0.15
    assert errors[1] < 0.03


def test_a_clean_cut_is_found() -> None:
    found = choose_threshold([0.1, 0.2, 0.7, 0.9], [False, False, True, True])
    assert (found.sensitivity, found.specificity, found.positives) == (1.0, 1.0, 2)
    assert found.value == pytest.approx(0.45)
    assert choose_threshold([0.2, 0.4, 0.6], [False, True, True], Objective.F1).value == pytest.approx(0.3)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=40))
def test_no_cut_beats_the_chosen_one(samples: list[tuple[float, bool]]) -> None:
    values, truth = np.array([v for v, _ in samples]), np.array([t for _, t in samples])
    if truth.all() or not truth.any():
        with pytest.raises(ValueError, match="both classes"):
            choose_threshold(values, truth)
        return
    found = choose_threshold(values, truth)
    for cut in np.linspace(0, 1, 41):
        said = values >= cut
        youden = (said & truth).sum() / truth.sum() - (said & ~truth).sum() / (~truth).sum()
        assert found.sensitivity + found.specificity - 1.0 >= youden - 1e-9


def test_a_floor_keeps_what_is_right_often_enough() -> None:
    floor = choose_floor([0.99, 0.9, 0.8, 0.7, 0.6], [True, True, True, False, False], 0.75)
    assert (floor.value, floor.coverage, floor.accuracy) == (0.7, 0.8, 0.75)
    none = choose_floor([0.9, 0.8], [False, True], 0.99)
    assert none.accuracy == 0.5


def test_values_outside_zero_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        expected_calibration_error([1.2], [True])
    with pytest.raises(ValueError, match="2 values and 1 flags"):
        choose_floor([0.1, 0.2], [True], 0.5)
