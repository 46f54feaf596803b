"""Captured associations of DCMTK's programs, damaged in every way, against a running receiver."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_node.index.tables.core import Instance
from tests.support.common import program, wait_until
from tests.support.half_written import half_written
from tests.support.receiver import RunningNode, echo, radiograph, running_node
from tests.support.recorder import recorded
from tests.support.scripted_peer import P_DATA, parse_command

EXAMPLES = 120
SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    node: RunningNode
    streams: tuple[bytes, ...]
    """Byte streams recorded from echoscu, storescu and findscu."""
    open_files: int
    threads: int


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("mutations")
    data_set = radiograph(Rows=64, Columns=64, PixelData=bytes(range(256)) * 32)
    image = folder / "image.dcm"
    data_set.save_as(image, enforce_file_format=True)
    limits = {"association_seconds": 2, "idle_seconds": 2, "dimse_seconds": 1, "max_instance_mib": 1}
    with running_node(folder / "node", receive=limits) as node:
        called = ["-aec", "LUMEN", "127.0.0.1", "{port}"]
        streams = (
            recorded(node.port, [program("echoscu"), *called]),
            recorded(node.port, [program("storescu"), *called, str(image)]),
            recorded(
                node.port, [program("findscu"), "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName=D*", *called]
            ),
        )
        assert node.count(Instance) == 1
        assert all(len(stream) > 200 for stream in streams)
        assert echo(node.port) == 0
        wait_until(lambda: node.receiver.association_count == 0, what="the recorded associations to end")
        yield Running(node=node, streams=streams, open_files=_open_files(), threads=threading.active_count())


def _open_files() -> int:
    """Open descriptors but for those of the index: its pool of connections grows with use, up to a bound of its own."""
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists them is gone by now
            targets.append(str(descriptor.readlink()))
    return sum("index.db" not in target for target in targets)


def _pdu_starts(stream: bytes) -> list[int]:
    starts, position = [], 0
    while position + 6 <= len(stream):
        starts.append(position)
        position += 6 + int.from_bytes(stream[position + 2 : position + 6], "big")
    return starts


@st.composite
def damages(draw: st.DrawFn) -> tuple[int, list[tuple[str, int, int]]]:
    """A stream and its mutations (kind, position, value); positions are taken modulo the stream's length."""
    kind = st.sampled_from(["flip", "truncate", "length", "insert", "remove", "repeat"])
    one = st.tuples(kind, st.integers(0, 1 << 20), st.integers(0, 0xFFFFFFFF))
    return draw(st.integers(0, 2)), draw(st.lists(one, min_size=1, max_size=4))


def damaged(stream: bytes, damage: list[tuple[str, int, int]]) -> bytes:
    data = bytearray(stream)
    for kind, place, value in damage:
        if not data:
            break
        where = place % len(data)
        starts = _pdu_starts(bytes(data)) or [0]
        start = starts[place % len(starts)]
        if kind == "flip":
            data[where] ^= value % 255 + 1
        elif kind == "truncate":
            del data[where:]
        elif kind == "length":
            lie = value if place % 2 else value % 200_000
            data[start + 2 : start + 6] = struct.pack(">I", lie)
        elif kind == "insert":
            data[where:where] = struct.pack(">I", value)
        elif kind == "remove":
            del data[where : where + value % 64]
        else:
            end = start + 6 + int.from_bytes(data[start + 2 : start + 6], "big")
            data[start:start] = data[start : min(end, start + 100_000)]
    return bytes(data)


def _conversation(port: int, data: bytes) -> bytes:
    """Send everything, say that no more comes, and return everything that the receiver says until it closes."""
    heard = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as peer:
        with contextlib.suppress(OSError):
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while piece := peer.recv(65536):
                heard += piece
    return bytes(heard)


def _successes(heard: bytes) -> int:
    """The number of C-STORE-RSP with status 0000H in it."""
    count = 0
    for start in _pdu_starts(heard):
        body = heard[start + 6 : start + 6 + int.from_bytes(heard[start + 2 : start + 6], "big")]
        if heard[start] == P_DATA and len(body) > 12:
            elements = parse_command(body[6:])
            if elements.get(0x0100) == b"\x01\x80" and elements.get(0x0900) == b"\0\0":
                count += 1
    return count


def _is_quiet(running: Running) -> bool:
    """No association, no thread and no connection is left of what strangers did."""
    return (
        running.node.receiver.association_count == 0
        and threading.active_count() <= running.threads
        and _open_files() <= running.open_files
    )


def _check(running: Running, data: bytes) -> None:
    node = running.node
    rows, held = node.count(Instance), len(node.files())
    kept_apart = len(node.quarantined())
    heard = _conversation(node.port, data)
    wait_until(lambda: _is_quiet(running), seconds=SECONDS, what="threads and connections of the peer to go")
    new_rows = node.count(Instance) - rows
    assert new_rows <= _successes(heard), "it stored what it did not acknowledge"
    assert len(node.files()) - held == new_rows + len(node.quarantined()) - kept_apart, "a file that belongs to no row"
    assert not half_written(node.settings.node.data_dir)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(damage=damages())
def test_no_damage_hurts_the_receiver(running: Running, damage: tuple[int, list[tuple[str, int, int]]]) -> None:
    number, what = damage
    _check(running, damaged(running.streams[number], what))


def test_every_truncation_at_a_pdu_border_and_beside_it(running: Running) -> None:
    for stream in running.streams:
        for start in _pdu_starts(stream)[1:]:
            for cut in (start - 1, start, start + 1, start + 6, start + 7):
                _check(running, stream[:cut])


def test_the_undamaged_streams_still_work_afterwards(running: Running) -> None:
    assert _successes(_conversation(running.node.port, running.streams[1])) == 1
    assert echo(running.node.port) == 0


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_damages(running: Running) -> None:
    @settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damage=damages())
    def run(damage: tuple[int, list[tuple[str, int, int]]]) -> None:
        _check(running, damaged(running.streams[damage[0]], damage[1]))

    run()
