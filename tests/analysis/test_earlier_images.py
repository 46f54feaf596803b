"""A study of a patient with four earlier ones: as many images as the checkpoint takes, and the report says which."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import UID

from dicom_node.analysis.prepared import AnalysisInputs
from dicom_node.analysis.stored_images import StoredImage, read_stored
from dicom_node.analysis.study import analyse_study
from dicom_node.priors import PriorPolicy
from dicom_node.report.render.text import as_text
from dicom_node.report.request import ReportRequest
from model.images.display import load_display_image
from model.predict import Predictor, load_predictor
from model.schema import ModelIdentity, Prediction, StudyPair
from tests.support.tiny_nvila import save_tiny
from training.phantom.course import ClinicalOptions
from training.phantom.course_dicom import write_course

NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


@dataclass(slots=True, kw_only=True)
class Noting:
    """A real predictor that keeps what it was asked."""

    predictor: Predictor
    asked: list[StudyPair] = field(default_factory=list)

    @property
    def identity(self) -> ModelIdentity:
        return self.predictor.identity

    def predict(self, pair: StudyPair) -> Prediction:
        return self.predict_many([pair])[0]

    def predict_many(self, pairs: Sequence[StudyPair]) -> list[Prediction]:
        self.asked += pairs
        return self.predictor.predict_many(pairs)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[StoredImage]:
    """Five studies of one patient, oldest first."""
    course = write_course(tmp_path_factory.mktemp("course"), 7, options=ClinicalOptions(films=(5, 5)), long_side=384)
    return [read_stored(study.files[0]) for study in course.studies]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Takes four images of a study at once."""
    return load_predictor(
        save_tiny(tmp_path_factory.mktemp("models") / "four", manifest={"images": 4, "calibrated_on": 100}, brief=True)
    )


def _analyse(
    model: Noting, current: StoredImage, earlier: list[StoredImage], policy: PriorPolicy | None = None
) -> ReportRequest:
    setting = AnalysisInputs(
        predictor=model, decode=load_display_image, policy=policy or PriorPolicy(), produced_at=NOW, language="en"
    )
    return analyse_study([current], earlier, setting)[0]


def _uids(images: Sequence[StoredImage]) -> list[str]:
    return [image.facts.sop_instance_uid for image in images]


def test_as_many_images_as_the_checkpoint_takes(model: Predictor, films: list[StoredImage]) -> None:
    noting = Noting(predictor=model)
    request = _analyse(noting, films[4], [films[1], films[3], films[0], films[2]])
    assert [image.sop_instance_uid for image in noting.asked[0].images] == _uids(films[1:])
    assert [str(image.header.SOPInstanceUID) for image in request.earlier_images] == _uids(films[1:3])
    text = " ".join(as_text(request).split())
    assert "The model also saw the earlier chest radiographs of" in text
    german = " ".join(as_text(replace(request, language="de")).split())
    assert "deren jede dieselben Regeln zulassen" in german


def test_a_site_that_wants_the_pair_gets_the_pair(model: Predictor, films: list[StoredImage]) -> None:
    noting = Noting(predictor=model)
    request = _analyse(noting, films[4], films[:4], PriorPolicy(max_priors=1))
    assert [image.sop_instance_uid for image in noting.asked[0].images] == _uids(films[3:])
    assert request.earlier_images == ()
    assert "also saw" not in as_text(request)


def test_the_same_film_under_another_uid_is_shown_once(
    model: Predictor, films: list[StoredImage], tmp_path: Path
) -> None:
    """Its header says another study and day; its pixels are those of the prior."""
    copy = pydicom.dcmread(films[3].path)
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = UID("2.25.81")
    copy.StudyInstanceUID, copy.SeriesInstanceUID = UID("2.25.82"), UID("2.25.83")
    taken = films[3].facts.taken_at
    assert taken is not None
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(copy, keyword, f"{taken - dt.timedelta(days=1):%Y%m%d}")
    copy.AcquisitionDateTime = f"{taken - dt.timedelta(days=1):%Y%m%d%H%M%S}"
    copy.save_as(tmp_path / "copy.dcm")
    noting = Noting(predictor=model)
    _analyse(noting, films[4], [films[3], read_stored(tmp_path / "copy.dcm"), films[0]])
    assert [image.sop_instance_uid for image in noting.asked[0].images] == _uids([films[0], films[3], films[4]])
