"""The figures of structured predictions: perfect, wrong and abstaining models, and values worked out by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.schema import AbstainReason, Change, Finding, Prediction, Presence
from tests.support.oracle import IDENTITY, told, unchanged
from training.metrics.classification import (
    accuracy,
    auroc,
    class_scores,
    confusion,
    expected_calibration_error,
    macro_accuracy,
    macro_f1,
    reliability,
    roc_curve,
)
from training.metrics.pairs import Answered, score_pairs
from training.metrics.significance import Interval, average_runs, bootstrap_one_by_patient, compare
from training.metrics.summed import interval, mean_figure
from training.phantom.sampling import sample_pair
from training.phantom.truth import truth_of_phantom
from training.records.truth import FindingTruth, ImageTruth, PairTruth

TRUTHS = [truth_of_phantom(sample_pair(seed), f"pair-{seed}") for seed in range(200)]


def perfect(truth: PairTruth) -> Answered:
    said = told(truth)
    return Answered(truth=truth, prediction=said, swapped=told(truth.swapped()), same=unchanged(said))


def test_the_truth_itself_scores_perfectly() -> None:
    scores = score_pairs([perfect(truth) for truth in TRUTHS], resamples=20)
    for name in set(scores.figures) - {"presence_ece", "change_ece"}:
        assert scores.value(name) == 1.0, name
        assert scores.figures[name].low == scores.figures[name].high == 1.0
    assert scores.value("presence_ece") == scores.value("change_ece") == 0.0
    assert scores.unscored == ()
    assert {score.label: score.support > 0 for score in scores.changes} == dict.fromkeys(
        ("new", "worsening", "stable", "improving", "resolved", "none"), True
    )


def test_every_kind_of_error_moves_its_own_figure() -> None:
    base = [perfect(truth) for truth in TRUTHS]

    def spoilt(**fields: object) -> list[Answered]:
        def spoil(prediction: Prediction) -> Prediction:
            return replace(
                prediction, findings=tuple(replace(finding, **fields) for finding in prediction.findings)  # type: ignore[arg-type]
            )  # fmt: skip

        return [replace(item, prediction=spoil(item.prediction)) for item in base]

    always_new = score_pairs(spoilt(change=Change.NEW), resamples=1)
    assert always_new.value("change_f1") < 0.2
    assert always_new.value("presence_auroc") == 1.0
    assert score_pairs(spoilt(location="left"), resamples=1).value("side_accuracy") < 0.7
    assert score_pairs(spoilt(location=None), resamples=1).value("side_coverage") == 0.0
    assert score_pairs(spoilt(level="severe"), resamples=1).value("grade_accuracy") < 0.7
    assert score_pairs(spoilt(probability=0.5), resamples=1).value("presence_auroc") == 0.5
    flipped = [replace(item, swapped=item.prediction) for item in base]
    assert score_pairs(flipped, resamples=1).value("swap_consistency_changed") < 0.7
    drifting = [replace(item, same=item.prediction) for item in base]
    assert score_pairs(drifting, resamples=1).value("same_image_consistency") < 0.95


def test_a_pair_that_the_model_abstains_on_is_wrong_not_missing() -> None:
    silent = Prediction(findings=(), model=IDENTITY, abstained=AbstainReason.LOW_CERTAINTY)
    scores = score_pairs([Answered(truth=truth, prediction=silent) for truth in TRUTHS], resamples=1)
    assert scores.abstained == len(TRUTHS)
    assert scores.value("presence_accuracy") == 0.0
    assert scores.value("change_f1") == 0.0
    assert scores.value("presence_auroc") == 0.5
    assert math.isnan(scores.value("swap_consistency"))


def test_a_small_set_worked_out_by_hand() -> None:
    def truth(number: int, present: bool, prior: bool, change: Change | None) -> PairTruth:
        finding = FindingTruth(
            key="edema",
            current=ImageTruth(present=present, grade="mild" if present else None),
            prior=ImageTruth(present=prior),
            change=change,
        )
        return PairTruth(pair_id=str(number), patient_id=f"p{number}", findings={"edema": finding})

    def said(probability: float, change: Change | None, sure: float | None) -> Prediction:
        presence = Presence.PRESENT if probability >= 0.5 else Presence.ABSENT
        finding = Finding(
            key="edema", presence=presence, probability=probability, change=change, change_probability=sure
        )
        return Prediction(findings=(finding,), model=IDENTITY)

    scores = score_pairs(
        [
            Answered(truth=truth(1, True, False, Change.NEW), prediction=said(0.9, Change.NEW, 0.8)),
            Answered(truth=truth(2, True, True, Change.STABLE), prediction=said(0.4, Change.RESOLVED, 0.6)),
            Answered(truth=truth(3, False, True, Change.RESOLVED), prediction=said(0.2, Change.RESOLVED, 0.9)),
            Answered(truth=truth(4, False, False, None), prediction=said(0.6, Change.NEW, 0.5)),
        ],
        resamples=1,
    )
    assert scores.value("presence_auroc") == 3 / 4  # of (0.9, 0.4) × (0.2, 0.6) only 0.4 < 0.6 is wrong
    assert scores.value("presence_accuracy") == 2 / 4
    f1 = {score.label: score.f1 for score in scores.changes}
    assert f1["new"] == pytest.approx(2 / 3)
    assert f1["resolved"] == pytest.approx(2 / 3)
    assert f1["stable"] == f1["none"] == 0.0
    assert scores.value("change_f1") == pytest.approx((2 / 3 + 2 / 3) / 4)
    # Sure and right: 0.8, 0.9; sure and wrong: 0.6, 0.5; every one in a bin of its own.
    assert scores.value("change_ece") == pytest.approx((0.2 + 0.1 + 0.6 + 0.5) / 4)
    assert scores.value("presence_ece") == pytest.approx((0.1 + 0.6 + 0.2 + 0.6) / 4)


def test_what_is_not_labelled_is_not_scored() -> None:
    unknown = PairTruth(pair_id="1", patient_id="p", findings={"edema": FindingTruth(key="edema")})
    scores = score_pairs([Answered(truth=unknown, prediction=told(TRUTHS[0]))], resamples=1)
    assert math.isnan(scores.value("presence_auroc"))
    assert math.isnan(scores.value("change_f1"))
    with pytest.raises(ValueError, match="no labelled finding"):
        score_pairs([Answered(truth=replace(unknown, findings={}), prediction=told(TRUTHS[0]))])
    with pytest.raises(ValueError, match="not in the ontology"):
        PairTruth(pair_id="1", patient_id="p", findings={"wisdom": FindingTruth(key="wisdom")})


@given(st.integers(0, 500))
def test_swapping_the_truth_twice_gives_it_back(seed: int) -> None:
    truth = truth_of_phantom(sample_pair(seed), "p")
    back = truth.swapped().swapped()
    assert replace(back, pair_id="p") == truth
    assert truth_of_phantom(sample_pair(seed).swapped(), "p/swapped") == truth.swapped()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40))
def test_auroc_is_the_share_of_ordered_pairs(items: list[tuple[bool, int]]) -> None:
    positive = [score for true, score in items if true]
    negative = [score for true, score in items if not true]
    value = auroc([true for true, _ in items], [score for _, score in items])
    if not positive or not negative:
        assert math.isnan(value)
        return
    pairs = [(p > n) + 0.5 * (p == n) for p, n in itertools.product(positive, negative)]
    assert value == pytest.approx(sum(pairs) / len(pairs))
    false_rate, true_rate = roc_curve([true for true, _ in items], [score for _, score in items])
    assert np.trapezoid(true_rate, false_rate) == pytest.approx(value)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_bins_hold_everything_once(items: list[tuple[float, bool]]) -> None:
    confidence, correct = [c for c, _ in items], [r for _, r in items]
    bins = reliability(confidence, correct)
    assert sum(part.count for part in bins) == len(items)
    assert all(part.low <= part.confidence <= part.high + 1e-12 for part in bins)
    assert 0 <= expected_calibration_error(confidence, correct) <= 1
    assert expected_calibration_error([1.0] * 4, [True] * 4) == 0.0
    assert expected_calibration_error([0.75] * 4, [True, True, True, False]) == 0.0


def test_class_scores_by_hand() -> None:
    truth, said = ["a", "a", "b", "b", "b"], ["a", "b", "b", "c", "b"]
    scores = class_scores(truth, said, ["a", "b", "d"])
    assert [(s.precision, s.recall, s.support) for s in scores[:2]] == [(1.0, 0.5, 2), (2 / 3, 2 / 3, 3)]
    assert math.isnan(scores[2].f1)
    assert macro_f1(scores) == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert macro_accuracy(truth, said, ["a", "b"]) == pytest.approx((0.5 + 2 / 3) / 2)
    assert accuracy(truth, said) == 0.6
    assert confusion(truth, said, ["a", "b"]).tolist() == [[1, 1, 0], [0, 2, 1]]
    with pytest.raises(ValueError):
        accuracy(["a"], [])
    with pytest.raises(ValueError, match="not finite"):
        auroc([True, False], [float("nan"), 1.0])


def test_runs_are_averaged_before_they_are_compared() -> None:
    rng = np.random.default_rng(0)
    questions = [f"q{number}" for number in range(40)]
    first = [{q: float(rng.random()) for q in questions} for _ in range(3)]
    second = [{q: run[q] + 0.2 for q in questions} for run in first]
    result = compare(first, second)
    assert result.n == 40
    assert result.difference == pytest.approx(0.2)
    assert result.p < 1e-6
    assert compare(first, first).p == 1.0
    assert average_runs([{"q": 0.0}, {"q": 1.0}]) == {"q": 0.5}
    with pytest.raises(ValueError, match="other questions"):
        average_runs([{"q": 0.0}, {"r": 1.0}])
    with pytest.raises(ValueError, match="different questions"):
        compare(first, [{"q0": 1.0}])


def test_the_bootstrap_draws_patients_not_rows() -> None:
    # One patient holds 90 of 100 rows. By rows the interval would be narrow; by patients it must be wide.
    patients = ["big"] * 90 + [f"p{number}" for number in range(10)]
    values = np.array([1.0] * 90 + [0.0] * 10)
    clustered = bootstrap_one_by_patient(patients, lambda rows: float(values[rows].mean()))
    by_row = bootstrap_one_by_patient([str(n) for n in range(100)], lambda rows: float(values[rows].mean()))
    assert clustered.value == by_row.value == 0.9
    assert clustered.low == 0.0
    assert by_row.low > 0.8
    again = bootstrap_one_by_patient(patients, lambda rows: float(values[rows].mean()))
    assert again == clustered


def test_each_resample_of_few_patients_is_measured_once_and_the_interval_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(4).random(12)
    patients = [f"{number % 4}" for number in range(12)]
    calls: list[int] = []

    def mean_of(rows: NDArray[np.intp]) -> float:
        calls.append(len(rows))
        return float(values[rows].mean())

    def intervals() -> tuple[Interval, Interval]:
        figure = mean_figure([str(number) for number in range(12)], patients, values.tolist())
        return bootstrap_one_by_patient(patients, mean_of), interval([figure])

    few = intervals()
    assert len(calls) <= 1 + math.comb(7, 4)
    monkeypatch.setattr("training.metrics.significance.FEW_PATIENTS", 0)
    monkeypatch.setattr("training.metrics.summed.FEW_PATIENTS", 0)
    for mine, expected in zip(few, intervals(), strict=True):
        assert (mine.low, mine.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert mine.resamples == expected.resamples == 1000
    assert len(calls) > 1000
