"""The bundled checkpoint on phantom courses: it predicts the next image from what is known, and from nothing else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from model.engine.answers import EngineJob, JobAnswers
from model.experts.film_classifier import FilmKind
from model.images.display import from_grey
from model.predict import Predictor, load_predictor
from model.prognosis.foresight import Foresight
from model.prognosis.inputs import SETTINGS, Known, setting_of
from model.schema import Change, PatientContext, Presence, PrognosisItem, StudyPair
from tests.support.common import shared
from training.data.datasets import load_pair
from training.phantom.course import sample_course
from training.readers.nih_series import read_nih_marks
from training.readers.phantom import course_records, read_phantom_courses
from training.records.drops import DropReport
from training.records.record import Record, Split

FIRST_SEED = 9_300_000
COURSES = 4


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor("demo")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [r for r in read_phantom_courses(COURSES, DropReport(), first_seed=FIRST_SEED) if r.future is not None]


@pytest.fixture(scope="module")
def three(records: list[Record]) -> StudyPair:
    """A study of three images: the least whose settings all differ."""
    return load_pair(next(record for record in records if len(record.images) == 3), most=8)


def foresight_of(predictor: Predictor) -> Foresight:
    assert predictor.foresight is not None
    return predictor.foresight


def said(predictor: Predictor, study: StudyPair) -> tuple[PrognosisItem, ...]:
    return predictor.predict(study).prognosis


def test_manifest_says_what_the_prognosis_was_measured_on_and_how_good_it_is(predictor: Predictor) -> None:
    manifest = predictor.manifest
    assert manifest.prognosis
    evidence = manifest.prognosis_evidence
    assert evidence is not None
    assert evidence.kinds == (FilmKind.PHANTOM,)
    assert set(evidence.settings) == set(SETTINGS) == set(manifest.prognosis_findings)
    for setting, figures in evidence.settings.items():
        assert figures.skill is not None
        assert figures.skill[1] >= 0.7, setting
        assert figures.calibration_error <= 0.03, setting
        assert figures.commonest < figures.accuracy[1]


def test_one_two_and_all_images_with_and_without_a_chart_are_settings_of_their_own(
    predictor: Predictor, three: StudyPair
) -> None:
    assert three.context is not None
    head, made = foresight_of(predictor).head, {}
    for images in (1, 2, 8):
        for context in (None, three.context):
            study = replace(three.newest(images), context=context)
            known = foresight_of(predictor).known(study)
            shares = head.probabilities(known)
            made[setting_of(known)] = shares
            prediction = predictor.predict(study)
            items = prediction.prognosis
            assert items
            assert prediction.images_seen == len(study.images)
            assert prediction.context_seen == (context is not None)
            for item in items:
                assert item.probability == pytest.approx(shares[item.key][item.change.value], abs=1e-6)
                is_absent = prediction.finding(item.key).presence is Presence.ABSENT
                assert (item.change is Change.NEW) == is_absent, "no contradiction to what is stated now"
    assert set(made) == set(SETTINGS)
    assert len({str(shares) for shares in made.values()}) == len(SETTINGS)


def test_an_image_that_was_read_before_is_not_asked_again(
    predictor: Predictor, three: StudyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = predictor.engine.ask

    def count(jobs: Sequence[EngineJob]) -> list[JobAnswers]:
        asked.append(len(jobs))
        return ask(jobs)

    monkeypatch.setattr(predictor.engine, "ask", count)
    head = foresight_of(predictor).head
    fresh = [
        Foresight(predictor.vlm, predictor.engine, head, stated={}, calibrated=predictor.calibrate_answer) for _ in "ab"
    ]
    before = fresh[0].readings(three.images[:2])
    kept = fresh[0].readings((*three.images, three.images[0]))
    assert asked == [2, 1]
    assert [kept[0] is before[0], kept[1] is before[1], kept[3] is before[0]] == [True] * 3
    together = fresh[1].readings(three.images)
    for one, other in zip(kept, together, strict=False):
        assert np.abs(one - other).max() <= 1e-5
    assert np.abs(kept[0] - kept[1]).max() > 1e-3, "two films are two readings"


def test_predictions_are_right_more_often_than_the_commonest_answer(
    predictor: Predictor, records: Sequence[Record]
) -> None:
    foresight, right, common, answers = foresight_of(predictor), 0, 0, 0
    for record in records[:9]:
        assert record.future is not None
        shares = foresight.head.probabilities(foresight.known(load_pair(record, most=8)))
        for key, truth in record.future.findings.items():
            right += max(shares[key], key=lambda answer: shares[key][answer]) == truth.change_answer
            common += truth.change_answer == "none"
            answers += 1
    assert answers >= 100
    assert right / answers >= common / answers + 0.1


def test_the_future_reaches_no_input(records: Sequence[Record]) -> None:
    course = sample_course(FIRST_SEED)
    keys = [f"film {number}" for number in range(len(course.films))]
    other = replace(
        course, films=(*course.films[:-1], replace(course.films[-1], states={}, labs={}, treatments=("antibiotics",)))
    )
    before, after = (list(course_records(c, "course", keys, Split.TEST)) for c in (course, other))
    for ours, theirs in zip(before[:-1], after[:-1], strict=True):
        assert replace(ours, future=None) == replace(theirs, future=None)
        assert keys[-1] not in [image.key for image in ours.images]
    assert before[-2].future != after[-2].future, "the change did reach the last film"
    assert records, "and every record that is asked has one"


def test_dropping_an_image_or_the_chart_changes_the_prognosis_and_nothing_else(
    predictor: Predictor, three: StudyPair
) -> None:
    whole = predictor.predict(three)
    fewer = predictor.predict(three.newest(len(three.images) - 1))
    bare = predictor.predict(replace(three, context=None))
    for other in (fewer, bare):
        assert other.findings == whole.findings
        assert other.difference_text == whole.difference_text
        assert other.prognosis != whole.prognosis


def test_one_laboratory_value_less_is_not_the_same_as_a_normal_one(predictor: Predictor, three: StudyPair) -> None:
    known = foresight_of(predictor).known(three.newest(1))
    charts = [{}, {"CRP": "3 mg/L normal"}, {"CRP": "200 mg/L very high"}]
    rows = [
        foresight_of(predictor).head.probabilities(
            Known(readings=known.readings, context=PatientContext(labs={"BNP": "60 pg/mL normal", **labs}))
        )
        for labs in charts
    ]
    assert len({str(shares["consolidation"]) for shares in rows}) == 3


def test_images_in_the_wrong_order_are_refused_before_anything_is_predicted(three: StudyPair) -> None:
    images = list(three.images)
    for place in range(len(images) - 1):
        turned = [*images[:place], images[place + 1], images[place], *images[place + 2 :]]
        with pytest.raises(ValueError, match="not in order of time"):
            StudyPair(current=turned[-1], prior=turned[-2], earlier=tuple(turned[:-2]))


def test_a_course_begins_after_an_image_that_is_like_none_of_training(predictor: Predictor, three: StudyPair) -> None:
    noise = from_grey(np.random.default_rng(0).random((256, 256), dtype=np.float32))
    times = [image.acquired for image in three.images]
    assert times[0] is not None
    before = replace(noise, acquired=times[0] - dt.timedelta(days=1))
    spoilt = replace(three, earlier=(before, *three.earlier))
    films = predictor.films
    assert films is not None
    course = films.course(spoilt, films.look([spoilt])[0], (FilmKind.PHANTOM, FilmKind.PERSON))
    assert course is not None
    assert course.images == three.images


def test_an_image_behind_a_longer_or_unknown_gap_than_was_measured_is_not_read(
    predictor: Predictor, three: StudyPair
) -> None:
    pair = three.newest(2)
    assert pair.prior is not None
    assert pair.prior.acquired is not None
    alone = said(predictor, three.newest(1))
    for acquired in (pair.prior.acquired - dt.timedelta(days=16), None):
        apart = predictor.predict(replace(pair, prior=replace(pair.prior, acquired=acquired)))
        assert {item.key: item.probability for item in apart.prognosis}.items() <= {
            item.key: pytest.approx(item.probability, abs=1e-5) for item in alone
        }.items()
        assert apart.prognosis
    assert said(predictor, pair) != alone


def test_nothing_is_predicted_of_films_of_people_nor_of_a_course_that_holds_one(
    predictor: Predictor, three: StudyPair
) -> None:
    marks = read_nih_marks(shared("data/nih_series"), DropReport())
    chosen = (record for record in marks if record.split is Split.VALIDATE and record.prior is not None)
    people = [load_pair(record) for record in islice(chosen, 8)]
    for one in predictor.predict_many(people):
        assert one.prognosis == ()
    mixed = three.newest(2)
    person = replace(people[0].current, acquired=None)
    assert said(predictor, mixed)
    assert said(predictor, replace(mixed, earlier=(person,))) == ()
