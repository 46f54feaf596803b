"""Accidents of a receiver: connections cut at any byte, a file system that becomes read-only, huge requests."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.receive.identifiers import encode_data_set
from dicom_node.storage.opening import instances_dir
from tests.support.half_written import half_written
from tests.support.receiver import CR, RunningNode, radiograph, running_node, send
from tests.support.scripted_peer import EXPLICIT, Peer


@contextlib.contextmanager
def cutting_proxy(port: int, after: int) -> Iterator[int]:
    """A TCP proxy to `port` that passes this many bytes of the caller on, then cuts both connections."""

    def serve() -> None:
        with (
            contextlib.suppress(OSError),
            listener.accept()[0] as caller,
            socket.create_connection(("127.0.0.1", port)) as callee,
        ):
            back = threading.Thread(target=copy_back, args=(callee, caller), daemon=True)
            back.start()
            left = after
            while left and (data := caller.recv(min(left, 4096))):
                callee.sendall(data)
                left -= len(data)
            callee.shutdown(socket.SHUT_RDWR)  # closing it alone would not wake the thread that reads it
            back.join(10)

    def copy_back(callee: socket.socket, caller: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := callee.recv(4096):
                caller.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(20)


def test_connection_cut_at_any_byte_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    films, acknowledged = [radiograph() for _ in range(16)], set()
    with running_node(tmp_path) as node:
        for number, film in enumerate(films):
            with (
                cutting_proxy(node.port, 60 + 97 * number) as port,
                contextlib.suppress(OSError, EOFError),
                Peer(port, seconds=60) as peer,
            ):
                peer.associate([(CR, [EXPLICIT])])
                if peer.store(1, CR, film.SOPInstanceUID, encode_data_set(film, EXPLICIT)).status == 0:
                    acknowledged.add(film.SOPInstanceUID)
        held = {row.sop_instance_uid for row in node.instances()}
        assert acknowledged <= held
        assert 0 < len(held) < len(films), "some were cut before their end and some behind it"
        assert send(node, *films) == [0] * len(films), "what was cut is sent again and taken"
        assert len(node.instances()) == len(films)
        assert len([path for path in node.files() if path.suffix == ".dcm"]) == len(films)
        assert not half_written(node.settings.node.data_dir)
        assert node.quarantined() == []


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder whose file system says that it is read-only, as after a remount by the kernel."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a file system")
    if subprocess.run(["mount", "--bind", str(folder), str(folder)], check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_store_that_becomes_read_only_refuses_and_goes_on_when_it_is_well(tmp_path: Path) -> None:
    film, other = radiograph(), radiograph()
    with running_node(tmp_path) as node:
        assert send(node, film) == [0]
        with read_only(instances_dir(node.settings)):
            assert send(node, other, radiograph()) == [0xA701, 0xA701], "out of resources: the sender tries again"
            assert len(node.instances()) == 1
        assert send(node, other) == [0]
        assert len(node.instances()) == 2


def ask_commitment(node: RunningNode, references: int) -> int | None:
    """The status of an N-ACTION with so many references; None where the association was aborted."""
    information = Dataset()
    information.TransactionUID = generate_uid()
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CR, generate_uid()
    information.ReferencedSOPSequence = [item] * references
    ae = AE("ASKER")
    ae.add_requested_context(StorageCommitmentPushModel)
    association = ae.associate("127.0.0.1", node.port, ae_title="LUMEN")
    assert association.is_established
    try:
        answer, _ = association.send_n_action(
            information, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        return int(answer.Status) if "Status" in answer else None
    finally:
        association.abort()


@pytest.mark.parametrize(("references", "status"), [(2_000, 0x0000), (12_000, 0x0115)])
def test_commitment_of_many_objects_is_noted_or_refused_by_a_status(
    tmp_path: Path, references: int, status: int
) -> None:
    with running_node(tmp_path) as node:
        assert ask_commitment(node, references) == status
        assert send(node, radiograph()) == [0]
