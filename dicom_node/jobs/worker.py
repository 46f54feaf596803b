"""The worker: threads that claim jobs, renew their leases and end them. One of the two places with a broad except."""

from __future__ import annotations

import datetime as dt
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import exists, select

from dicom_node.context import NodeContext
from dicom_node.errors import DeliveryError, IndexUnavailableError, NodeError
from dicom_node.index.tables.core import Job, JobKind, JobState
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import ClaimedJob, LeaseLostError
from dicom_node.logs import get_logger
from dicom_node.system.child_process import is_running

log = get_logger(__name__)

POLL_SECONDS = 0.2
"""How often an idle thread looks for due work: a read that takes no lock."""
PAUSE_WITHOUT_INDEX_SECONDS = 2.0
STOP_GRACE_SECONDS = 20.0
"""How long a job may go on after the sign to stop, before the process ends and the job goes back."""

Handler = Callable[[ClaimedJob, NodeContext], None]
"""Does a job and ends it itself, in the transaction that writes its effect. Raises NodeError where it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Some kinds of job, and how many threads do them."""

    name: str
    kinds: Collection[JobKind]
    threads: int = 1


LANES = (
    Lane(name="analyse", kinds=(JobKind.ANALYSE,)),  # one model; [model] studies_at_once threads
    Lane(name="deliver", kinds=(JobKind.DELIVER,), threads=2),  # a slow destination must not hold up the others
    Lane(name="fetch", kinds=(JobKind.FETCH,), threads=2),
    Lane(name="report", kinds=(JobKind.REPORT,)),
    Lane(name="shadow", kinds=(JobKind.SHADOW,)),  # a lane of its own: a challenger that hangs holds up nobody
)


class Worker:
    """Threads over one index. `start`, then `stop`; jobs that are not done by then go back to the queue."""

    def __init__(self, node: NodeContext, handlers: Mapping[JobKind, Handler]) -> None:
        self._node = node
        self._handlers = handlers
        self._threads: list[threading.Thread] = []
        self._held: dict[str, ClaimedJob] = {}
        self._held_lock = threading.Lock()

    def start(self) -> None:
        """Take back what a dead worker of this machine held, then begin."""
        self._take_back()
        for lane in LANES:
            kinds = [kind for kind in lane.kinds if kind in self._handlers]
            for number in range(self._threads_of(lane) if kinds else 0):
                name = f"{lane.name}-{number}"
                self._threads.append(threading.Thread(target=self._run, args=(name, kinds), name=name, daemon=True))
        self._threads.append(threading.Thread(target=self._keep_leases, name="leases", daemon=True))
        for thread in self._threads:
            thread.start()

    def _threads_of(self, lane: Lane) -> int:
        return self._node.settings.model.studies_at_once if lane.kinds == (JobKind.ANALYSE,) else lane.threads

    def stop(self, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        """Stop claiming, wait for jobs in hand, and give back those that take longer than the grace."""
        self._node.stop.set()
        deadline = time.monotonic() + grace_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._held_lock:
            left = list(self._held.values())
        for job in left:
            self._give_back(job)

    def _give_back(self, job: ClaimedJob) -> None:
        """Being stopped is no failure of the job's: it goes back as it was."""
        now = self._node.clock()
        try:
            with self._node.database.write() as session:
                jobs.postpone(session, job, now=now, until=now)
        except (IndexUnavailableError, LeaseLostError) as error:
            log.warning("job not given back: its lease brings it back", job=job.key, error=str(error))
            return
        log.info("job given back at stop", job=job.key)

    def _take_back(self) -> None:
        """A worker process of this machine that is gone cannot renew its leases: do not wait until they run out."""
        host = f"{socket.gethostname()}:"
        with self._node.database.write() as session:
            owners = set(
                session.scalars(
                    select(Job.lease_owner).where(
                        Job.state == JobState.RUNNING, Job.lease_owner.startswith(host, autoescape=True)
                    )
                )
            )
            for owner in owners:
                pid = int(owner.split(":")[1])
                if pid == os.getpid() or not is_running(pid):
                    jobs.release(session, owner_prefix=owner, now=self._node.clock())
                    log.warning("jobs of a lost worker taken back", worker=owner)

    def _run(self, name: str, kinds: Collection[JobKind]) -> None:
        owner = f"{socket.gethostname()}:{os.getpid()}:{name}"
        while not self._node.stop.is_set():
            try:
                job = self._claim(kinds, owner)
            except IndexUnavailableError as error:
                log.error("no work can be claimed", error=str(error))
                self._node.stop.wait(PAUSE_WITHOUT_INDEX_SECONDS)
                continue
            if job is None:
                self._node.stop.wait(POLL_SECONDS)
                continue
            self._do(job)

    def _claim(self, kinds: Collection[JobKind], owner: str) -> ClaimedJob | None:
        now = self._node.clock()
        due = (Job.state == JobState.READY) & (Job.run_at <= now) & Job.kind.in_(list(kinds))
        with self._node.database.read() as session:
            if not session.scalar(select(exists().where(due))):
                return None
        with self._node.database.write() as session:
            job = jobs.claim(session, kinds=kinds, owner=owner, now=now)
        if job is not None:
            with self._held_lock:
                self._held[owner] = job
        return job

    def _do(self, job: ClaimedJob) -> None:
        started = time.monotonic()
        try:
            self._handlers[job.kind](job, self._node)
            log.info("job ended", job=job.key, attempt=job.attempts, seconds=round(time.monotonic() - started, 3))
        except LeaseLostError as error:
            log.warning("job lost to another worker", job=job.key, error=str(error))
        except NodeError as error:
            if self._node.stop.is_set():
                self._give_back(job)
                return
            self._fail(job, str(error), permanent=isinstance(error, DeliveryError) and error.permanent)
        except Exception as error:
            log.exception("job failed unexpectedly", job=job.key)
            self._fail(job, f"{type(error).__name__}: {error}", permanent=False, logged=type(error).__name__)
        finally:
            with self._held_lock:
                self._held.pop(job.lease_owner, None)

    def _fail(self, job: ClaimedJob, error: str, *, permanent: bool, logged: str = "") -> None:
        """End the attempt. logged: what the log may say of an error whose words may quote a patient's data."""
        try:
            with self._node.database.write() as session:
                state = jobs.fail(session, job, error, now=self._node.clock(), permanent=permanent)
        except (IndexUnavailableError, LeaseLostError) as lost:
            # The lease runs out and the rescue sweep brings the job back.
            log.error("job failed and the index did not take it", job=job.key, error=logged or error, index=str(lost))
            return
        log.warning("job failed", job=job.key, attempt=job.attempts, state=state, error=logged or error)

    def _keep_leases(self) -> None:
        """Renew what is held, until the last job is given back."""
        pause = jobs.LEASE / 4
        while not self._node.stop.wait(pause.total_seconds()) or self._held:
            with self._held_lock:
                held = list(self._held.values())
            for job in held:
                self._renew(job)
            if self._node.stop.is_set():
                time.sleep(dt.timedelta(seconds=1).total_seconds())  # stop.wait no longer waits

    def _renew(self, job: ClaimedJob) -> None:
        try:
            with self._node.database.write() as session:
                jobs.heartbeat(session, job, now=self._node.clock())
        except LeaseLostError:
            pass  # ended between the look and the renewal, or lost: the job's own transaction finds out
        except IndexUnavailableError as error:
            log.error("lease not renewed", job=job.key, error=str(error))
