"""The node as its users run it: `dicom-node serve` in a process of its own, with a configuration file of the test."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import func, select

from dicom_node.config import Settings, load_settings
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Delivery, DeliveryState, Result, Study, StudyState
from dicom_node.system.child_process import is_running
from tests.support.common import ANY_DISK, free_port, listening, wait_until
from tests.support.forked import ForkedProcess


@dataclass(slots=True, kw_only=True)
class Node:
    """One installation; its process may be stopped, killed and started again."""

    folder: Path
    port: int
    ae_title: str = "LUMEN"
    role: str = "all"
    is_forked: bool = True
    """False: an interpreter of its own, as its users run it, for benchmarks; else it is forked from a warm process."""
    process: subprocess.Popen[bytes] | ForkedProcess | None = None
    starts: int = field(default=0)
    _database: Database | None = field(default=None, init=False)

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def log(self) -> str:
        return (self.folder / "node.log").read_text("utf-8", errors="replace")

    @property
    def settings(self) -> Settings:
        return load_settings(self.config)

    def start(self) -> None:
        """Start and wait until it says that it is ready."""
        self.starts += 1
        arguments = ["serve", "--role", self.role, "--config", str(self.config)]
        if self.is_forked:
            self.process = ForkedProcess("dicom_node", arguments, log=self.folder / "node.log")
        else:
            with (self.folder / "node.log").open("ab") as log:
                command = [sys.executable, "-m", "dicom_node", *arguments]
                self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        wait_until(self._is_ready, seconds=1200, what="the node to be ready")

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self._close_database()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL to the main process; its children end with it."""
        assert self.process is not None
        self._close_database()
        children = _descendants(self.process.pid)
        self.process.kill()
        self.process.wait(30)
        # else the next start may find its worker still there, and takes its jobs over a minute later
        wait_until(lambda: not any(map(is_running, children)), seconds=60, what="the killed node's children to end")
        wait_until(lambda: not listening(self.port), seconds=30, what="the killed node's port to close")

    def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"the node ended with status {self.process.returncode}:\n{self.log[-4000:]}")
        return self.log.count("node ready") >= self.starts

    @contextmanager
    def database(self) -> Iterator[Database]:
        """The node's index; kept open, since a condition that is awaited looks into it many times a second."""
        if self._database is None:
            self._database = Database(self.settings.database.url)
        yield self._database

    def _close_database(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def wait_for_results(self, studies: int, *, delivered: bool = True, seconds: float = 1200) -> None:
        """Wait until so many studies have their result and, where wanted, every document has its proof."""

        def finished() -> bool:
            with self.database() as database, database.read() as session:
                analysed = session.scalar(select(func.count()).where(Study.state == StudyState.ANALYSED)) or 0
                current = session.scalar(select(func.count()).where(Result.is_current)) or 0
                ended = Delivery.state.in_([DeliveryState.CONFIRMED, DeliveryState.SUPERSEDED])
                waiting = session.scalar(select(func.count()).where(~ended)) or 0
            return analysed >= studies and current >= studies and (not delivered or waiting == 0)

        try:
            wait_until(finished, seconds=seconds, what=f"results of {studies} studies")
        except pytest.fail.Exception:
            sys.stderr.write(self.log[-6000:])
            raise


def _descendants(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    children: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since
            children += map(int, thread.read_text("utf-8").split())
    return children + [further for child in children for further in _descendants(child)]


def new_node(folder: Path, *, destinations: str = "", quiet_seconds: float = 0.5, extra: str = "") -> Node:
    """Write the configuration of a node in `folder`; `destinations` and `extra` are TOML tables."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "config.toml").write_text(
        f"""[node]
host = "127.0.0.1"
port = {port}
[completion]
quiet_seconds = {quiet_seconds}
[web]
enabled = false
{"" if "[retention]" in extra else ANY_DISK}{extra}
{destinations}
""",
        "utf-8",
    )
    return Node(folder=folder, port=port)


def destination(name: str, ae_title: str, port: int, verify: str) -> str:
    """A [[destinations]] table."""
    return (
        f'[[destinations]]\nname = "{name}"\nae_title = "{ae_title}"\nhost = "127.0.0.1"\n'
        f'port = {port}\nverify = "{verify}"\n'
    )


@contextmanager
def running(node: Node) -> Iterator[Node]:
    """Start the node and make sure that it is gone at the end."""
    node.start()
    try:
        yield node
    finally:
        if node.process is not None and node.process.poll() is None:
            node.process.send_signal(signal.SIGTERM)
            try:
                node.process.wait(60)
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()
        node._close_database()
