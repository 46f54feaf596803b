"""Text metrics against pycocoevalcap's own output and values worked out by hand; answers, events, baselines."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.questions.grammar import write_events
from model.schema import Change
from tests.support.published import random_events
from training.metrics.answers import (
    closed_accuracy,
    difference_scores,
    ms_cxr_t_accuracy,
    normalise_answer,
    open_recall,
)
from training.metrics.baselines import majority_answers, majority_findings, nothing_has_changed
from training.metrics.meteor import MetricUnavailableError, meteor
from training.metrics.pairs import Answered, score_pairs
from training.metrics.summed import event_figure, interval, mean_figure, progression_figures, text_figures
from training.metrics.text import bleu, cider, rouge_l, tokenise
from training.phantom.sampling import sample_pair
from training.phantom.truth import truth_of_phantom

REFERENCE = json.loads((Path(__file__).parent / "caption_reference.json").read_text("utf-8"))
TRUE = [item["reference"] for item in REFERENCE["tokens"]]
SAID = [item["said"] for item in REFERENCE["tokens"]]
VALUES = REFERENCE["values"]


def test_the_tokeniser_equals_the_treebank_one_on_report_like_text() -> None:
    for item, tokens in zip(REFERENCE["items"], REFERENCE["tokens"], strict=True):
        assert tokenise(item["said"]) == tokens["said"]
        assert [tokenise(text) for text in item["reference"]] == tokens["reference"]


def test_bleu_equals_pycocoevalcap() -> None:
    for n in range(1, 5):
        score = bleu(TRUE, SAID, n=n)
        assert score.value == pytest.approx(VALUES["bleu"][n - 1], rel=1e-9)
        assert score.each == pytest.approx(VALUES["bleu_each"][n - 1], rel=1e-9)


def test_rouge_l_and_cider_equal_pycocoevalcap() -> None:
    for name, metric in (("rouge_l", rouge_l), ("cider", cider)):
        score = metric(TRUE, SAID)
        assert score.value == pytest.approx(VALUES[name], rel=1e-9)
        assert score.each == pytest.approx(VALUES[f"{name}_each"], rel=1e-9, abs=1e-12)


def test_without_java_meteor_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MetricUnavailableError, match="needs Java"):
        meteor(TRUE, SAID)


def test_meteor_equals_pycocoevalcap() -> None:
    try:
        score = meteor(TRUE, SAID)
    except MetricUnavailableError as error:
        pytest.skip(str(error))
    assert score.value == pytest.approx(VALUES["meteor"], abs=1e-6)
    assert score.each == pytest.approx(VALUES["meteor_each"], abs=1e-6)


def test_published_values_by_hand() -> None:
    # Papineni et al. 2002, section 2.1: modified unigram precision of "the the the the the the the" is 2/7.
    references = ["the cat is on the mat", "there is a cat on the mat"]
    assert bleu([references], ["the the the the the the the"], n=1).value == pytest.approx(2 / 7, rel=1e-6)
    # Lin 2004, section 3: LCS("police killed the gunman", "police kill the gunman") is 3 of 4.
    police = ["police killed the gunman"]
    assert rouge_l([police], ["police kill the gunman"]).value == pytest.approx(3 / 4)
    assert rouge_l([police], ["the gunman kill police"]).value == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match="references"):
        bleu([], [])
    with pytest.raises(ValueError, match="no reference"):
        cider([[]], ["a"])


@given(st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=9).map(" ".join), min_size=2, max_size=8))
@settings(deadline=None)  # a busy machine
def test_the_reference_itself_has_the_highest_score(texts: list[str]) -> None:
    same = [[text] for text in texts]
    assert rouge_l(same, texts).value == pytest.approx(1.0)
    shuffled = [" ".join(sorted(text.split())) for text in texts]
    assert bleu(same, texts).value >= bleu(same, shuffled).value - 1e-9
    assert cider(same, texts).value >= cider(same, shuffled).value - 1e-9


def test_closed_answers_compare_after_normalisation() -> None:
    assert normalise_answer("The left side, two nodules!") == ["left", "side", "2", "nodules"]
    assert closed_accuracy(["yes", "AP view", "two"], ["Yes.", "an AP view", "no"]) == pytest.approx(2 / 3)
    assert open_recall(["left lower lobe", "edema"], ["in the lower left", "none"]) == pytest.approx((2 / 3 + 0) / 2)
    assert open_recall(["a a b"], ["b b"]) == 0.5 or open_recall(["x x b"], ["x b b"]) == pytest.approx(2 / 3)
    assert math.isnan(closed_accuracy([], []))


def test_swapped_findings_cost_events_though_bleu_stays_high() -> None:
    true = [
        "the main image has an additional finding of edema than the reference image.",
        "the main image is missing the finding of pneumonia than the reference image.",
    ]
    said = [
        "the main image has an additional finding of hernia than the reference image.",
        "the main image is missing the finding of pneumonia than the reference image.",
    ]
    assert bleu([[tokenise(text)] for text in true], [tokenise(text) for text in said]).value > 0.8
    scores = difference_scores(true, said)
    assert (scores.events.precision, scores.events.recall, scores.events.f1) == (0.5, 0.5, 0.5)
    assert scores.finding_f1_macro == 0.5
    assert scores.change_accuracy == 1.0
    assert scores.exact == 0.5
    assert scores.by_kind["resolved"].f1 == 1.0
    assert scores.by_finding["hernia"].precision == 0.0


def test_the_direction_of_a_level_counts_and_unreadable_answers_are_shown() -> None:
    true = ["the level of edema has changed from mild to severe.", "nothing has changed."]
    good = difference_scores(true, ["the level of edema has changed from mild to moderate.", true[1]])
    assert good.events.f1 == 1.0
    bad = difference_scores(true, ["the level of edema has changed from severe to mild.", "all is well"])
    assert bad.events.f1 == 0.0
    assert bad.findings.f1 == 1.0
    assert (bad.unparsed, bad.change_accuracy, bad.exact) == (0.5, 0.5, 0.0)
    with pytest.raises(ValueError, match="not of the grammar"):
        difference_scores(["all is well"], ["x"])


@given(st.integers(0, 10_000))
@settings(deadline=None)
def test_event_scores_of_the_truth_itself_are_perfect(seed: int) -> None:
    chance = random.Random(seed)
    answers = [write_events(random_events(chance)) for _ in range(5)]
    scores = difference_scores(answers, answers)
    assert scores.exact == scores.change_accuracy == 1.0
    assert scores.events.f1 in (1.0,) or scores.events.support == 0


def test_the_baseline_that_sees_no_change_is_right_as_often_as_nothing_changes() -> None:
    chance = random.Random(1)
    truth = [write_events(random_events(chance)) for _ in range(300)]
    scores = difference_scores(truth, [nothing_has_changed()] * len(truth))
    assert scores.exact == truth.count("nothing has changed.") / len(truth)
    assert scores.events.recall == 0.0


def test_the_majority_baseline_gives_the_most_frequent_answer() -> None:
    training = [("q1", "yes"), ("q1", "yes"), ("q1", "no"), ("q2", "b"), ("q2", "a")]
    baseline = majority_answers(training)
    assert [baseline.answer(question) for question in ("q1", "q2", "q3")] == ["yes", "a", "yes"]
    with pytest.raises(ValueError):
        majority_answers([])


def test_baselines_on_phantoms_score_like_chance() -> None:
    truths = [truth_of_phantom(sample_pair(seed), f"{seed}") for seed in range(300)]
    learnt = majority_findings(truths[:150])
    majority = score_pairs([Answered(truth=t, prediction=learnt.predict(t)) for t in truths[150:]], resamples=1)
    unchanged = score_pairs(
        [Answered(truth=t, prediction=learnt.predict(t, unchanged=True)) for t in truths[150:]], resamples=1
    )
    assert majority.value("presence_auroc") == 0.5
    assert majority.value("change_f1") < 0.25
    assert unchanged.value("change_f1") < 0.25
    assert majority.value("presence_accuracy") > 0.7
    single = replace(truths[0], has_prior=False)
    assert {finding.change for finding in learnt.predict(single).findings} == {None}


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_figures_of_sums_equal_the_figures_of_the_corpus(seed: int) -> None:
    chance = random.Random(seed)
    truth = [write_events(random_events(chance)) for _ in range(6)]
    said = [write_events(random_events(chance)) for _ in range(6)]
    keys = [str(number) for number in range(6)]
    figures = text_figures(keys, keys, truth, said)
    references, answers = [[tokenise(text)] for text in truth], [tokenise(text) for text in said]
    assert figures["BLEU-4"].total() == pytest.approx(bleu(references, answers).value)
    assert figures["ROUGE-L"].total() == pytest.approx(rouge_l(references, answers).value)
    assert figures["CIDEr"].total() == pytest.approx(cider(references, answers).value)
    events = event_figure(keys, keys, truth, said).total()
    expected = difference_scores(truth, said).events.f1
    assert events == pytest.approx(expected, nan_ok=True)


def test_an_interval_draws_patients_and_is_empty_without_any() -> None:
    scores = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    alone = interval([mean_figure(list("abcdef"), list("abcdef"), scores)])
    grouped = interval([mean_figure(list("abcdef"), ["p", "p", "p", "q", "q", "q"], scores)])
    assert alone.value == grouped.value == 0.5
    assert (grouped.low, grouped.high) == (0.0, 1.0)
    assert 0.0 < alone.low < alone.high < 1.0
    assert math.isnan(interval([mean_figure([], [], [])]).value)


def test_ms_cxr_t_is_macro_averaged_over_classes_and_then_findings() -> None:
    items = [
        ("edema", Change.STABLE, "stable"),
        ("edema", Change.STABLE, "stable"),
        ("edema", Change.WORSENING, "stable"),
        ("pneumonia", Change.IMPROVING, "improving"),
        ("pneumonia", Change.WORSENING, "new"),
    ]
    scores = ms_cxr_t_accuracy(items)
    assert scores == {"edema": 0.5, "pneumonia": 0.5, "macro": 0.5}
    assert math.isnan(ms_cxr_t_accuracy([])["macro"])
    keys = [str(number) for number in range(len(items))]
    patients = ["a", "a", "b", "c", "c"]
    figures = progression_figures(
        keys, patients, [k for k, _, _ in items], [t.value for _, t, _ in items], [s for _, _, s in items]
    )
    assert {name: figure.total() for name, figure in figures.items()} == scores
    spread = interval([figures["macro"]], resamples=200)
    assert spread.low <= spread.value <= spread.high
    assert figures["macro"].each == {"0": 1.0, "1": 1.0, "2": 0.0, "3": 1.0, "4": 0.0}
    assert progression_figures([], [], [], [], []) == {}
