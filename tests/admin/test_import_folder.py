"""`dicom-node import`: what is there is taken once, what was interrupted goes on, what is wrong is named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from sqlalchemy import select

from dicom_node.admin.import_folder import ImportOutcome, files_below, import_files, summary
from dicom_node.config import NodeSection, Settings
from dicom_node.context import NodeContext
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Instance, Study, StudyPurpose
from dicom_node.storage.folder_store import FolderStore
from tests.support.databases import add_tables
from training.phantom.dicom import write_study_pair


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeContext]:
    database = Database(f"sqlite:///{tmp_path}/node/index.db")
    add_tables(database)
    settings = Settings(node=NodeSection(data_dir=tmp_path / "node"))
    yield NodeContext(settings=settings, database=database, store=FolderStore(tmp_path / "node" / "instances"))
    database.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two films, a text, a film with a UID that is none, and a CT."""
    made = write_study_pair(tmp_path / "in" / "pair", 3, long_side=256)
    (tmp_path / "in" / "README.txt").write_text("not DICOM", "utf-8")
    for name, changes in {
        "bad": {"StudyInstanceUID": "../.."},
        "ct": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
    }.items():
        ds = pydicom.dcmread(made.current.files[0])
        for keyword, value in changes.items():
            setattr(ds, keyword, value)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.save_as(tmp_path / "in" / f"{name}.dcm")
    return tmp_path / "in"


def test_a_folder_is_taken_once_and_every_file_is_accounted_for(node: NodeContext, folder: Path) -> None:
    files = files_below(folder)
    result = summary(import_files(files, node, purpose=StudyPurpose.PRIOR))
    assert result.counts == {
        ImportOutcome.NEW: 2,
        ImportOutcome.NOT_DICOM: 1,
        ImportOutcome.BAD_UID: 1,
        ImportOutcome.NOT_WANTED: 1,
    }
    assert [path.name for path, _ in result.trouble] == ["bad.dcm"]
    again = summary(import_files(files, node, purpose=StudyPurpose.PRIOR))
    assert again.counts[ImportOutcome.THERE] == 2
    assert not again.counts[ImportOutcome.NEW]
    with node.database.read() as session:
        rows = session.scalars(select(Instance)).all()
        assert {study.purpose for study in session.scalars(select(Study))} == {"prior"}
    assert len(rows) == 2
    for row in rows:
        source = next(p for p in files if p.name == "image.dcm" and row.sop_instance_uid in str(pydicom.dcmread(p)))
        kept = pydicom.dcmread(node.store.path(row.path))
        assert kept.PixelData == pydicom.dcmread(source).PixelData


def test_an_interrupted_import_goes_on(node: NodeContext, folder: Path) -> None:
    files = [path for path in files_below(folder) if path.name == "image.dcm"]
    first = import_files(files, node, purpose=StudyPurpose.ROUTED)
    assert next(first)[1] is ImportOutcome.NEW
    first.close()  # type: ignore[attr-defined]
    assert summary(import_files(files, node, purpose=StudyPurpose.ROUTED)).counts == {
        ImportOutcome.THERE: 1,
        ImportOutcome.NEW: 1,
    }


def test_other_content_under_a_known_uid_is_named_and_overwrites_nothing(
    node: NodeContext, folder: Path, tmp_path: Path
) -> None:
    film = next(path for path in files_below(folder) if path.name == "image.dcm")
    assert summary(import_files([film], node, purpose=StudyPurpose.PRIOR)).counts == {ImportOutcome.NEW: 1}
    other = tmp_path / "other.dcm"
    shutil.copyfile(film, other)
    ds = pydicom.dcmread(other)
    ds.PatientComments = "changed"
    ds.save_as(other)
    before = node.store.read(_path(node))
    result = summary(import_files([other], node, purpose=StudyPurpose.PRIOR))
    assert result.trouble == [(other, ImportOutcome.CONFLICT)]
    assert node.store.read(_path(node)) == before


def _path(node: NodeContext) -> str:
    with node.database.read() as session:
        return session.scalars(select(Instance.path)).one()
