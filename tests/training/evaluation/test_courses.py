"""Evaluation over several visits: prediction tables by setting, temporal inversion, five-visit multiple choice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from model.images.display import from_grey
from model.questions.answers import CHANGE_ANSWERS
from model.schema import Change, DisplayImage, Finding, Prediction, Presence, PrognosisItem, StudyPair
from tests.support.oracle import IDENTITY, told
from training.data.datasets import load_choices, open_choices, require_choices
from training.evaluation.choices import answer_choices, score_choices
from training.evaluation.evaluate import EvaluationOptions, evaluate
from training.evaluation.forecasts import SETTINGS, best_of, study_in_setting
from training.evaluation.inversion import score_inversion
from training.evaluation.report import as_html, as_json
from training.evaluation.visits import COURSES, VisitReading, best_letter, change_shares, courses_of
from training.metrics.forecasts import ForecastRow, as_table, likeliest, score_settings
from training.metrics.pairs import Answered
from training.phantom.ceiling import answer_of_levels
from training.phantom.course import sample_story
from training.phantom.scene import PHANTOM_FINDINGS
from training.readers.phantom import read_phantom_courses, read_phantom_pairs
from training.readers.phantom_choices import CHOICES_SEED, levels_of, read_phantom_choices
from training.records.choices import VISITS, ChoiceFamily, ChoiceItem
from training.records.drops import DataError, DropReport
from training.records.record import Record

QUICK = EvaluationOptions(resamples=20, meteor=False, consistency=False, prognosis=True)
TRAJECTORY_KINDS = (
    "single_emergence",
    "single_resolution",
    "multiple_emergence_1",
    "multiple_emergence_2",
    "multiple_resolution_2",
)


def blank(number: int) -> DisplayImage:
    return from_grey(np.full((8, 8), number / 100, np.float32), crop=False)


def studies(records: Sequence[Record]) -> Iterator[tuple[Record, StudyPair]]:
    """Each record with blank images: what is known of the films comes from the record."""
    for record in records:
        images = [blank(number) for number in range(len(record.images))]
        prior = images[-2] if len(images) > 1 else None
        yield record, StudyPair(current=images[-1], prior=prior, earlier=tuple(images[:-2]), context=record.context)


class Seer:
    """Answers each study with the best possible prediction of its setting, told apart by the images it is shown."""

    identity = IDENTITY

    def __init__(self) -> None:
        self.record: Record | None = None
        self.shown: list[tuple[int, bool]] = []

    def items(self, records: Sequence[Record]) -> Iterator[tuple[Record, StudyPair]]:
        for record, study in studies(records):
            self.record = record
            yield record, study

    def predict(self, pair: StudyPair) -> Prediction:
        assert self.record is not None
        self.shown.append((len(pair.images), pair.context is not None))
        images = {1: "current", 2: "both"}.get(len(pair.images), "all")
        name = f"{images} and chart" if pair.context is not None else images
        best = best_of(self.record)
        assert best is not None
        setting = next((one for one in SETTINGS if one.value == name), None)
        said = told(self.record.truth)
        if setting is None:
            return said
        top = {key: (likeliest(shares), max(shares.values())) for key, shares in best(setting).items()}
        items = [
            PrognosisItem(key=key, change=Change(answer), probability=share)
            for key, (answer, share) in top.items()
            if answer != "none"
        ]
        return replace(said, prognosis=tuple(items))


@cache
def course_records() -> tuple[Record, ...]:
    return tuple(read_phantom_courses(12, DropReport(), first_seed=9_410_000))[:30]


def test_the_best_possible_reader_has_a_skill_of_one_in_every_setting() -> None:
    seer = Seer()
    result = evaluate(seer, seer.items(course_records()), DropReport(), data="courses", options=QUICK)
    assert [score.setting for score in result.forecasts] == [setting.value for setting in SETTINGS]
    for score in result.forecasts:
        assert score.skill is not None
        assert score.skill[0] == pytest.approx(1.0), score.setting
        assert score.accuracy[0] == pytest.approx(score.ceiling)
        assert score.common < score.accuracy[0]
    assert len({score.answers for score in result.forecasts}) == 1, "the same answers in every setting"
    assert result.prognosis is None
    page, values = as_html(result), as_json(result)
    assert "Prognosis of the next image, by what is known" in page
    assert json.loads(json.dumps(values))["forecasts"][0]["setting"] == "current"


def test_a_model_that_foretells_nothing_has_no_skill() -> None:
    class Silent(Seer):
        def predict(self, pair: StudyPair) -> Prediction:
            return replace(super().predict(pair), prognosis=())

    silent = Silent()
    result = evaluate(silent, silent.items(course_records()), DropReport(), data="courses", options=QUICK)
    assert all(score.skill is not None and score.skill[0] <= 0.0 for score in result.forecasts)


def test_where_the_ceiling_is_the_commonest_answer_there_is_no_skill() -> None:
    rows = [
        ForecastRow(patient=name, key="edema", right=True, common=True, best=True, certainty=None, came=None)
        for name in ("a", "b", "b")
    ]
    (score,) = score_settings({"both": rows}, resamples=20)
    assert score.skill is None
    assert score.accuracy[0] == score.ceiling == score.common == 1.0
    assert "| both | 1.000" in as_table([score])[-1]
    mixed = [
        *rows,
        ForecastRow(patient="c", key="edema", right=False, common=False, best=True, certainty=0.5, came=0.2),
    ]
    (score,) = score_settings({"both": mixed}, resamples=200)
    assert score.skill is not None
    assert score.skill[0] == 0.0, "draws without the third patient leave no room and do not count"


def test_each_setting_shows_what_it_names_and_no_more() -> None:
    record = max(course_records(), key=lambda one: len(one.images))
    ((_, study),) = studies([record])
    shown = [study_in_setting(study, setting) for setting in SETTINGS]
    assert [len(one.images) for one in shown] == [1, 2, len(record.images), len(record.images)]
    assert [one.context is not None for one in shown] == [False, False, False, True]
    assert all(one.current is study.current for one in shown)


def test_pairs_without_a_known_future_are_foretold_from_the_prior_alone() -> None:
    records = list(read_phantom_pairs(3, DropReport()))

    class Teller(Seer):
        def predict(self, pair: StudyPair) -> Prediction:
            self.shown.append((len(pair.images), False))
            assert self.record is not None
            return told(self.record.truth)

    teller = Teller()
    result = evaluate(teller, teller.items(records), DropReport(), data="pairs", options=QUICK)
    assert result.forecasts == ()
    assert result.prognosis is not None
    assert teller.shown == [(2, False), (1, False)] * 3


# --- temporal inversion ---


def test_inversion_tells_a_model_that_sees_the_order_from_one_that_does_not() -> None:
    truths = [record.truth for record in read_phantom_pairs(12, DropReport())]
    seeing = [Answered(truth=t, prediction=told(t), swapped=told(t.swapped())) for t in truths]
    assert {name: one.value for name, one in score_inversion(seeing, resamples=5).items()} == dict.fromkeys(
        (
            *("forward", "backward", "both", "consistency"),
            *("forward, changed", "backward, changed", "both, changed", "consistency, changed"),
            "sensitivity",
        ),
        1.0,
    )
    blind = [Answered(truth=t, prediction=told(t), swapped=told(t)) for t in truths]
    figures = score_inversion(blind, resamples=5)
    assert figures["forward"].value == 1.0
    assert figures["sensitivity"].value == figures["both, changed"].value == figures["backward, changed"].value == 0.0
    assert score_inversion([Answered(truth=truths[0], prediction=told(truths[0]))]) == {}


# --- multiple choice ---


@cache
def questions() -> tuple[ChoiceItem, ...]:
    return tuple(read_phantom_choices(40, DropReport()))


def exact_reading(item: ChoiceItem) -> VisitReading:
    """The answers of an error-free reader to the five films."""
    seed = int(item.patient_id.rpartition("/")[2])
    levels = levels_of(sample_story(seed))
    return VisitReading(
        presence={key: tuple(float(level > 0) for level in levels[key]) for key in PHANTOM_FINDINGS},
        changes={
            key: tuple(
                {answer: float(answer == answer_of_levels(a, b)) for answer in CHANGE_ANSWERS}
                for a, b in pairwise(levels[key])
            )
            for key in PHANTOM_FINDINGS
        },
    )


def test_a_reader_without_errors_answers_every_question_rightly() -> None:
    given = [(item, best_letter(item, exact_reading(item)) or "") for item in questions()]
    scores = score_choices(given, resamples=20)
    for score in scores.scores:
        assert score.answered == score.items
        assert score.accuracy.value == 1.0
    assert {score.family for score in scores.scores} == {"all", "TEL", "ORDER", "GTS"}


def test_questions_have_five_different_options_and_are_the_same_every_time() -> None:
    assert questions()[:6] == tuple(read_phantom_choices(4, DropReport()))[:6]
    assert len({item.item_id for item in questions()}) == len(questions())
    for item in questions():
        assert len(item.images) == VISITS
        assert len(set(item.choices.values())) == len(item.choices) == 5
    letters = [item.answer for item in questions()]
    assert all(letters.count(letter) >= 0.08 * len(letters) for letter in "ABCDE")
    never = [item for item in questions() if item.kind == "single_emergence" and item.answer == "E"]
    assert never, "some findings never newly appear"


def test_a_reader_that_knows_nothing_is_at_chance() -> None:
    even = VisitReading(
        presence=dict.fromkeys(PHANTOM_FINDINGS, (0.5,) * VISITS),
        changes={key: (dict.fromkeys(CHANGE_ANSWERS, 1 / 6),) * 4 for key in PHANTOM_FINDINGS},
    )
    right = np.mean([best_letter(item, even) == item.answer for item in questions() if item.family != "TEL"])
    assert right < 0.45


@pytest.mark.parametrize("kind", TRAJECTORY_KINDS)
def test_options_on_presence_exclude_each_other_and_leave_no_course_out(kind: str) -> None:
    texts = [f"T{place} → T{place + 1}" for place in range(1, VISITS)]
    sets = [courses_of(kind, text) for text in (*texts, "There is no such event")]
    courses = [set(one) for one in sets if one is not None]
    assert len(courses) == 5
    assert all(not (a & b) for a, b in combinations(courses, 2))
    assert set.union(*courses) == set(COURSES)


def test_a_sequence_is_the_first_event_and_the_first_opposite_one_after_it() -> None:
    course = (False, True, True, False, True)
    pairs = [f"T{a}, T{b}" for a in range(1, 6) for b in range(a + 1, 6)]
    holding = [p for p in pairs if course in (courses_of("emergence_to_resolution", p) or ())]
    assert holding == ["T2, T4"]
    assert [p for p in pairs if course in (courses_of("resolution_to_emergence", p) or ())] == ["T4, T5"]
    assert course not in (courses_of("emergence_to_resolution", "There is no such sequence") or ())


def test_prose_is_not_understood_and_counts_as_unanswered() -> None:
    item = replace(
        questions()[0],
        family=ChoiceFamily.CHANGE,
        kind="icr_multi_abn",
        choices=dict.fromkeys("ABCDE", "the effusion looks larger"),
    )
    assert best_letter(item, exact_reading(item)) is None
    scores = score_choices([(item, "")], resamples=5)
    assert scores.scores[0].answered == 0
    assert scores.scores[0].accuracy.value == 0.0


def test_a_stated_change_is_a_belief_and_its_rest_is_spread() -> None:
    finding = Finding(
        key="edema", presence=Presence.PRESENT, probability=0.9, change=Change.NEW, change_probability=0.75
    )
    shares = change_shares(finding)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["new"] == 0.75
    assert shares["none"] == shares["worsening"] == pytest.approx(0.05)
    absent = replace(finding, presence=Presence.ABSENT, probability=0.1, prior_probability=0.2, change=None)
    assert likeliest(change_shares(absent)) == "none"
    unknown = change_shares(replace(finding, change=Change.NOT_COMPARABLE, change_probability=None))
    assert len(set(unknown.values())) == 1


def test_visits_are_asked_once_for_all_questions_of_a_patient() -> None:
    items = [item for item in questions() if item.patient_id == questions()[-1].patient_id]
    assert len(items) > 1
    asked: list[int] = []

    class Counting:
        def predict(self, pair: StudyPair) -> Prediction:
            asked.append(len(pair.images))
            findings = [Finding(key=key, presence=Presence.ABSENT, probability=0.2) for key in PHANTOM_FINDINGS]
            return Prediction(findings=tuple(findings), model=IDENTITY)

    images = tuple(blank(number) for number in range(VISITS))
    scores = answer_choices(Counting(), [(item, images) for item in items], resamples=5)
    assert asked == [1, 2, 2, 2, 2]
    assert scores is not None
    assert set(scores.letters) == {item.item_id for item in items}


def test_sets_of_choices_are_opened_by_name(tmp_path: Path) -> None:
    report = DropReport()
    ((item, images),) = load_choices(f"phantom:1@{CHOICES_SEED}", report, limit=1)
    assert item.patient_id.startswith("phantom-course/")
    assert len(images) == VISITS
    for text in ("phantom:", "phantom:x", "mi-cxr:here", "site:FILE", "phantom:3@z"):
        with pytest.raises(DataError, match="names no multiple-choice set; write one of: phantom"):
            open_choices(text, report)
    with pytest.raises(DataError, match=r"micxr_test\.jsonl cannot be read"):
        list(open_choices(f"mi-cxr:{tmp_path},{tmp_path}", report))


def test_a_set_without_a_question_is_named_before_anything_is_asked(tmp_path: Path) -> None:
    require_choices("phantom:1")
    visits = {f"T{number}": f"files/p10/p10000032/s{number}/{number}.jpg" for number in range(1, VISITS + 1)}
    row = {
        "qid": 1,
        "group_type": "TEL",
        "qtype": "single_emergence",
        "images": visits,
        "question": "When does edema newly appear?",
        "choices": dict.fromkeys("ABCDE", "T1 → T2"),
        "answer": "A",
    }
    (tmp_path / "micxr_test.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    for text, reason in (
        (f"mi-cxr:{tmp_path},{tmp_path}/elsewhere", "image file missing"),
        ("phantom:0", "no question"),
    ):
        with pytest.raises(DataError, match=reason):
            require_choices(text)
