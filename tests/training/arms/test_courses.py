"""The study of the arms on courses: what is shown and asked, the expert's heads, figures by hand, and the whole run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from model.ontology import ontology
from model.questions.answers import CHANGE_ANSWERS
from training.arms import courses as study
from training.arms.course_ask import CourseAnswer, CourseAnswerSet
from training.arms.course_data import OPTIONS, SEQUENCES_ALIKE, CourseArmSource, StudyCourses
from training.arms.course_expert import expert_labels, fit_heads, present_on
from training.arms.course_table import (
    BEGIN,
    BUNDLED,
    END,
    PREDICTION,
    WITH_EXPERT,
    gains_of,
    score_part,
    write_course_study,
)
from training.arms.data import STUDY_FINDINGS
from training.arms.run import RECIPES
from training.arms.table import WITHOUT
from training.phantom.ceiling import Knowledge, answer_of_levels, best_answers
from training.phantom.course import sample_story
from training.readers.phantom import HELD_OUT_SEED
from training.records.drops import DataError

COUNT = 12


@pytest.fixture(scope="module")
def courses(tmp_path_factory: pytest.TempPathFactory) -> StudyCourses:
    made = StudyCourses(folder=tmp_path_factory.mktemp("courses"), first_seed=40, courses=COUNT, side=32)
    made.features = np.zeros((COUNT * 2, 4, 8), np.float16)
    made.features[:] = np.arange(COUNT * 2)[:, None, None]  # a film's features tell which film it is
    made.opinions = present_on(made) * 0.8 + 0.1
    return made


def test_no_sequence_shows_the_film_that_it_foretells(courses: StudyCourses) -> None:
    source = CourseArmSource(courses=courses, seed=3)
    for number in range(4 * SEQUENCES_ALIKE):
        sample = source.sample(number)
        films = [int(each[0, 0]) for each in sample.features]
        course = courses.course(films[-1] // 2)
        after = course.films[films[-1] % 2 + 1]
        now = course.films[films[-1] % 2]
        assert len(films) == 1 + number // SEQUENCES_ALIKE % 2
        assert len({film // 2 for film in films}) == 1
        assert films == sorted(films)
        assert sample.layout.days == tuple(now.day - course.films[film % 2].day for film in films[:-1])
        said = {turn.question: turn.answer for turn in sample.turns}
        assert len(said) == len(STUDY_FINDINGS)
        for key in STUDY_FINDINGS:
            answer = next(text for question, text in said.items() if ontology().findings[key].name in question)
            assert (answer == "new") == (key not in now.states and key in after.states)
            assert (answer == "resolved") == (key in now.states and key not in after.states)


def test_the_arms_of_one_seed_differ_by_the_experts_text_alone(courses: StudyCourses) -> None:
    plain = CourseArmSource(courses=courses, seed=5)
    told = CourseArmSource(courses=courses, seed=5, labels=("Effusion", "Consolidation", "Edema", "Cardiomegaly"))
    texts = []
    for number in range(60):
        one, other = plain.sample(number), told.sample(number)
        assert one.turns == other.turns
        assert all(np.array_equal(a, b) for a, b in zip(one.features, other.features, strict=True))
        assert one.layout.expert is None
        texts.append(other.layout.expert)
        if texts[-1] is not None:
            film = int(other.features[-1][0, 0])
            present = present_on(courses)[film] > 0.5
            words = [part.split()[-1] for part in texts[-1].split("; ")[-1].split(", ")]
            assert [word == "yes" for word in words] == present.tolist()
            assert texts[-1].count("expert on") == len(other.features)
    assert 15 < sum(text is not None for text in texts) < 45


def test_nothing_is_learned_from_what_is_tested() -> None:
    spans = [range(first, first + count) for first, count in (study.TRAINING, study.EXPERT, study.TEST)]
    assert not {*spans[0]} & {*spans[1]}
    assert max(spans[0].stop, spans[1].stop) < HELD_OUT_SEED <= spans[2].start


def test_the_experts_labels_stand_in_the_order_of_the_findings() -> None:
    assert [label for label in expert_labels() if label] == [ontology().findings[key].nih for key in STUDY_FINDINGS]


def test_heads_learn_what_the_features_tell() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 6, generator=generator) * 3.0 + 5.0
    present = torch.stack([features[:, 0] > 5.0, features[:, 3] < 4.0], dim=1).float()
    weight, bias = fit_heads(features, present)
    assert (((features @ weight.T + bias) > 0) == (present > 0.5)).float().mean() > 0.95


# --- figures ---


def answers_of(kind: CourseAnswerSet, said: Callable[[int, str], dict[str, float]]) -> list[CourseAnswer]:
    """A reader's answers on the same courses. said: course and finding → the probability of each answer."""
    return [
        CourseAnswer(
            set=kind, course=course, finding=finding, truth=next_answer(course, finding), shares=said(course, finding)
        )
        for course in range(HELD_OUT_SEED, HELD_OUT_SEED + 30)
        for finding in STUDY_FINDINGS
    ]


def next_answer(course: int, finding: str) -> str:
    levels = [film.levels[finding] for film in sample_story(course, OPTIONS).seen]
    return answer_of_levels(levels[1], levels[2])


def sure_of(answer: str) -> dict[str, float]:
    return {each: 0.95 if each == answer else 0.01 for each in CHANGE_ANSWERS}


def always_stable(course: int, finding: str) -> dict[str, float]:
    return sure_of("stable")


def seer(course: int, finding: str) -> dict[str, float]:
    return sure_of(next_answer(course, finding))


def test_the_ceiling_is_that_of_the_films_that_are_shown() -> None:
    for kind, knowledge in (
        (CourseAnswerSet.NEXT_FROM_ONE, Knowledge.CURRENT),
        (CourseAnswerSet.NEXT_FROM_TWO, Knowledge.BOTH),
    ):

        def best(course: int, finding: str, known: Knowledge = knowledge) -> dict[str, float]:
            story = sample_story(course, OPTIONS)
            return dict(best_answers(story.seen[:2], story.cadence, known)[finding])

        scores = score_part({"best": [answers_of(kind, best)], "seer": [answers_of(kind, seer)]}, kind)
        assert scores["best"].ceiling is not None
        assert scores["best"].accuracy[0] == scores["best"].ceiling < scores["seer"].accuracy[0] == 1.0
        assert scores["best"].skill is not None
        assert scores["best"].skill[0] == pytest.approx(1.0)


def test_runs_count_once_for_each_course_and_gains_have_the_sign_of_what_is_better() -> None:
    kind = CourseAnswerSet.NEXT_FROM_TWO
    good, bad = answers_of(kind, seer), answers_of(kind, always_stable)
    gains = {(row["against"], row["of"]): row for row in gains_of({PREDICTION: [bad, bad], WITH_EXPERT: [bad, good]})}
    found = gains[PREDICTION, WITH_EXPERT]
    assert found["set"] == kind.value
    wrong = np.mean([item.truth != "stable" for item in good])
    assert found["accuracy"]["gain"] == pytest.approx(wrong / 2)
    assert found["accuracy"]["courses"] == 30
    assert 0.0 < found["accuracy"]["low"] < found["accuracy"]["gain"] < found["accuracy"]["high"]
    assert found["log_loss"]["gain"] > 0.0
    assert found["accuracy"]["p"] < 0.001


def test_what_cannot_be_a_table_is_refused(tmp_path: Path, courses: StudyCourses) -> None:
    doc = tmp_path / "study.md"
    doc.write_text("nothing here", "utf-8")
    answers = {"without": answers_of(CourseAnswerSet.NEXT_FROM_TWO, seer)}
    about = {"arm": PREDICTION, "seed": 1, "steps": 4, "test_courses": 30, "training_courses": 5}
    with pytest.raises(DataError, match="no result"):
        write_course_study({}, courses, doc)
    with pytest.raises(DataError, match="lacks the marks"):
        write_course_study({PREDICTION: [(about, answers)]}, courses, doc)
    doc.write_text(f"{BEGIN}{END}", "utf-8")
    with pytest.raises(DataError, match=r"different steps: \[4, 8\]"):
        write_course_study({PREDICTION: [(about, answers), (about | {"steps": 8}, answers)]}, courses, doc)


# --- the command ---


def test_the_study_runs_goes_on_and_writes_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = (RECIPES / "courses.toml").read_text("utf-8")
    (tmp_path / "courses.toml").write_text(recipe.replace("batch = 8", "batch = 1"), "utf-8")
    monkeypatch.setattr("training.arms.courses.RECIPES", tmp_path)
    out, doc = tmp_path / "out", tmp_path / "study.md"
    sizes = ["--training-courses", "2", "--expert-courses", "3", "--test-courses", "2"]
    arguments = ["run", str(out), "--seeds", "1", "--steps", "1", *sizes]
    CliRunner().invoke(study.app, arguments, catch_exceptions=False)
    lost, kept = out / "expert-1.json", out / "prediction-1.json"
    before, stamp = json.loads(lost.read_text("utf-8"))["answers"], kept.stat().st_mtime_ns
    lost.unlink()
    doc.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", "utf-8")
    CliRunner().invoke(study.app, ["table", str(out), "--doc", str(doc)], catch_exceptions=False)
    assert f"| {PREDICTION} |" not in doc.read_text("utf-8"), "a seed that one arm lacks is compared"
    CliRunner().invoke(study.app, arguments, catch_exceptions=False)
    assert json.loads(lost.read_text("utf-8"))["answers"] == before
    assert kept.stat().st_mtime_ns == stamp
    assert before["with"] != before["without"], "the expert's text changes nothing"
    CliRunner().invoke(study.app, ["table", str(out), "--doc", str(doc)], catch_exceptions=False)
    text = doc.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert all(
        f"| {row} |" in text for row in (BUNDLED, PREDICTION, WITH_EXPERT, WITH_EXPERT + WITHOUT, *STUDY_FINDINGS)
    )
    values = json.loads((tmp_path / "study-courses.json").read_text("utf-8"))
    assert values["runs"][WITH_EXPERT][0]["steps"] == 1
