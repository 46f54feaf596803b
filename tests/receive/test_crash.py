"""kill -9 and power cuts while storescu sends: what was answered with Success is there, bit-identical, once."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from sqlalchemy import select

from dicom_node.config import load_settings
from dicom_node.dicom.part10 import read_meta
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Instance
from dicom_node.storage.instance_store import InstanceStore
from dicom_node.storage.opening import open_store
from tests.support.common import program
from tests.support.object_store import S3Server
from tests.support.receiver import radiograph
from tests.support.receiver_process import ReceiverProcess, receiver_process

SEED = 20260
FILES = 40
SIDE = 256
"""Pixels: 128 KiB per image, several PDUs each."""
SENDERS = 2


@pytest.fixture(scope="module")
def outbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of files, one per sender; fresh ones are made of them for each round."""
    return tmp_path_factory.mktemp("outbox")


def _fill(folder: Path, chance: random.Random) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    study, series = generate_uid(), generate_uid()
    for number in range(FILES):
        data_set = radiograph(
            StudyInstanceUID=study,
            SeriesInstanceUID=series,
            Rows=SIDE,
            Columns=SIDE,
            PixelData=chance.randbytes(2 * SIDE * SIDE),
        )
        data_set.save_as(folder / f"{number:03}.dcm", enforce_file_format=True)


def _send(receiver: ReceiverProcess, folder: Path) -> subprocess.Popen[str]:
    command = [program("storescu"), "-v", "-xe", "+sd", "-aec", "LUMEN", "127.0.0.1", str(receiver.port), str(folder)]
    return subprocess.Popen(
        command,
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _acknowledged(output: str) -> list[Path]:
    """The files that storescu was told Success for, by its own words."""
    files: list[Path] = []
    sending = None
    for line in output.splitlines():
        if match := re.search(r"Sending file: (.+)$", line):
            sending = Path(match.group(1).strip())
        elif "Received Store Response (Success)" in line:
            assert sending is not None
            files.append(sending)
    return files


@contextlib.contextmanager
def _index_of(receiver: ReceiverProcess) -> Iterator[tuple[Database, InstanceStore]]:
    data = receiver.folder / "data"
    database = Database(f"sqlite:///{data}/index.db")
    try:
        yield database, open_store(load_settings(receiver.folder / "config.toml"))
    finally:
        database.close()


def _check(receiver: ReceiverProcess, acknowledged: list[Path]) -> None:
    """The invariant, on a receiver that has just been started again."""
    assert receiver.part_files() == []
    assert not list((receiver.folder / "data").rglob("*.reserved"))
    with _index_of(receiver) as (database, store), database.read() as session:
        rows = {row.sop_instance_uid: row.path for row in session.execute(select(Instance)).scalars()}
        if store.recovers_at_start:
            assert sorted(store.iterate_paths()) == sorted(rows.values()), "each file has its row, each row its file"
    for path in acknowledged:
        uid = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        assert uid in rows, f"{path.name} was answered with Success and is gone"
        with path.open("rb") as sent:
            read_meta(sent)
            assert store.read_data_set(rows[uid]) == sent.read(), path.name


def _cut_power(receiver: ReceiverProcess) -> None:
    """The worst that a power cut may do: no lasting name is on the disk that was not synced yet."""
    files = receiver.folder / "data" / "instances" / "files"
    for path in (receiver.folder / "data").rglob("*.reserved"):
        (files / path.stem[:2] / f"{path.stem}.dcm").unlink(missing_ok=True)


def _rounds(receiver: ReceiverProcess, outbox: Path, count: int) -> None:
    chance = random.Random(SEED)
    acknowledged: list[Path] = []
    for number in range(count):
        folders = [outbox / f"round{number}-{sender}" for sender in range(SENDERS)]
        for folder in folders:
            _fill(folder, chance)
        senders = [_send(receiver, folder) for folder in folders]
        with contextlib.suppress(subprocess.TimeoutExpired):  # in the middle of it: the very instant that we want
            senders[0].wait(timeout=chance.uniform(0.05, 1.5))
        receiver.kill()
        for sender in senders:
            acknowledged += _acknowledged(sender.communicate(timeout=60)[0])
        if number % 2:
            _cut_power(receiver)
        receiver.start()
        _check(receiver, acknowledged)
    # What was interrupted is sent again and arrives: nothing is locked or half-known.
    for folder in folders:
        again = _send(receiver, folder)
        output, _ = again.communicate(timeout=120)
        assert len(_acknowledged(output)) == FILES, output[-2000:]
        acknowledged += sorted(folder.iterdir())
    assert len(acknowledged) > SENDERS * FILES, "no round got anywhere before its kill: the test proves nothing"
    receiver.kill()
    receiver.start()
    _check(receiver, acknowledged)


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path, outbox: Path) -> None:
    with receiver_process(tmp_path / "node", cold=False) as receiver:
        _rounds(receiver, outbox, 2)


def test_nothing_acknowledged_is_lost_by_kill_9_before_an_object_store(
    tmp_path: Path, outbox: Path, s3_server: S3Server
) -> None:
    storage = s3_server.new_bucket(tmp_path).model_dump(exclude_none=True)
    with receiver_process(tmp_path / "node", storage=storage, cold=False) as receiver:
        _rounds(receiver, outbox / "s3", 2)
        shutil.rmtree(receiver.folder / "data" / "cache")  # the bucket alone has them all
        receiver.kill()
        receiver.start()
        _check(receiver, sorted((outbox / "s3" / "round1-0").iterdir()))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nothing_acknowledged_is_lost_by_a_hundred_kills(tmp_path: Path, outbox: Path) -> None:
    with receiver_process(tmp_path / "node", cold=False) as receiver:
        _rounds(receiver, outbox, 100)
