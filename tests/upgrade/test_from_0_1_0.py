"""A node of version 0.1.0 goes on with the installed version: its index, its files and its checkpoint.

`node-0.1.0.tar.xz` was made by the program of commit b64e792: two studies of one phantom patient (seed 11, 320 pixels)
were sent to it and analysed by a tiny random checkpoint; its destination was down, so that four deliveries still wait.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from dicom_node.index.database import Database
from dicom_node.index.tables.core import Delivery, DeliveryState, Instance, Result
from model.predict import load_predictor
from tests.support.common import free_port, wait_until
from tests.support.node import Node, running
from tests.support.orthanc import Orthanc, running_orthanc

ARCHIVE = Path(__file__).with_name("node-0.1.0.tar.xz")


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "archive", dicomweb=False) as server:
        yield server


def unpack(folder: Path, *, destination_port: int = 9, destination_ae: str = "NOWHERE") -> Node:
    """Lay the old installation out with free ports and the given destination; nothing else of it is changed."""
    folder.mkdir()
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    node = Node(folder=folder, port=free_port())
    settings = node.config.read_text("utf-8")
    node_part, rest = settings.split("[completion]")
    web_port = free_port()
    node_part = re.sub(r"port = \d+", f"port = {node.port}", node_part)
    rest = rest.replace("port = 9\n", f"port = {destination_port}\n").replace("NOWHERE", destination_ae)
    head, web = rest.split("[web]")
    web = re.sub(r"port = \d+", f"port = {web_port}", web)
    source = f'source = "{folder / "checkpoint"}"'
    head = head.replace('source = "checkpoint"', source).replace("quiet_seconds = 2", "quiet_seconds = 0.5")
    data = node_part.replace('data_dir = "data"', f'data_dir = "{folder / "data"}"')
    node.config.write_text(f"{data}[completion]{head}[web]{web}", "utf-8")
    return node


def digests(folder: Path) -> dict[str, str]:
    """Name and SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.dcm"))
    }


def confirmed(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).where(Delivery.state == DeliveryState.CONFIRMED)) or 0


def test_a_node_of_version_0_1_0_serves_and_delivers_what_it_owed(tmp_path: Path, orthanc: Orthanc) -> None:
    node = unpack(tmp_path / "node", destination_port=orthanc.dicom_port, destination_ae=orthanc.ae_title)
    before = digests(node.folder / "data")
    assert before
    with node.database() as database, database.read() as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == "0004"
    with running(node), node.database() as database:
        wait_until(lambda: confirmed(database) == 4, seconds=180, what="the four deliveries that version 0.1.0 owed")
        with database.read() as session:
            assert session.scalar(select(func.count()).select_from(Instance)) == 2
            results = session.scalars(select(Result).order_by(Result.id)).all()
            assert [result.is_current for result in results] == [True, True]
    assert before.items() <= digests(node.folder / "data").items(), "no stored object of the old version was changed"
    assert len(orthanc.instances(Modality="SR")) == 4


def test_what_version_0_1_0_said_is_shown_word_for_word(tmp_path: Path) -> None:
    node = unpack(tmp_path / "node")
    said = {path.parent.name: path.read_text("utf-8") for path in node.folder.rglob("report.txt")}
    assert len(said) == 2
    with running(node):
        pass
    assert {path.parent.name: path.read_text("utf-8") for path in node.folder.rglob("report.txt")} == said


def test_a_checkpoint_of_version_0_1_0_loads_and_keeps_its_device_uid(tmp_path: Path) -> None:
    node = unpack(tmp_path / "node")
    manifest = json.loads((node.folder / "checkpoint" / "manifest.json").read_text("utf-8"))
    predictor = load_predictor(node.folder / "checkpoint")
    assert predictor.identity.device_uid == manifest["device_uid"]
