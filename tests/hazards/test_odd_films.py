"""Films with odd, hostile or senseless headers: each gets a report of its own, and costs no other film anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from sqlalchemy import select

from dicom_node.context import NodeContext
from dicom_node.dicom.header import read_header
from dicom_node.dicom.part10 import FileMeta, part10_header
from dicom_node.index.tables.core import Job, JobKind, JobState, Outcome, Result, Study, StudyPurpose
from dicom_node.studies.received_instance import ReceivedInstance
from dicom_node.studies.register import Registered, register_instance
from model.errors import PixelError
from model.images.display import load_display_image
from model.predict import load_predictor
from tests.support.chain import Models, analyse_all, copied, document, encoded
from tests.support.delivery_node import Clock, make_node
from tests.support.odd_films import ODD
from tests.support.tiny_nvila import save_tiny
from training.phantom.dicom import write_study_pair


def take(node: NodeContext, data: bytes, syntax: str, film: Dataset) -> Registered:
    """Store and register bytes as the receiver does."""
    meta = FileMeta(
        sop_class_uid=str(film.SOPClassUID), sop_instance_uid=str(film.SOPInstanceUID), transfer_syntax_uid=syntax
    )
    received = ReceivedInstance(
        stored=node.store.put(data, meta),
        header=read_header(data, syntax),
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=syntax,
        calling_ae_title="MODALITY",
        purpose=StudyPurpose.ROUTED,
        is_rejection_note=False,
    )
    with node.database.write() as session:
        return register_instance(session, received, now=node.clock()).outcome


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeContext]:
    made = make_node(tmp_path, Clock())
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    made = write_study_pair(tmp_path_factory.mktemp("films"), 53, long_side=160)
    return pydicom.dcmread(made.prior.files[0]), pydicom.dcmread(made.current.files[0])


@pytest.mark.parametrize("name", [name for name, odd in ODD.items() if odd.says])
def test_odd_pixels_are_refused_by_words(films: tuple[Dataset, Dataset], tmp_path: Path, name: str) -> None:
    odd, path = ODD[name], tmp_path / "odd.dcm"
    meta = FileMeta(sop_class_uid=str(films[0].SOPClassUID), sop_instance_uid="1.2.3", transfer_syntax_uid=odd.syntax)
    path.write_bytes(part10_header(meta) + odd.bytes_of(films[0]))
    with pytest.raises(PixelError, match=odd.says):
        load_display_image(path)


@pytest.mark.soak  # 130 analyses
def test_odd_films_get_a_report_and_cost_no_other_film_anything(
    node: NodeContext, films: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """Each odd film has a patient of its own, who has a good film as well: both have their report."""
    models = Models(predictor=load_predictor(save_tiny(tmp_path / "tiny", brief=True)))
    prior, current = films
    expected: dict[str, str] = {}
    for number, (name, odd) in enumerate(ODD.items()):
        bad, good = (copied(film, PatientID=f"ODD-{number}", **new_uids()) for film in (prior, current))
        data = encoded(
            copied(bad, **{key: value for key, value in odd.elements.items() if value is not None or key in bad})
        )
        take(node, odd.raw(data) if odd.raw else data, odd.syntax, bad)
        take(node, encoded(good), ExplicitVRLittleEndian, good)
        expected[str(bad.StudyInstanceUID)] = f"{name}: {'not analysed' if odd.says else 'report'}"
        expected[str(good.StudyInstanceUID)] = f"the good film beside {name}: report"
    analyse_all(node, models)
    found: dict[str, str] = {}
    with node.database.read() as session:
        assert not session.scalars(select(Job.key).where(Job.kind == JobKind.ANALYSE, Job.state != JobState.DONE)).all()
        rows = session.execute(select(Study.study_instance_uid, Result).join(Result.study).where(Result.is_current))
        for uid, result in rows.all():
            assert document(node, result), "a document can be read"
            wanted = expected[uid]
            ended = "not analysed" if result.outcome is Outcome.NOT_ANALYSED else "report"
            found[uid] = wanted if wanted.endswith(": report") else f"{wanted.rpartition(': ')[0]}: {ended}"
    assert found == expected


def new_uids() -> dict[str, str]:
    return {keyword: generate_uid() for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}
