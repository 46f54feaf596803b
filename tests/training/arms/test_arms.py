"""The study of the arms: what an arm is shown, that a run goes on after an interruption, figures, and the tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from model.questions.battery import DIFFERENCE_TEXT, LONG_TAG, PREDICTION_BOTH_TEXT, PREDICTION_TEXT, parse_question
from training.arms import ask as arms_asking
from training.arms import run as arms
from training.arms.ask import AnswerSet, ArmAnswer
from training.arms.data import (
    EXPERT_FLIPS,
    STUDY_FINDINGS,
    ArmSource,
    ArmStream,
    StudyPhantoms,
    average_down,
    oracle_row,
    oracle_text,
)
from training.arms.scores import arm_figures, measure_run, p_values
from training.arms.table import BASELINE, BEGIN, END, study_rows, write_study
from training.phantom.cache import fill
from training.phantom.sampling import sample_pair
from training.phantom.truth import truth_of_phantom
from training.records.drops import DataError

STREAMS = tuple(ArmStream)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> StudyPhantoms:
    folder = tmp_path_factory.mktemp("phantoms")
    fill(folder, pairs=8, first_seed=700, size=64)
    return StudyPhantoms(folder=folder, side=32)


def questions(source: ArmSource, count: int = 40) -> list[str]:
    return [turn.question for number in range(count) for turn in source.sample(number).turns]


def test_each_arm_is_asked_its_own_streams_and_no_other(phantoms: StudyPhantoms) -> None:
    asked = {
        size: questions(ArmSource(phantoms=phantoms, streams=frozenset(STREAMS[:size]), seed=1)) for size in range(1, 6)
    }
    for size, texts in asked.items():
        assert (DIFFERENCE_TEXT in texts) == (size >= 2)
        assert (PREDICTION_TEXT in texts and PREDICTION_BOTH_TEXT in texts) == (size >= 3)
        assert any(text.startswith(LONG_TAG) for text in texts) == (size >= 4)
    assert not any("prior" in text for text in asked[1])
    assert any(parse_question(text) is not None for text in asked[1])


def test_only_the_expert_arm_sees_the_experts_text_and_not_always(phantoms: StudyPhantoms) -> None:
    without = ArmSource(phantoms=phantoms, streams=frozenset(STREAMS[:4]), seed=1)
    assert all(without.sample(number).layout.expert is None for number in range(30))
    samples = [ArmSource(phantoms=phantoms, streams=frozenset(STREAMS), seed=1).sample(number) for number in range(60)]
    texts = [sample.layout.expert for sample in samples]
    assert 10 < sum(text is not None for text in texts) < 50
    for sample in samples:
        if sample.layout.expert is not None:
            assert sample.layout.expert.count("expert on") == len(sample.images)


def test_a_sequence_is_the_same_every_time_and_shows_the_prior_alone_when_it_foretells(phantoms: StudyPhantoms) -> None:
    source = ArmSource(phantoms=phantoms, streams=frozenset(STREAMS[:3]), seed=5)
    for number in range(30):
        first, second = source.sample(number), source.sample(number)
        assert first.turns == second.turns
        assert all(np.array_equal(a, b) for a, b in zip(first.images, second.images, strict=True))
        if any(turn.question == PREDICTION_TEXT for turn in first.turns):
            assert len(first.images) == 1
        assert first.layout.priors == len(first.images) - 1
        assert first.targets is not None
        assert np.isnan(first.targets.present[0]).all() == (len(first.images) == 1)


@given(st.integers(0, 5000))
@settings(max_examples=20, deadline=None)
def test_the_expert_is_wrong_as_often_as_it_is_said_to_be(seed: int) -> None:
    truth = truth_of_phantom(sample_pair(seed), "1")
    rng = np.random.default_rng(seed)
    rows = np.stack([oracle_row(truth, "current", rng) for _ in range(400)])
    right = [(image := truth.findings[key].current) is not None and image.present for key in STUDY_FINDINGS]
    wrong = ((rows > 0.5) != np.array(right)).mean()
    assert abs(wrong - EXPERT_FLIPS) < 0.05
    text = oracle_text([rows[0], rows[1]])
    assert text.startswith("expert on the prior image: ")
    assert text.count("yes") + text.count(" no") == 2 * len(STUDY_FINDINGS)


def test_films_are_averaged_down() -> None:
    films = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    assert average_down(films, 4) is films
    assert average_down(films, 2)[0].tolist() == [[2, 4], [10, 12]]


def test_a_cache_that_does_not_divide_is_refused(phantoms: StudyPhantoms) -> None:
    with pytest.raises(ValueError, match="cannot be reduced to 48"):
        StudyPhantoms(folder=phantoms.folder, side=48)


# --- the command ---

TINY = {"image_size": 28, "vision_width": 24, "vision_layers": 1, "vision_heads": 2, "vision_feed": 32,
        "text_width": 24, "text_layers": 1, "text_heads": 2, "text_kv_heads": 1, "text_feed": 32}  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The study's recipes at a size that a test can run."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name, steps in (("vision", 2), ("arm", 2)):
        lines = (arms.RECIPES / f"{name}.toml").read_text("utf-8").splitlines()
        changed = []
        for line in lines:
            key = line.split(" = ")[0]
            values = {**TINY, "steps": steps, "batch": 2}
            changed.append(f"{key} = {values[key]}" if key in values else line)
        (folder / f"{name}.toml").write_text("\n".join(changed), "utf-8")
    monkeypatch.setattr(arms, "RECIPES", folder)
    monkeypatch.setattr(arms_asking, "MAX_NEW_TOKENS", 4)  # untrained models never end by themselves
    cache = tmp_path / "cache"
    fill(cache, pairs=4, first_seed=1, size=28)
    return cache


def test_the_study_runs_goes_on_and_writes_its_tables(small: Path, tmp_path: Path) -> None:
    out, doc = tmp_path / "out", tmp_path / "study.md"
    arguments = ["run", str(out), "--cache", str(small), "--seeds", "1", "--test-pairs", "3"]
    done = CliRunner().invoke(arms.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    results = sorted(path.name for path in out.glob("*-1.json"))
    assert len(results) == len(arms.ARMS)
    lost = out / "difference-feature-1.json"
    kept = out / "expert-1.json"
    before, stamp = json.loads(lost.read_text("utf-8"))["answers"], kept.stat().st_mtime_ns
    lost.unlink()
    CliRunner().invoke(arms.app, arguments, catch_exceptions=False)
    assert json.loads(lost.read_text("utf-8"))["answers"] == before
    assert kept.stat().st_mtime_ns == stamp
    doc.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", "utf-8")
    CliRunner().invoke(arms.app, ["table", str(out), "--doc", str(doc)], catch_exceptions=False)
    text = doc.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert all(f"| {arm.name} |" in text for arm in arms.ARMS)
    values = json.loads(doc.with_suffix(".json").read_text("utf-8"))
    assert values["runs"]["+ expert"][0]["steps"] == 2
    assert set(values["figures"]) >= {BASELINE, "zero-shot", "+ expert, asked without its text"}


# --- figures ---


def said(kind: AnswerSet, pair: int, truth: str, answer: str, back: str = "") -> ArmAnswer:
    return ArmAnswer(set=kind, key=f"{pair}/x", pair=pair, truth=truth, said=answer, back=back)


def test_figures_of_a_small_test_by_hand() -> None:
    new = "the main image has an additional finding of edema than the reference image."
    nothing = "nothing has changed."
    answers = [
        said(AnswerSet.CLOSED, 0, "yes", "yes"),
        said(AnswerSet.CLOSED, 1, "no", "yes"),
        said(AnswerSet.OPEN, 0, "left lower", "left"),
        said(AnswerSet.CHANGE, 0, "new", "new", "resolved"),
        said(AnswerSet.CHANGE, 1, "none", "new", "none"),
        said(AnswerSet.DIFFERENCE, 0, new, new),
        said(AnswerSet.DIFFERENCE, 1, nothing, new),
        said(AnswerSet.PREDICTION, 0, "nothing will change.", "nothing will change."),
        said(AnswerSet.PREDICTION, 1, "nothing will change.", "nothing will change."),
    ]
    figures = {name: figure.total() for name, figure in measure_run(answers).items()}
    assert figures["closed accuracy"] == 0.5
    assert figures["open recall"] == 0.5
    assert figures["order-swap"] == 0.5
    assert figures["change macro F1"] == pytest.approx((2 / 3 + 0) / 2)
    assert figures["event F1"] == pytest.approx(2 / 3)
    assert figures["prediction BLEU-4"] < 0.5  # three words have no four-gram
    assert figures["prediction ROUGE-L"] == pytest.approx(1.0)
    assert "prediction, both images BLEU-4" not in figures


def test_runs_are_averaged_and_equal_arms_do_not_differ() -> None:
    rng = np.random.default_rng(0)
    good = [said(AnswerSet.CLOSED, pair, "yes", "yes" if rng.random() < 0.9 else "no") for pair in range(60)]
    bad = [replace(item, said="yes" if rng.random() < 0.4 else "no") for item in good]
    one, other = measure_run(good), measure_run(bad)
    found = arm_figures([one, other])["closed accuracy"]
    assert found.value == pytest.approx((one["closed accuracy"].total() + other["closed accuracy"].total()) / 2)
    assert found.low < found.value < found.high
    assert p_values([one], [one])["closed accuracy"] == 1.0
    assert p_values([one], [other])["closed accuracy"] < 0.001


def test_a_document_without_marks_and_a_study_without_runs_are_refused(tmp_path: Path) -> None:
    doc = tmp_path / "study.md"
    doc.write_text("nothing here", "utf-8")
    results = {"zero-shot": [({"arm": "zero-shot"}, {"without": [said(AnswerSet.CLOSED, 0, "yes", "no")]})]}
    with pytest.raises(DataError, match="lacks the marks"):
        write_study(results, doc)
    with pytest.raises(DataError, match="no result"):
        write_study({}, doc)
    assert study_rows(results)[BASELINE][0]["closed accuracy"].total() == 1.0
