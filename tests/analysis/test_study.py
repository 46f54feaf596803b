"""A study with two frontal films: asked in one batch, and a film that cannot be answered costs the other nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pydicom
import pytest

from dicom_node.analysis.prepared import AnalysisInputs
from dicom_node.analysis.stored_images import StoredImage, read_stored
from dicom_node.analysis.study import analyse_study
from dicom_node.config import ModelSection
from dicom_node.errors import AnalysisError
from dicom_node.index.tables.core import Outcome
from dicom_node.priors import PriorPolicy
from dicom_node.report.render.text import as_text
from dicom_node.serving.model_process import InferenceProcess
from model.errors import InferenceError
from model.images.display import load_display_image
from model.predict import Predictor, load_predictor
from model.schema import AbstainReason, ModelIdentity, Prediction, StudyPair
from tests.support.tiny_nvila import save_tiny
from training.phantom.dicom import write_study_pair

NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


@dataclass(slots=True, kw_only=True)
class Moody:
    """A real predictor that notes how it was asked and fails where it is told to."""

    predictor: Predictor
    hates: str = ""
    """SOPInstanceUID of a film that it fails on."""
    asked: list[int] = field(default_factory=list)

    @property
    def identity(self) -> ModelIdentity:
        return self.predictor.identity

    def predict(self, pair: StudyPair) -> Prediction:
        return self.predict_many([pair])[0]

    def predict_many(self, pairs: Sequence[StudyPair]) -> list[Prediction]:
        self.asked.append(len(pairs))
        if any(pair.current.sop_instance_uid == self.hates for pair in pairs):
            raise InferenceError("it does not like this film")
        return self.predictor.predict_many(pairs)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", brief=True)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[StoredImage]:
    """Two frontal films of one study, ten minutes apart."""
    folder = tmp_path_factory.mktemp("study")
    made = write_study_pair(folder, 51, long_side=512)
    first, second = (pydicom.dcmread(study.files[0]) for study in (made.current, made.prior))
    later = made.current.acquired + dt.timedelta(minutes=10)
    second.StudyInstanceUID = first.StudyInstanceUID
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(second, keyword, later.strftime("%Y%m%d"))
    for keyword in ("SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(second, keyword, later.strftime("%H%M%S"))
    second.StudyTime = first.StudyTime
    if "AcquisitionDateTime" in second:
        del second.AcquisitionDateTime
    second.InstanceNumber = 2
    second.save_as(folder / "second.dcm")
    return [read_stored(made.current.files[0]), read_stored(folder / "second.dcm")]


def _setting(predictor: object, *, last_try: bool = True) -> AnalysisInputs:
    return AnalysisInputs(
        predictor=predictor,  # type: ignore[arg-type]
        decode=load_display_image,
        policy=PriorPolicy(),
        produced_at=NOW,
        last_try=last_try,
    )


def test_both_films_in_one_batch(checkpoint: Path, films: list[StoredImage]) -> None:
    model = Moody(predictor=load_predictor(checkpoint))
    requests = analyse_study(films, [], _setting(model))
    assert model.asked == [2]
    assert [request.outcome for request in requests] == [Outcome.FINDINGS_ONLY] * 2
    uids = {str(request.current.header.SOPInstanceUID) for request in requests}
    assert uids == {film.facts.sop_instance_uid for film in films}
    for request in requests:
        assert request.prediction is not None
        alone = model.predict(StudyPair(current=request.current.image))  # type: ignore[arg-type]
        for mine, theirs in zip(request.prediction.findings, alone.findings, strict=True):
            assert mine.probability == pytest.approx(theirs.probability, abs=1e-4)


def test_earlier_film_of_the_same_study_is_named_beside_an_older_prior(
    checkpoint: Path, films: list[StoredImage], tmp_path: Path
) -> None:
    """Films of one study are not compared with each other; the second report spoke as if the first did not exist."""
    prior = pydicom.dcmread(write_study_pair(tmp_path, 52, long_side=512).prior.files[0])
    for keyword in ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex"):
        setattr(prior, keyword, films[0].header[keyword].value)
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(prior, keyword, "20250801")
    prior.save_as(tmp_path / "prior.dcm")
    setting = _setting(Moody(predictor=load_predictor(checkpoint)))
    requests = analyse_study(films, [read_stored(tmp_path / "prior.dcm")], setting)
    first, second = sorted(requests, key=lambda request: request.frontal_number)
    assert [request.outcome for request in (first, second)] == [Outcome.COMPARED] * 2
    assert first.newer_prior == ""
    when = films[0].facts.when
    assert second.newer_prior == f"Not compared with the more recent prior of {when}: it is part of the current study."
    assert "Nicht mit dem jüngsten früheren Bild" in as_text(replace(second, language="de"))
    assert "es gehört zu dieser Untersuchung" in " ".join(as_text(replace(second, language="de")).split())


def test_a_film_that_cannot_be_answered_costs_the_other_nothing(checkpoint: Path, films: list[StoredImage]) -> None:
    bad = films[1].facts.sop_instance_uid
    model = Moody(predictor=load_predictor(checkpoint), hates=bad)
    requests = analyse_study(films, [], _setting(model))
    assert model.asked == [2, 1, 1]
    ended = {str(request.current.header.SOPInstanceUID): request for request in requests}
    assert ended[bad].outcome is Outcome.NOT_ANALYSED
    refused = ended[bad].prediction
    assert refused is not None
    assert refused.abstained is AbstainReason.MODEL_FAILED
    assert ended[films[0].facts.sop_instance_uid].outcome is Outcome.FINDINGS_ONLY
    with pytest.raises(AnalysisError, match="does not like this film"):
        analyse_study(films, [], _setting(model, last_try=False))


def test_a_batch_goes_through_the_models_process(checkpoint: Path, films: list[StoredImage]) -> None:
    section = ModelSection(source=str(checkpoint))
    process = InferenceProcess(section, source=lambda: str(checkpoint), threads=1)
    try:
        requests = analyse_study(films, [], _setting(process))
    finally:
        process.close()
    assert [request.outcome for request in requests] == [Outcome.FINDINGS_ONLY] * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """A real predictor whose answers bear a score of unfamiliarity beyond its limit."""

    predictor: Predictor

    @property
    def identity(self) -> ModelIdentity:
        return self.predictor.identity

    def predict(self, pair: StudyPair) -> Prediction:
        return self.predict_many([pair])[0]

    def predict_many(self, pairs: Sequence[StudyPair]) -> list[Prediction]:
        answers = self.predictor.predict_many(pairs)
        return [replace(answer, unfamiliarity=3.0, unfamiliarity_limit=2.0) for answer in answers]


def test_an_image_unlike_those_of_training_is_not_analysed(checkpoint: Path, films: list[StoredImage]) -> None:
    setting = _setting(Stranger(predictor=load_predictor(checkpoint)))
    refused = analyse_study(films[:1], [], setting)[0]
    assert refused.outcome is Outcome.NOT_ANALYSED
    assert refused.prediction is not None
    assert refused.prediction.abstained is AbstainReason.UNFAMILIAR
    assert refused.prediction.findings == ()
    for language, words in (
        ("en", "the image is unlike what this model was trained on. - How well the model"),
        ("de", "anders als alles, womit dieses Modell trainiert wurde. - Wie gut das Modell ein solches Bild"),
    ):
        assert words in " ".join(as_text(replace(refused, language=language)).split())


def test_an_unfamiliar_image_is_read_with_a_warning_where_the_site_wants_it(
    checkpoint: Path, films: list[StoredImage]
) -> None:
    setting = replace(_setting(Stranger(predictor=load_predictor(checkpoint))), reads_unfamiliar=True)
    read = analyse_study(films[:1], [], setting)[0]
    assert read.outcome is Outcome.FINDINGS_ONLY
    opening = " ".join(as_text(read).split("\n\n")[1].split())
    assert "Warning: the image is unlike what this model was trained on." in opening
