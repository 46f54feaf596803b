"""Temperature, calibration error, thresholds and the certainty floor."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.finding_states import STATES, FindingAnswers, JointWeights, believe
from model.questions.answers import CHANGE_ANSWERS, DEGREE_CHANGES
from training.calibration.fit import (
    JOINT_PENALTY,
    ThresholdObjective,
    apply_temperature,
    choose_floor,
    choose_threshold,
    fit_joint,
    fit_temperature,
    negative_log_likelihood,
)
from training.metrics.classification import expected_calibration_error, reliability

Sample = tuple[FindingAnswers, str]
_UNGRADED = tuple(answer for answer in CHANGE_ANSWERS if answer not in DEGREE_CHANGES)

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
    assert math.isnan(expected_calibration_error([], []))


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
    assert choose_threshold([0.2, 0.4, 0.6], [False, True, True], ThresholdObjective.F1).value == pytest.approx(0.3)


def test_cuts_that_are_nearly_as_good_yield_to_one_half() -> None:
    values = [0.1, 0.2, 0.45, 0.55, 0.7, 0.8, 0.9, 0.95]
    truth = [False, False, True, False, False, True, True, True]
    assert choose_threshold(values, truth, ThresholdObjective.F1).value == pytest.approx(0.75)  # F1 6/7
    assert choose_threshold(values, truth, ThresholdObjective.F1, slack=0.06).value == pytest.approx(0.325)  # F1 8/10
    assert choose_threshold(values, truth, ThresholdObjective.F1, slack=0.2).value == pytest.approx(0.5)  # F1 6/9


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
    with pytest.raises(ValueError, match=r"0\.\.1"):
        choose_floor([1.2], [True], 0.5)
    with pytest.raises(ValueError, match="2 values and 1 flags"):
        choose_floor([0.1, 0.2], [True], 0.5)


def _drawn(rng: np.random.Generator, weights: JointWeights, count: int, names: tuple[str, ...]) -> list[Sample]:
    """Answers at random, and a true state drawn from what `weights` believe of them."""
    samples: list[Sample] = []
    for _ in range(count):
        shares = dict(zip(names, apply_temperature(rng.normal(0, 1.5, len(names)), 1.0).tolist(), strict=True))
        answers = FindingAnswers(presence=rng.random(), prior_presence=rng.random(), change=shares)
        states = believe(answers, weights, with_prior=True).states
        assert states is not None
        samples.append((answers, str(rng.choice(list(states), p=np.array(list(states.values()))))))
    return samples


def _loss(samples: list[Sample], weights: JointWeights) -> float:
    beliefs = [believe(answers, weights, with_prior=True).states or {} for answers, _ in samples]
    likelihood = np.mean([-math.log(belief[truth]) for belief, (_, truth) in zip(beliefs, samples, strict=True)])
    return float(likelihood) + JOINT_PENALTY * sum(value**2 for value in weights.bias.values())


def test_the_true_joint_weights_are_found_again() -> None:
    true = JointWeights(presence=0.4, prior_presence=0.1, change=0.9, bias={"new": -0.8, "resolved": -1.0})
    rng = np.random.default_rng(3)
    samples = _drawn(rng, true, 2500, CHANGE_ANSWERS) + _drawn(rng, true, 1500, _UNGRADED)
    found = fit_joint(samples)
    assert (found.presence, found.prior_presence, found.change) == pytest.approx((0.4, 0.1, 0.9), abs=0.12)
    bias = {name: found.bias.get(name, 0.0) for name in CHANGE_ANSWERS}
    assert bias == pytest.approx({**dict.fromkeys(CHANGE_ANSWERS, 0.0), **true.bias}, abs=0.25)


def test_no_neighbour_of_the_joint_weights_is_better() -> None:
    """The prior answer says the opposite of the truth here: its weight ends at 0, never below."""
    rng = np.random.default_rng(4)
    samples = _drawn(rng, JointWeights(prior_presence=0.0, bias={"stable": 0.5}), 300, CHANGE_ANSWERS)
    samples = [(replace(a, prior_presence=0.05 if STATES[truth][0] else 0.95), truth) for a, truth in samples]
    found = fit_joint(samples)
    assert found.prior_presence == 0.0
    best = _loss(samples, found)
    for name in ("presence", "prior_presence", "change"):
        for step in (-0.05, 0.05):
            moved = max(getattr(found, name) + step, 0.0)
            assert _loss(samples, replace(found, **{name: moved})) >= best - 1e-6
    for name in ("new", "stable", "resolved"):
        for step in (-0.05, 0.05):
            bias = {**found.bias, name: found.bias[name] + step}
            assert _loss(samples, replace(found, bias=bias)) >= best - 1e-6


def test_the_joint_fit_refuses_what_cannot_be_and_takes_nothing() -> None:
    assert fit_joint([]) == JointWeights()
    device = FindingAnswers(presence=0.9, prior_presence=0.9, change=dict.fromkeys(_UNGRADED, 0.25))
    with pytest.raises(ValueError, match="worsening"):
        fit_joint([(device, "worsening")])
    alone = fit_joint([(device, "stable")])  # a state that was never seen gets no endless bias
    assert all(math.isfinite(value) for value in alone.values().values())


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.floats(0.3, 1), st.floats(0, 1))
def test_the_floor_is_the_lowest_that_keeps_both_promises(
    answers: list[tuple[float, bool]], target: float, coverage: float
) -> None:
    sure, right = [s for s, _ in answers], [r for _, r in answers]
    floor = choose_floor(sure, right, target, least_coverage=coverage)
    kept = [r for s, r in answers if s >= floor.value]
    assert floor.coverage == pytest.approx(len(kept) / len(answers))
    assert floor.accuracy == pytest.approx(sum(kept) / len(kept))
    assert floor.coverage >= coverage - 1e-9
    for other in sorted(set(sure)):
        rest = [r for s, r in answers if s >= other]
        if len(rest) / len(answers) >= coverage:
            if sum(rest) / len(rest) >= target:
                assert floor.value <= other
                assert floor.accuracy >= target
            elif floor.accuracy < target:
                assert floor.accuracy >= sum(rest) / len(rest) - 1e-9
