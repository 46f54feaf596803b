"""The work of this worker's lanes: written to the index for people and notices, and read by the supervisor."""

from __future__ import annotations

import datetime as dt
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import delete

from dicom_node.context import NodeContext
from dicom_node.errors import IndexUnavailableError
from dicom_node.index.clock import database_time
from dicom_node.index.tables.core import JobKind, LaneState, WorkerLane
from dicom_node.index.upsert import insert_or_update
from dicom_node.jobs.backlog import LANE_IS_GONE
from dicom_node.jobs.lane_health import LaneHealth
from dicom_node.logs import get_logger

log = get_logger(__name__)

MAX_SILENCE_SECONDS = 120.0
"""An idle lane looks at its work every few seconds; one that has not for so long hangs."""
MAX_JOB_SECONDS = 3600.0
"""Longer than every time-out that a job has together; a job that takes longer hangs."""
FORGET_AFTER = dt.timedelta(days=1)


class LaneStatus:
    """The state of one lane, whose threads report in turn. A paused thread makes the lane a paused one."""

    def __init__(self, kind: JobKind, now: dt.datetime) -> None:
        self.kind = kind
        self.health = LaneHealth()
        self.state = LaneState.IDLE
        self.reason = ""
        self.since = now
        self._guard = threading.Lock()
        self._jobs: dict[str, float] = {}
        """Keys of the jobs in hand, with the steady time of their start."""
        self._beaten_at = time.monotonic()

    def beat(self) -> None:
        """Note that a thread of the lane has come round."""
        self._beaten_at = time.monotonic()

    def idle(self) -> None:
        """Note that there is nothing due."""
        self._become(LaneState.WORKING if self._jobs else LaneState.IDLE)

    def pause(self, reason: str) -> bool:
        """Note that the lane claims nothing, and why; returns whether that is new."""
        is_new = self.state is not LaneState.PAUSED
        self._become(LaneState.PAUSED, reason)
        return is_new

    @contextmanager
    def busy(self, key: str) -> Iterator[None]:
        """Note a job in hand for the block."""
        self._jobs[key] = time.monotonic()
        self._become(LaneState.WORKING)
        try:
            yield
        finally:
            self._jobs.pop(key, None)
            self.beat()

    @property
    def job_key(self) -> str:
        """The job that has been in hand for longest, or ""."""
        jobs = sorted(self._jobs.copy().items(), key=lambda item: item[1])
        return jobs[0][0] if jobs else ""

    def is_moving(self) -> bool:
        """Return whether the lane has come round lately, or has a job in hand that may take so long."""
        now = time.monotonic()
        started = list(self._jobs.copy().values())
        if started:
            return now - min(started) < MAX_JOB_SECONDS
        return now - self._beaten_at < MAX_SILENCE_SECONDS

    def _become(self, state: LaneState, reason: str = "") -> None:
        with self._guard:
            if state is not self.state:
                self.since = dt.datetime.now(dt.UTC)
            self.state, self.reason = state, reason


class LaneReporter:
    """Writes the lanes' rows: every few seconds, and at once withdrawn at the end."""

    def __init__(self, node: NodeContext, worker: str) -> None:
        self._node = node
        self._lanes: list[LaneStatus] = []
        self._worker = worker

    def add(self, kind: JobKind) -> LaneStatus:
        """Add a lane and return its status, which the lane's threads keep."""
        status = LaneStatus(kind, self._node.clock())
        self._lanes.append(status)
        return status

    def is_moving(self) -> bool:
        """Return whether no lane hangs."""
        return all(lane.is_moving() for lane in self._lanes)

    def report(self) -> None:
        """Write what the lanes do now; an index that is away is only logged."""
        try:
            with self._node.database.write() as session:
                for lane in self._lanes:
                    changes: dict[str, Any] = {
                        "state": lane.state,
                        "reason": lane.reason,
                        "job_key": lane.job_key,
                        "since": lane.since,
                        "seen_at": database_time(session),
                    }
                    key = {"worker": self._worker, "lane": str(lane.kind)}
                    owner = {"kind": lane.kind, "host": socket.gethostname()}
                    insert_or_update(
                        session, WorkerLane, {**key, **owner, **changes}, unique=["worker", "lane"], update=changes
                    )
                old = WorkerLane.seen_at < database_time(session, -FORGET_AFTER)
                session.execute(delete(WorkerLane).where(old))
        except IndexUnavailableError as error:
            log.warning("the lanes' state is not in the index", error=str(error))

    def withdraw(self) -> None:
        """Delete this worker's rows: it has stopped. Those of workers killed before it go too, or they would be taken
        for the last that were here (`backlog.find_lost_workers`)."""
        try:
            with self._node.database.write() as session:
                lost = WorkerLane.seen_at < database_time(session, -LANE_IS_GONE)
                session.execute(delete(WorkerLane).where((WorkerLane.worker == self._worker) | lost))
        except IndexUnavailableError as error:
            log.warning("the lanes of this worker stay listed for a while", error=str(error))
