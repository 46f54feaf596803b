"""One damaged object silences nobody: its own study says that it cannot be read, every other film is analysed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid
from sqlalchemy import select

from dicom_node.context import NodeContext
from dicom_node.dicom.part10 import FileMeta, part10_header
from dicom_node.index.tables.core import Instance, Job, JobState, Outcome
from model.predict import load_predictor
from tests.support.chain import Models, analyse_all, copied, current_results, document, encoded, pair, receive, text_of
from tests.support.delivery_node import Clock, make_node
from tests.support.tiny_nvila import save_tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(predictor=load_predictor(save_tiny(tmp_path_factory.mktemp("models") / "tiny", brief=True)))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    return pair(tmp_path_factory.mktemp("films"), 53)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeContext]:
    made = make_node(tmp_path, Clock())
    yield made
    made.database.close()


def _cut_in_pixel_data_head(data: bytes) -> tuple[bytes, str]:
    return data[: data.rindex(b"\xe0\x7f\x10\x00") + 6], str(ExplicitVRLittleEndian)


def _cut_deflated(data: bytes) -> tuple[bytes, str]:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(data[: data.rindex(b"\xe0\x7f\x10\x00")]) + packer.flush()
    return packed[: len(packed) // 2], str(DeflatedExplicitVRLittleEndian)


def _no_data_set(data: bytes) -> tuple[bytes, str]:
    return b"\x08\x00\x05", str(ExplicitVRLittleEndian)


DAMAGES: list[Callable[[bytes], tuple[bytes, str]]] = [_cut_in_pixel_data_head, _cut_deflated, _no_data_set]


def damage(node: NodeContext, film: Dataset, how: Callable[[bytes], tuple[bytes, str]]) -> None:
    """Put damaged bytes in place of a film's file, as a peer may have sent them."""
    with node.database.read() as session:
        path = session.scalars(select(Instance.path).where(Instance.sop_instance_uid == film.SOPInstanceUID)).one()
    data, syntax = how(encoded(film))
    meta = FileMeta(
        sop_class_uid=str(film.SOPClassUID), sop_instance_uid=str(film.SOPInstanceUID), transfer_syntax_uid=syntax
    )
    node.store.path(path).write_bytes(part10_header(meta) + data)


def no_job_is_left(node: NodeContext) -> bool:
    with node.database.read() as session:
        return session.scalar(select(Job.id).where(Job.state != JobState.DONE)) is None


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_prior_is_named_and_the_film_analysed(
    node: NodeContext, models: Models, films: tuple[Dataset, Dataset], how: Callable[[bytes], tuple[bytes, str]]
) -> None:
    prior, current = films
    receive(node, prior)
    receive(node, current)
    damage(node, prior, how)
    analyse_all(node, models)
    (own,), (result,) = (current_results(node, film.StudyInstanceUID) for film in (prior, current))
    assert own.outcome is Outcome.NOT_ANALYSED
    assert "cannot be read" in own.reason
    assert result.outcome is Outcome.FINDINGS_ONLY
    assert any("cannot be read" in reason for reason in result.prior_reasons)
    assert no_job_is_left(node)


def test_damaged_object_beside_a_good_one_is_named_in_the_report(
    node: NodeContext, models: Models, films: tuple[Dataset, Dataset]
) -> None:
    _, current = films
    second = copied(current, SOPInstanceUID=generate_uid(), InstanceNumber=2, ViewPosition="LL")
    receive(node, current)
    receive(node, second)
    damage(node, second, _no_data_set)
    analyse_all(node, models)
    results = current_results(node, current.StudyInstanceUID)
    assert [result.outcome for result in results] == [Outcome.FINDINGS_ONLY]
    assert "cannot be read" in text_of(document(node, results[0]))
    assert no_job_is_left(node)
