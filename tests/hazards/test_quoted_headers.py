"""Headers that a report quotes: what a stranger writes into them neither stops it nor turns its words around."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from dicom_node.context import NodeContext
from dicom_node.index.tables.core import Outcome
from model.predict import load_predictor
from tests.hazards.test_odd_films import take
from tests.support.chain import Models, analyse_all, copied, current_results, document, encoded, text_of
from tests.support.delivery_node import Clock, make_node
from tests.support.odd_films import put
from tests.support.tiny_nvila import save_tiny
from training.phantom.dicom import write_study_pair

STEERING = "\0\x07\x1b\N{RIGHT-TO-LEFT OVERRIDE}\N{FIRST STRONG ISOLATE}"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(predictor=load_predictor(save_tiny(tmp_path_factory.mktemp("models") / "tiny", brief=True)))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    made = write_study_pair(tmp_path_factory.mktemp("films"), 53, long_side=160)
    return pydicom.dcmread(made.current.files[0])


@pytest.fixture
def node(tmp_path: Path, each_index: str) -> Iterator[NodeContext]:
    made = make_node(tmp_path, Clock())
    yield made
    made.database.close()


def test_control_characters_in_a_header_neither_stop_a_report_nor_stand_in_it(
    node: NodeContext, models: Models, film: Dataset
) -> None:
    """PostgreSQL keeps no NUL, so an analysis whose reason quoted one failed until it was a dead letter."""
    odd = {
        "refused": encoded(copied(film, PatientSpeciesDescription=f"dog{STEERING}")),
        "contradicted by its picture": put(0x00180015, b"CS", b"KN\0EE\x07 ")(encoded(film)),
        "analysed": put(0x00080070, b"LO", b"AC\0ME\x07 ")(put(0x00185101, b"CS", b"P\0A ")(encoded(film))),
    }
    studies = []
    for number, data in enumerate(odd.values(), start=1):
        studies.append(copied(film))
        for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            old = str(film[key].value)
            new = f"{old[:-1]}{number}"
            data = data.replace(old.encode(), new.encode())
            setattr(studies[-1], key, new)
        take(node, data, str(film.file_meta.TransferSyntaxUID), studies[-1])
    analyse_all(node, models)
    results = [current_results(node, study.StudyInstanceUID)[0] for study in studies]
    for result in results:
        said = [result.reason, *result.prior_reasons, str(result.prediction), text_of(document(node, result))]
        assert not [character for character in "".join(said) if not character.isprintable() and character != "\n"]
    assert [result.outcome for result in results] == [Outcome.NOT_ANALYSED, *[Outcome.FINDINGS_ONLY] * 2]
