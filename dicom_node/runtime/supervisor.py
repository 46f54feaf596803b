"""The composition root: which processes a role needs, how they start, how they are watched and how they end."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event as ProcessEvent
from typing import TYPE_CHECKING

from dicom_node.config import Settings
from dicom_node.context import NodeContext
from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.index import schema
from dicom_node.index.database import Database
from dicom_node.logs import get_logger
from dicom_node.runtime.child_mains import ChildMain, child_main, night_main, node_context, receiver_main, worker_main
from dicom_node.runtime.fork_server import fork_context, start_fork_server, start_process
from dicom_node.runtime.reload import read_new_settings
from dicom_node.serving.promotion import require_model
from dicom_node.system.backoff import pause_after
from dicom_node.system.child_process import stop_on_signals
from dicom_node.system.collection import resume_collection
from dicom_node.system.file_lock import FileLock
from dicom_node.system.pulse import Pulse

if TYPE_CHECKING:
    from dicom_node.feedback.reports.hl7_listener import Hl7Listener

log = get_logger(__name__)

READY_SECONDS = 120.0
"""The time a child may take to be ready before the node says so in the log."""
CHILD_STOP_SECONDS = 30.0
"""The time a child may take to end after SIGTERM: longer than the worker's grace for a running job."""
MAX_SILENCE_SECONDS = 90.0
"""A child that is silent for so long is killed and started again. A model loads in a process of its own."""
LOOK_SECONDS = 1.0
"""The interval at which the children, and a wish for new settings, are looked at. A wish to stop is heard at once."""
FIRST_RESTART_SECONDS = 0.5
LONGEST_RESTART_SECONDS = 30.0


class ProcessRole(StrEnum):
    """The task of a process group of the node."""

    ALL = "all"
    """Receive and work: one machine."""
    RECEIVE = "receive"
    """Only receive; another machine works on the same database and store."""
    WORK = "work"
    """Only sweep, analyse and deliver."""


@dataclass(slots=True, kw_only=True)
class _Child:
    """A process that is kept running."""

    name: str
    main: ChildMain
    ready: ProcessEvent = field(default_factory=fork_context.Event)
    pulse: Pulse = field(default_factory=Pulse)
    process: BaseProcess | None = None
    failures: int = 0
    restart_at: float = 0.0


def prepare(settings: Settings) -> None:
    """Make the folders; bring SQLite to the needed schema, ask for `db upgrade` elsewhere."""
    settings.node.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database.url)
    try:
        if database.is_sqlite:
            schema.upgrade(database)
        schema.require_current(database)
    finally:
        database.close()


@contextmanager
def sole_owner(settings: Settings) -> Iterator[None]:
    """Hold the data folder of a node on SQLite: two nodes on one would both sweep and recover. Raises NodeError."""
    if not settings.database.url.startswith("sqlite"):
        yield
        return
    lock = FileLock.try_acquire(settings.node.data_dir / "node.lock")
    if lock is None:
        raise NodeError(f"another node is running on {settings.node.data_dir}")
    with lock:
        yield


def serve(settings: Settings, role: ProcessRole, *, reload: Callable[[], Settings] | None = None) -> None:
    """Run the node until SIGTERM or SIGINT; at SIGHUP go on with what `reload` reads.

    Raises NodeError or ConfigurationError where it cannot start.
    """
    if role is not ProcessRole.ALL and settings.database.url.startswith("sqlite"):
        raise ConfigurationError(
            f"database.url: role {role} shares the index with other processes' roles on other machines and needs"
            " postgresql+psycopg://…; SQLite serves role all only"
        )
    if role is not ProcessRole.RECEIVE:
        require_model(settings)
    stop = threading.Event()
    stop_on_signals(stop)
    prepare(settings)
    with sole_owner(settings):
        if role is not ProcessRole.WORK:
            from dicom_node.receive.listeners import require_ports

            require_ports(settings)
        reloads = threading.Event()
        # Only noted here: a handler runs between any two instructions, and reading settings in it could deadlock.
        signal.signal(signal.SIGHUP, lambda _number, _frame: reloads.set())
        while not stop.is_set():
            settings = _supervise(settings, role, stop, _Reload(asked_for=reloads, read=reload))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reload:
    """A wish for the configuration to be read again, by SIGHUP, and how it is read; None: it cannot be."""

    asked_for: threading.Event
    read: Callable[[], Settings] | None

    def settings(self, running: Settings, role: ProcessRole) -> Settings | None:
        """The new settings where they are asked for and the node can run with them; nothing has been ended by then."""
        if not self.asked_for.is_set():
            return None
        self.asked_for.clear()
        if self.read is None:
            return None
        return read_new_settings(
            running, self.read, receives=role is not ProcessRole.WORK, works=role is not ProcessRole.RECEIVE
        )


def _supervise(settings: Settings, role: ProcessRole, stop: threading.Event, reload: _Reload) -> Settings:
    """Run the node's parts until it is to stop, or to go on with the settings that are returned."""
    fresh: Settings | None = None
    children = _children(settings, role)
    node = dataclasses.replace(
        node_context(settings, threading.Event()),
        not_ready=lambda: [child.name for child in children if not child.ready.is_set()],
    )
    start_fork_server()
    # By a thread: the server may still be importing what the children need, while this process imports its own parts.
    starter = threading.Thread(target=_start_all, args=(children, settings), name="start", daemon=True)
    starter.start()
    try:
        with _own_parts(node, role):
            starter.join()
            resume_collection()
            _announce(children, settings, role, stop)
            while not stop.wait(LOOK_SECONDS) and fresh is None:
                for child in children:
                    _keep_running(child, settings)
                fresh = reload.settings(settings, role)
            log.info("node stopping" if stop.is_set() else "node reloading")
            node.stop.set()
            _end(children)
    finally:
        starter.join()
        _end(children)  # where a part of this process could not start; else they are gone
    node.database.close()
    log.info("node stopped")
    return fresh or settings


def _children(settings: Settings, role: ProcessRole) -> list[_Child]:
    children = []
    if role in (ProcessRole.ALL, ProcessRole.RECEIVE):
        children += [_Child(name=f"receive-{number}", main=receiver_main) for number in range(settings.node.receivers)]
    if role in (ProcessRole.ALL, ProcessRole.WORK):
        children.append(_Child(name="work", main=worker_main))
        if settings.retrain.schedule:
            children.append(_Child(name="night", main=night_main))
    return children


@contextmanager
def _own_parts(node: NodeContext, role: ProcessRole) -> Iterator[None]:
    """Run the parts of the main process: sweeps where work is done, the HL7 listener where it is received, the
    pages."""
    from dicom_node.audit.messages import EventType
    from dicom_node.runtime.scheduler import Sweeper, note_activity
    from dicom_node.web.server import WebServer

    sweeper = Sweeper(node) if role in (ProcessRole.ALL, ProcessRole.WORK) else None
    web = WebServer(node) if node.settings.web.enabled else None
    hl7 = _hl7_listener(node, role)
    for part in (sweeper, hl7, web):
        if part is not None:
            part.start()
    if sweeper is None:  # which tells of its own start and stop
        note_activity(node, EventType.APPLICATION_START)
    try:
        yield
    finally:
        if sweeper is None:
            note_activity(node, EventType.APPLICATION_STOP)
        for part in (web, hl7, sweeper):
            if part is not None:
                part.stop()


def _hl7_listener(node: NodeContext, role: ProcessRole) -> Hl7Listener | None:
    if not node.settings.hl7.enabled or role is ProcessRole.WORK:
        return None
    from dicom_node.feedback.reports.hl7_listener import Hl7Listener

    return Hl7Listener(node)


def _start_all(children: list[_Child], settings: Settings) -> None:
    for child in children:
        _start(child, settings)


def _start(child: _Child, settings: Settings) -> None:
    child.ready.clear()
    child.pulse.beat()
    arguments = (child.name, child.main, settings, child.ready, child.pulse, dict(os.environ))
    try:
        child.process = start_process(child_main, arguments, child.name)
        child.pulse.beat()  # the fork server may have taken its time
    except (OSError, EOFError) as error:  # out of descriptors, memory or process ids, or the fork server was killed
        child.process = None
        child.failures += 1
        pause = pause_after(child.failures, first=FIRST_RESTART_SECONDS, longest=LONGEST_RESTART_SECONDS)
        child.restart_at = time.monotonic() + pause
        why = getattr(error, "strerror", None) or "the fork server has ended"
        log.error("a process cannot be started", child=child.name, why=why, again_in=pause)


def _announce(children: list[_Child], settings: Settings, role: ProcessRole, stop: threading.Event) -> None:
    """Say once that the node is ready; peers and tests wait for that line."""
    deadline = time.monotonic() + READY_SECONDS
    for child in children:
        late = False
        while not child.ready.wait(0.05) and not stop.is_set():
            for each in children:
                _keep_running(each, settings)
            if not late and time.monotonic() > deadline:
                log.error("not ready in time", child=child.name)  # it is told when it is
                late = True
    if not stop.is_set():
        log.info("node ready", role=role, ae_title=settings.node.ae_title, port=settings.node.port)


def _keep_running(child: _Child, settings: Settings) -> None:
    """Start a child again that ended, could not be started, or lives and does not move, with growing pauses."""
    if child.process is None:
        if child.restart_at and time.monotonic() >= child.restart_at:
            child.restart_at = 0.0
            _start(child, settings)
        return
    if child.process.is_alive():
        silent = child.pulse.silent_seconds()
        if silent < MAX_SILENCE_SECONDS:
            return
        log.error("killed: a process lives and does not move", child=child.name, seconds=round(silent))
        child.process.kill()  # SIGTERM would wait in a stopped process for as long as it is stopped
        child.process.join(CHILD_STOP_SECONDS)
        return
    now = time.monotonic()
    if child.restart_at == 0.0:
        child.failures += 1
        pause = pause_after(child.failures, first=FIRST_RESTART_SECONDS, longest=LONGEST_RESTART_SECONDS)
        child.restart_at = now + pause
        log.error("a process ended", child=child.name, status=child.process.exitcode, restart_in=pause)
    elif now >= child.restart_at:
        child.restart_at = 0.0
        _start(child, settings)


def _end(children: list[_Child]) -> None:
    running = [child.process for child in children if child.process is not None and child.process.is_alive()]
    for process in running:
        process.terminate()
    # One deadline for all: they stop at the same time, not one after the other.
    deadline = time.monotonic() + CHILD_STOP_SECONDS
    for process in running:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            log.error("killed: did not stop in time", child=process.name)
            process.kill()
            process.join()
