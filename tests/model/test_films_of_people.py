"""The bundled checkpoint on films of people, phantoms and pictures of neither; skips without the shared films."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from model.experts.film_classifier import FilmKind
from model.images.display import from_grey, load_display_image
from model.predict import Predictor, load_predictor
from model.schema import Change, DisplayImage, Presence, StudyPair
from tests.support.common import shared
from training.data.datasets import load_pair, open_records, parse_spec
from training.readers.nih_series import read_nih_marks, read_nih_series
from training.records.drops import DropReport
from training.records.record import Split

NOT_CHEST = ("not_chest_RG3_extremity_MONO1_J2KR.dcm", "canine_dx_thorax_lateral.dcm")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor("demo")


@pytest.fixture(scope="module")
def pairs() -> list[StudyPair]:
    """Dev pairs of which radiologists read both films."""
    records = read_nih_marks(shared("data/nih_series"), DropReport())
    chosen = (record for record in records if record.split is Split.VALIDATE and record.prior is not None)
    return [load_pair(record) for record in islice(chosen, 24)]


def test_phantoms_are_read_by_the_language_model(predictor: Predictor) -> None:
    for record in open_records(parse_spec("phantom:6"), DropReport()):
        said = predictor.predict(load_pair(record))
        assert said.unstated == ()
        assert said.unfamiliarity is not None
        assert said.unfamiliarity < 1.5
        assert said.difference_text is not None


def test_of_phantoms_the_film_classifier_only_tells_the_kind(predictor: Predictor) -> None:
    assert predictor.films is not None
    pairs = [load_pair(record) for record in open_records(parse_spec("phantom:3"), DropReport())]
    for pair, seen in zip(pairs, predictor.films.look(pairs), strict=True):
        (whole,) = predictor.films.classifier.look([pair.current])
        assert seen.current.kind is whole.kind is FilmKind.PHANTOM
        assert seen.current.unfamiliarity == pytest.approx(whole.unfamiliarity, abs=1e-5)
        assert whole.maps
        assert not seen.current.maps


def test_a_persons_films_among_phantoms_are_read_as_alone(predictor: Predictor) -> None:
    assert predictor.films is not None
    phantom = load_pair(next(iter(open_records(parse_spec("phantom:1"), DropReport()))))
    (person,) = _people(1)
    mixed = [phantom, StudyPair(current=person), StudyPair(current=person, prior=phantom.current)]
    first, second, third = predictor.films.look(mixed)
    (alone,) = predictor.films.look([StudyPair(current=person)])
    assert first.current.kind is FilmKind.PHANTOM
    for seen in (second, third):
        assert seen.current.kind is FilmKind.PERSON
        assert seen.current.marked == pytest.approx(dict(alone.current.marked), abs=1e-4)
    assert third.prior is not None
    assert third.prior.marked  # of a pair that is read, both films are
    assert predictor.films.look([]) == []


def _people(count: int) -> list[DisplayImage]:
    records = read_nih_series(shared("data/nih_series"), DropReport())
    dev = (record for record in records if record.split is Split.VALIDATE)
    films = (load_pair(record).current for record in dev)
    return list(islice(films, count))


def test_films_of_people_are_read_by_the_film_classifier(predictor: Predictor, pairs: list[StudyPair]) -> None:
    said = predictor.predict_many(pairs)
    assert predictor.manifest.films is not None
    for one in said:
        assert [finding.key for finding in one.findings] == list(predictor.findings)
        assert {"fracture", "lung_nodule", "central_line"} <= set(one.unstated)
        for finding in one.findings:
            if finding.key in one.unstated:
                assert finding.presence is Presence.ABSTAINED
                assert finding.change is None
            if finding.regions:
                assert {region.method for region in finding.regions} == {"film classifier map"}
    assert any(finding.presence is Presence.PRESENT for one in said for finding in one.findings)


def test_the_other_order_says_the_inverse_and_the_same_film_twice_no_change(
    predictor: Predictor, pairs: list[StudyPair]
) -> None:
    inverse = {"new": "resolved", "resolved": "new", "worsening": "improving", "improving": "worsening"}
    for pair in pairs:
        same_film = StudyPair(current=pair.current, prior=pair.current)
        forth, back, twice = predictor.predict_many([pair, pair.swapped(), same_film])
        for one, other, same in zip(forth.findings, back.findings, twice.findings, strict=True):
            stated = one.change.value if one.change is not None else None
            turned = other.change.value if other.change is not None else None
            assert turned == (inverse.get(stated, stated) if stated is not None else None)
            assert same.change in (None, Change.STABLE, Change.NOT_COMPARABLE)


def test_few_films_of_people_are_called_unlike_the_training_films(predictor: Predictor) -> None:
    """Films of 64 px and larger ones alike."""
    records = read_nih_series(shared("data/nih_series"), DropReport())
    dev = [record for record in records if record.split is Split.VALIDATE]
    small = [record for record in dev if "images_64" in record.current.key]
    large = [record for record in dev if "images_64" not in record.current.key]
    for chosen in (small[::8], large[::16]):
        values = [predictor.unfamiliarity(StudyPair(current=load_pair(record).current)) for record in chosen]
        unlike = [value for value in values if value is None or value > 1.0]
        assert len(chosen) >= 50
        assert len(unlike) <= 0.04 * len(chosen)


@pytest.mark.parametrize("name", NOT_CHEST)
def test_other_body_parts_are_unlike_the_training_films(predictor: Predictor, name: str) -> None:
    image = load_display_image(shared("data/dicom") / name)
    value = predictor.unfamiliarity(StudyPair(current=image))
    assert value is not None
    assert value > 1.0


def test_noise_and_gradients_are_unlike_the_training_films(predictor: Predictor) -> None:
    rng = np.random.default_rng(0)
    ramp = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (256, 1))
    pictures: list[DisplayImage] = [from_grey(rng.random((256, 256), dtype=np.float32)), from_grey(ramp, crop=False)]
    for picture in pictures:
        value = predictor.unfamiliarity(StudyPair(current=picture))
        assert value is not None
        assert value > 1.0


def test_manifest_says_on_what_each_finding_was_measured(predictor: Predictor) -> None:
    reading = predictor.manifest.films
    assert reading is not None
    for rule in reading.findings.values():
        assert rule.measured
        if rule.stated:
            assert max(figure.low for name, figure in rule.measured.items() if name != "change") >= 0.6
    assert "ChestX-ray14" in reading.learned_on
    assert "Apache-2.0" in reading.backbone
