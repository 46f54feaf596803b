"""Training by schedule: a process of the node that runs `dicom-node retrain` in its window, at low priority.

One window is one row (`ScheduledTraining`), started once, by the one machine that leads. The training is a process of
its own at the configured priority. It yields: while an analysis waits or runs on this machine, a file exists that the
training looks for between its steps (`training.loop.pause`). It is never stopped by SIGSTOP, which could hold a lock of
the index for as long as the analyses wait for that index. At the window's end it gets SIGTERM, saves a checkpoint, and
continues in the next window. If it has not ended KILL_SECONDS later, it is killed and continues from that checkpoint.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.config import RetrainSection
from dicom_node.context import NodeContext
from dicom_node.errors import NodeError
from dicom_node.index.tables.models import ScheduledTraining, ScheduledTrainingState
from dicom_node.jobs.backlog import analyses_have_work
from dicom_node.logs import get_logger
from dicom_node.notifications import raise_notice
from dicom_node.system.child_process import end_with_parent, is_running
from dicom_node.system.process_identity import machine
from dicom_node.weekly_window import TimeWindow, parse_schedule, window_at, zone_of

log = get_logger(__name__)

NIGHT_LOCK = 0x4C554E49
"""Advisory lock of the machine that trains, on PostgreSQL."""
PAUSE_VARIABLE = "DICOM_NODE_PAUSE_FILE"
"""`training.loop.pause` reads it; said again here, because the node itself does not import the training."""
LOOK_SECONDS = 0.25
"""Interval of the look for waiting analyses; a study waits no longer before the training gives way."""
IDLE_SECONDS = 5.0
"""Interval of the look at the clock outside a window."""
SEEN_SECONDS = 15.0
LOST = dt.timedelta(seconds=90)
"""A night whose row was not renewed for so long has lost its machine: another one goes on with it."""
KILL_SECONDS = 300.0
NODE_STOPS_SECONDS = 20.0
"""The same when the whole node is told to end: its parent waits no longer."""
QUIET_SECONDS = 2.0
"""Analyses must have had nothing to do for so long before the training goes on: images of one study come in a row."""

Command = Callable[[NodeContext], Sequence[str]]
"""Makes the command line that trains."""


def window_now(settings: RetrainSection, now: dt.datetime) -> TimeWindow | None:
    """The window of the schedule that is open at `now`, if any."""
    if not settings.schedule:
        return None
    return window_at(parse_schedule(settings.schedule), now, zone_of(settings.timezone))


def begin(session: Session, window: TimeWindow, *, now: dt.datetime, host: str, pid: int) -> int | None:
    """Begin the window, or take it over from a process that is gone; its row's key, None where nothing is to do."""
    night = session.scalars(
        select(ScheduledTraining).where(ScheduledTraining.begins_at == window.begins_at).with_for_update()
    ).one_or_none()
    if night is None:
        night = ScheduledTraining(
            begins_at=window.begins_at, ends_at=window.ends_at, host=host, pid=pid, started_at=now, seen_at=now
        )
        session.add(night)
        session.flush()
        return night.id
    is_of_machine = night.host == host
    # No sign of life, or a process of this machine that is gone; or this very process, which was restarted under its
    # old number.
    lost = (
        night.seen_at < now - LOST
        or (is_of_machine and not is_running(night.pid))
        or (is_of_machine and night.pid == pid)
    )
    if night.state is not ScheduledTrainingState.RUNNING or not lost:
        return None
    night.host, night.pid, night.seen_at = host, pid, now
    return night.id


def retrain_command(_node: NodeContext) -> list[str]:
    """`dicom-node retrain`; `serve` has put the configuration file into the environment."""
    return [sys.executable, "-m", "dicom_node", "retrain"]


class ScheduledTrainer:
    """The process that trains by schedule; `run` returns when the node stops."""

    def __init__(self, node: NodeContext, leads: Callable[[], bool], command: Command = retrain_command) -> None:
        self._node = node
        self._leads = leads
        self._command = command
        self._pause_file = node.settings.node.data_dir / "training.pause"

    def run(self) -> None:
        """Look at the clock; in a window, train."""
        while not self._node.stop.is_set():
            try:
                self.look()
            except NodeError as error:
                log.error("the schedule cannot be kept just now", error=str(error))
            self._node.stop.wait(IDLE_SECONDS)

    def look(self) -> bool:
        """Train where a window is open and nobody has begun it; returns after that. Whether it trained."""
        now = self._node.clock()
        window = window_now(self._node.settings.retrain, now)
        if window is None or not self._leads():
            return False
        with self._node.database.write() as session:
            night_pk = begin(session, window, now=now, host=socket.gethostname(), pid=os.getpid())
        if night_pk is None:
            return False
        self._train(night_pk, window)
        return True

    def _train(self, night_pk: int, window: TimeWindow) -> None:
        folder = self._node.settings.node.data_dir / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"retrain-{window.begins_at:%Y%m%d-%H%M}.log"
        self._pause_file.unlink(missing_ok=True)  # of a night whose process was killed: it would wait for ever
        log.info("scheduled training begins", until=window.ends_at.isoformat(), log=str(path))
        with path.open("ab") as output:
            process = subprocess.Popen(
                list(self._command(self._node)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(self._node.settings.retrain, self._pause_file),
                preexec_fn=_lower_priority(self._node.settings.retrain.nice, os.getpid()),
            )
        try:
            self._accompany(process, night_pk, window, path)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            self._pause_file.unlink(missing_ok=True)

    def _accompany(self, process: subprocess.Popen[bytes], night_pk: int, window: TimeWindow, path: Path) -> None:
        """Until it ends: pause it for analyses, renew the row, stop it when the window closes or the node ends."""
        pauses = _Pauses(self._pause_file)
        seen_at = 0.0
        while process.poll() is None:
            now = self._node.clock()
            stops = self._node.stop.is_set()
            if stops or now >= window.ends_at or not self._leads():
                why = "the node stops" if stops else "the window is over" if now >= window.ends_at else "another leads"
                self._stop(process, NODE_STOPS_SECONDS if stops else KILL_SECONDS)
                # A node that ends leaves its night running, and after LOST another process goes on with it.
                self._note(
                    night_pk,
                    ScheduledTrainingState.RUNNING if stops else ScheduledTrainingState.STOPPED,
                    process,
                    pauses,
                    detail=why,
                )
                return
            try:
                with self._node.database.read() as session:
                    pauses.look(analyses_have_work(session, machine=machine()))
                if time.monotonic() - seen_at > SEEN_SECONDS:
                    self._note(night_pk, ScheduledTrainingState.RUNNING, process, pauses)
                    seen_at = time.monotonic()
            except NodeError as error:
                log.error("the index does not answer: the training pauses", error=str(error))
                # Whether analyses wait is not known, and they go first.
                pauses.look(True)
            self._node.stop.wait(LOOK_SECONDS)
        state = ScheduledTrainingState.DONE if process.returncode == 0 else ScheduledTrainingState.FAILED
        self._note(night_pk, state, process, pauses, detail=_last_line(path))

    def _stop(self, process: subprocess.Popen[bytes], patience: float) -> None:
        """SIGTERM, then patience for a checkpoint, then SIGKILL; a paused training must see the sign too."""
        self._pause_file.unlink(missing_ok=True)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        if process.poll() is None:
            log.error("scheduled training killed: it did not stop in time")
            process.kill()
            process.wait()

    def _note(
        self,
        night_pk: int,
        state: ScheduledTrainingState,
        process: subprocess.Popen[bytes],
        pauses: _Pauses,
        detail: str = "",
    ) -> None:
        now = self._node.clock()
        with self._node.database.write() as session:
            night = session.get_one(ScheduledTraining, night_pk)
            night.state, night.seen_at, night.detail = state, now, detail[:2000]
            night.pauses, night.paused_seconds = pauses.count, pauses.seconds
            if state is not ScheduledTrainingState.RUNNING:
                night.ended_at, night.exit_status = now, process.returncode
                log.info("scheduled training ended", state=state, pauses=pauses.count, detail=detail[:200])
            if state is ScheduledTrainingState.FAILED:
                key = f"scheduled training:{hashlib.sha256(detail.encode()).hexdigest()[:16]}"
                text = f"scheduled training ended with status {process.returncode}: {detail[:500]}"
                raise_notice(session, key=key, kind="training", text=text, now=now)


class _Pauses:
    """The file that makes the training wait, and how long it was there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._since: float | None = None
        self._quiet_since: float | None = None
        self._closed_seconds = 0.0
        self.count = 0

    @property
    def seconds(self) -> float:
        running = time.monotonic() - self._since if self._since is not None else 0.0
        return self._closed_seconds + running

    def look(self, work: bool) -> None:
        """Make the file at the first sign of work; remove it when there was none for QUIET_SECONDS."""
        now = time.monotonic()
        if work:
            self._quiet_since = None
            if self._since is None:
                self._file.touch()
                self._since, self.count = now, self.count + 1
        elif self._since is not None:
            # Not at the first quiet look: work comes in bursts.
            self._quiet_since = self._quiet_since or now
            if now - self._quiet_since >= QUIET_SECONDS:
                self._file.unlink(missing_ok=True)
                self._closed_seconds += now - self._since
                self._since = self._quiet_since = None


def _environment(settings: RetrainSection, pause_file: Path) -> dict[str, str]:
    threads = str(settings.threads)
    return os.environ | {
        PAUSE_VARIABLE: str(pause_file.absolute()),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }


def _lower_priority(nice: int, parent_pid: int) -> Callable[[], None]:
    """Prepare the child before it runs: behind every study for the CPU, and gone with its parent."""

    def prepare() -> None:
        os.nice(nice)
        end_with_parent(parent_pid)

    return prepare


def _last_line(path: Path) -> str:
    """The last error text of the process."""
    with suppress(OSError):
        lines = [line.strip() for line in path.read_text("utf-8", errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""
    return ""


def run_nights(node: NodeContext) -> None:
    """The life of the process: one machine of all leads. Returns when the node stops."""
    from dicom_node.system.leader_election import Leadership

    leadership = Leadership(node, lock=NIGHT_LOCK)
    ScheduledTrainer(node, leadership.take_or_keep).run()
    leadership.give_up()
