"""A crowd of strangers at the door of a whole node while a modality sends: nothing is lost, memory stays bounded."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from benchmarks.bench_soak import make_films, send, site, unproven, waiting
from benchmarks.watcher import MIB, Watcher
from dicom_node.index.tables.core import Job, JobState, Study
from tests.support.common import wait_until
from tests.support.node import Node
from tests.support.receiver import CR
from tests.support.scripted_peer import EXPLICIT, IMPLICIT, VERIFICATION, Peer, command, p_data
from tests.support.tiny_nvila import save_tiny

SECONDS = float(os.environ.get("DICOM_NODE_CROWD_SECONDS", "180"))
SENT_EVERY_SECONDS = 3.0
RECEIVER_MIB, WORKER_MIB = 400, 1024
GOOD_SENDER = '[[receive.peers]]\nae_title = "MODALITY"\naddresses = ["127.0.0.1"]\n'
"""Named, as the documentation asks for: places are kept for named peers."""
DEFLATED, FIND = "1.2.840.10008.1.2.1.99", "1.2.840.10008.5.1.4.1.2.2.1"


@dataclass(slots=True)
class Crowd:
    """Strangers of many addresses; each keeps doing one thing until the end."""

    port: int
    stop: threading.Event = field(default_factory=threading.Event)
    done: dict[str, int] = field(default_factory=dict)
    addresses: Iterator[int] = field(default_factory=itertools.count)

    def address(self) -> str:
        number = next(self.addresses)
        return f"127.66.{number // 250 % 250}.{number % 250 + 1}"

    def keep(self, deed: Callable[[Crowd], None]) -> None:
        """Do it again and again; a stranger that is thrown out comes back."""
        while not self.stop.wait(0.2):
            with contextlib.suppress(OSError, EOFError, struct.error):
                deed(self)
            self.done[deed.__name__] = self.done.get(deed.__name__, 0) + 1


def hold_associations(crowd: Crowd) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(40):
            held.enter_context(Peer(crowd.port, source=crowd.address(), seconds=5)).associate([(CR, [EXPLICIT])])
        crowd.stop.wait(10)


def hold_connections(crowd: Crowd) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(60):
            held.enter_context(Peer(crowd.port, source=crowd.address(), seconds=5)).send(b"\x01\x00")
        crowd.stop.wait(10)


def send_bomb(crowd: Crowd) -> None:
    """64 MiB behind some kilobytes, as a film and so as a job of the worker."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    uids = [str(generate_uid()) for _ in range(3)]
    head = b"".join(
        struct.pack("<HH2sH", group, element, b"UI", len(value) + len(value) % 2) + value + b"\0" * (len(value) % 2)
        for (group, element), value in zip(
            ((0x8, 0x16), (0x8, 0x18), (0x20, 0xD), (0x20, 0xE)),
            (CR.encode(), *(uid.encode() for uid in uids)),
            strict=True,
        )
    )
    body = packer.compress(head + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 64 * MIB) + bytes(64 * MIB))
    with Peer(crowd.port, source=crowd.address(), seconds=30) as peer:
        peer.associate([(CR, [DEFLATED])])
        peer.store(1, CR, uids[0], body + packer.flush())
    crowd.stop.wait(20)


def ask_for_everything(crowd: Crowd) -> None:
    with Peer(crowd.port, source=crowd.address(), seconds=10) as peer:
        peer.associate([(FIND, [IMPLICIT])])
        peer.send(p_data(1, 3, command({0x0002: FIND, 0x0100: 0x20, 0x0110: 1, 0x0700: 0, 0x0800: 1})))
        for _ in range(32):
            peer.send(p_data(1, 0, b"A" * 65_000))


def speak_nonsense(crowd: Crowd) -> None:
    with Peer(crowd.port, source=crowd.address(), seconds=5) as peer:
        peer.send(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 40)
        peer.is_closed()


@contextmanager
def crowd_at(port: int) -> Iterator[Crowd]:
    crowd = Crowd(port)
    deeds = (hold_associations, hold_associations, hold_connections, send_bomb, ask_for_everything, speak_nonsense)
    threads = [threading.Thread(target=crowd.keep, args=(deed,), daemon=True) for deed in deeds]
    for thread in threads:
        thread.start()
    try:
        yield crowd
    finally:
        crowd.stop.set()
        for thread in threads:
            thread.join(60)


def echo_seconds(node: Node) -> float:
    """Seconds of a well-behaved peer's C-ECHO, including its association."""
    began = time.monotonic()
    with Peer(node.port, seconds=30) as peer:
        peer.associate([(VERIFICATION, [IMPLICIT])], calling="MODALITY")
        assert peer.echo().status == 0
    return time.monotonic() - began


@pytest.mark.soak
@pytest.mark.timeout(20 * SECONDS + 1200)
def test_crowd_of_strangers_costs_the_good_sender_nothing(tmp_path: Path) -> None:
    films, echoes, statuses = make_films(tmp_path / "films"), list[float](), list[int]()
    tiny = str(save_tiny(tmp_path / "tiny"))
    with site(tmp_path, tiny, 1, more=GOOD_SENDER) as (node, pacs), Watcher(node) as watcher:
        with crowd_at(node.port) as crowd:
            for number in range(round(SECONDS / SENT_EVERY_SECONDS)):
                statuses.append(send(films[number % len(films)], number, node.port))
                echoes.append(echo_seconds(node))
                crowd.stop.wait(SENT_EVERY_SECONDS)
        wait_until(lambda: waiting(node) == 0 and unproven(node) == 0, seconds=10 * SECONDS + 600, what="the rest")
        with node.database() as database, database.read() as session:
            good = session.query(Study).filter(Study.patient_id.startswith("SOAK-")).count()
            dead = session.query(Job).filter(Job.state == JobState.DEAD).count()
    greatest = {name: max(one.size for one in samples) / MIB for name, samples in watcher.samples.items()}
    print(f"load {os.getloadavg()[0]:.1f}; deeds {crowd.done}; sent {len(statuses)}; at the PACS {len(pacs.kept)}")
    print(f"echo median {statistics.median(echoes):.2f} s, greatest {max(echoes):.2f} s; MiB {greatest}")
    assert statuses == [0] * len(statuses)
    assert good == len(statuses)
    assert dead == 0
    assert len(pacs.kept) >= 2 * len(statuses)
    assert greatest["receive-0"] < RECEIVER_MIB
    assert greatest["work"] < WORKER_MIB
