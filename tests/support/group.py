"""A hospital group on one machine: receivers and workers as processes over one PostgreSQL and one bucket.

Every process talks to the database through a wire of its own, which can be cut. Two workers share a host name where
the kernel allows a name of one's own (containers repeat names).
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_node.config import StorageSection
from tests.support.common import ANY_DISK, REPOSITORY, free_port, listening, wait_until
from tests.support.forked import ForkedProcess
from tests.support.tcp_proxy import TcpProxy, Wire, tcp_proxy
from training.phantom.dicom import write_study_pair

KINDS = ("worker killed", "worker cut off", "receiver killed", "worker stopped")


@dataclass(slots=True, kw_only=True)
class Member:
    """One process, with its own wire to the database."""

    name: str
    module: str
    arguments: Sequence[str]
    log: Path
    wire: TcpProxy
    port: int = 0
    process: ForkedProcess = field(init=False)

    def start(self) -> None:
        self.process = ForkedProcess(self.module, self.arguments, log=self.log, folder=REPOSITORY)

    def signal(self, number: int) -> None:
        """To the process and what it started."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:  # it has ended, or has no group yet and has started nothing
            self.process.send_signal(number)

    def end(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.process.wait(30)


@dataclass(slots=True, kw_only=True)
class Group:
    """Receivers and workers, and how often what happened to them."""

    receivers: list[Member]
    workers: list[Member]
    lease_seconds: float
    events: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    @property
    def members(self) -> list[Member]:
        return [*self.receivers, *self.workers]

    def harm(self, dice: random.Random, ended: threading.Event, *, pause: float, times: int | None) -> None:
        """Every `pause` seconds or so something happens, each kind in turn: `times` in all, or until `ended`."""
        for number in itertools.count():
            if number == times or ended.wait(dice.uniform(0.5, 1.5) * pause):
                return
            for member in self.members:
                if member.process.poll() is not None:  # it ended by itself; `serve` would start it again at once
                    member.start()
            what = KINDS[number % len(KINDS)]
            self.events[what] += 1
            self._do(what, dice, ended)

    def _do(self, what: str, dice: random.Random, ended: threading.Event) -> None:
        member = dice.choice(self.receivers if what == "receiver killed" else self.workers)
        if what.endswith("killed"):
            member.end()
            member.start()
        elif what == "worker stopped":
            member.signal(signal.SIGSTOP)
            ended.wait(1.5 * self.lease_seconds)
            member.signal(signal.SIGCONT)
        else:
            member.wire.state = Wire.CUT
            ended.wait(1.5 * self.lease_seconds)
            member.wire.state = Wire.WHOLE
            member.wire.drop()


def _config(folder: Path, database: str, storage: StorageSection, port: int, destination: int) -> Path:
    """The configuration of one member; each has a data folder of its own, as machines have."""
    lines = [f'[node]\nhost = "127.0.0.1"\nport = {port}\ndata_dir = "data"', f'[database]\nurl = "{database}"']
    lines.append("[storage]")
    given = storage.model_dump(exclude_none=True).items()
    lines += [f"{key} = {json.dumps(value, default=str)}" for key, value in given]
    lines.append(f"{ANY_DISK}[receive]\nmin_free_mib = 0\n[completion]\nquiet_seconds = 2")
    pacs = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "verify": "find"}
    lines += ["[[destinations]]", *(f'{key} = "{value}"' for key, value in pacs.items()), f"port = {destination}"]
    folder.mkdir(parents=True)
    path = folder / "config.toml"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@contextmanager
def running_group(
    folder: Path, *, database: str, database_port: int, storage: StorageSection, destination: int, lease_seconds: float
) -> Iterator[Group]:
    """Two receivers and three workers, "worker" twice among their host names."""
    with ExitStack() as stack:
        receivers, workers = [], []
        for name in ("receiver-1", "receiver-2", "worker-1", "worker-2", "worker-3"):
            wire = stack.enter_context(tcp_proxy(database_port))
            port = free_port()
            url = database.replace(f":{database_port}/", f":{wire.port}/")
            config = str(_config(folder / name, url, storage, port, destination))
            if name.startswith("receiver"):
                module, arguments = "dicom_node.receive", [config]
                receivers.append(
                    Member(
                        name=name, module=module, arguments=arguments, log=folder / f"{name}.log", wire=wire, port=port
                    )
                )
            else:
                module, host = "tests.support.chaos_worker", "worker" if name != "worker-3" else "other"
                arguments = [config, str(lease_seconds), "0.05", host]
                workers.append(
                    Member(name=name, module=module, arguments=arguments, log=folder / f"{name}.log", wire=wire)
                )
        group = Group(receivers=receivers, workers=workers, lease_seconds=lease_seconds)
        for member in group.members:
            member.start()
            stack.callback(member.end)
        wait_until(lambda: all(listening(one.port) for one in receivers), seconds=120, what="the receivers to listen")
        yield group


def studies(folder: Path, count: int) -> list[Dataset]:
    """Films of as many people, of few pictures."""
    pictures = [pydicom.dcmread(write_study_pair(folder / str(n), n, long_side=512).current.files[0]) for n in range(2)]
    made: list[Dataset] = []
    for number in range(count):
        film = copy.deepcopy(pictures[number % len(pictures)])
        film.PatientID = film.PatientName = f"P{number}"
        film.StudyInstanceUID, film.SeriesInstanceUID, film.SOPInstanceUID = (generate_uid() for _ in range(3))
        film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
        made.append(film)
    return made
