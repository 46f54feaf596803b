"""The worker: lanes of threads that claim jobs, renew their leases and end them. Has a broad except."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.errors import DeliveryError, IndexUnavailableError, NodeError, StorageError
from dicom_node.index.tables.core import Job, JobKind, JobState
from dicom_node.jobs import backlog
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.lane_report import LaneReporter, LaneStatus
from dicom_node.jobs.queue import ClaimedJob, LeaseLostError
from dicom_node.jobs.self_check import SelfCheck
from dicom_node.jobs.wakeups import BESIDE_POLL, SLOW_POLL, Wakeups
from dicom_node.logs import get_logger
from dicom_node.system.process_identity import ProcessIdentity, machine, this_process

log = get_logger(__name__)

PAUSE_AFTER_TROUBLE_SECONDS = 2.0
LOOK_AGAIN_SECONDS = 10.0
"""The interval at which a lane whose machine has a fault checks whether it still has it."""
STOP_GRACE_SECONDS = 20.0
"""The time a job may go on after the stop signal, before the process ends and the job goes back."""

Handler = Callable[[ClaimedJob, NodeContext], None]
"""Does a job with its companions and ends each itself, in the transaction that writes its effect. Raises NodeError
where the job failed."""
AddCompanions = Callable[[Session, ClaimedJob], ClaimedJob]
"""Claims, in the transaction of a job's own claim, what is to be done together with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One kind of job, and how many threads do it."""

    kind: JobKind
    threads: int = 1


LANES = (
    Lane(kind=JobKind.ANALYSE),  # one model; [model] most_studies_at_once threads
    Lane(kind=JobKind.DELIVER, threads=2),  # a slow destination must not hold up the others
    Lane(kind=JobKind.FETCH, threads=2),
    Lane(kind=JobKind.BACKFILL, threads=2),  # a lane of its own: an archive that is slow holds up no study of tonight
    Lane(kind=JobKind.REPORT),
    Lane(kind=JobKind.SHADOW),  # a lane of its own: a challenger that hangs holds up no analysis
)


class Worker:
    """Threads over one index. `start`, then `stop`; jobs that are not done by then go back to the queue."""

    def __init__(
        self,
        node: NodeContext,
        handlers: Mapping[JobKind, Handler],
        *,
        companions: Mapping[JobKind, AddCompanions] | None = None,
    ) -> None:
        self._node = node
        self._handlers = handlers
        self._companions = companions or {}
        self._threads: list[threading.Thread] = []
        self._held: dict[str, ClaimedJob] = {}
        self._held_lock = threading.Lock()
        self._wakeups = Wakeups(node)
        self._check = SelfCheck(node)
        self._name = f"{this_process()}/{secrets.token_hex(2)}"
        """Two workers in one process differ as well."""
        self._reporter = LaneReporter(node, self._name)

    def start(self) -> None:
        """Take back what a dead worker of this machine held, then begin."""
        # Before any thread: jobs of a dead process of this machine need not wait for their leases to run out.
        self._take_back()
        for lane in LANES:
            if lane.kind not in self._handlers:
                continue
            status = self._reporter.add(lane.kind)
            for number in range(self._threads_of(lane)):
                name = f"{lane.kind}-{number}"
                beside = number if self._is_by_load(lane) else 0
                lane_thread = threading.Thread(target=self._run, args=(name, status, beside), name=name, daemon=True)
                self._threads.append(lane_thread)
        self._threads.append(threading.Thread(target=self._keep_leases, name="leases", daemon=True))
        self._wakeups.start()
        for thread in self._threads:
            thread.start()

    def is_moving(self) -> bool:
        """Return whether every thread lives and every lane has looked at its work lately (for the supervisor)."""
        return all(thread.is_alive() for thread in self._threads) and self._reporter.is_moving()

    def _threads_of(self, lane: Lane) -> int:
        return self._node.settings.model.most_studies_at_once if lane.kind is JobKind.ANALYSE else lane.threads

    def _is_by_load(self, lane: Lane) -> bool:
        """Tell whether the lane's further threads work only while others wait."""
        return lane.kind is JobKind.ANALYSE and self._node.settings.model.studies_at_once == 0

    def stop(self, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        """Stop claiming, wait for jobs in hand, and give back those that take longer than the grace."""
        self._node.stop.set()
        deadline = time.monotonic() + grace_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._held_lock:
            left = list(self._held.values())
        for job in left:
            self._give_back(job, *job.companions)
        self._reporter.withdraw()
        self._wakeups.join()

    def _give_back(self, *given: ClaimedJob) -> None:
        """Give jobs back as they were: being stopped is no failure of theirs, nor is another job's error."""
        for job in given:
            try:
                with self._node.database.write() as session:
                    jobs.postpone(session, job)
            except (IndexUnavailableError, LeaseLostError) as error:
                log.warning("job not given back: its lease brings it back", job=job.key, error=str(error))
            else:
                log.info("job given back", job=job.key)

    def _take_back(self) -> None:
        """Give back at once what processes of this machine held that are certainly gone, not when leases run out."""
        is_of_machine = Job.lease_owner.startswith(f"{machine()}/", autoescape=True)
        with self._node.database.write() as session:
            owners = set(session.scalars(select(Job.lease_owner).where(Job.state == JobState.RUNNING, is_of_machine)))
            for owner in owners:
                process = ProcessIdentity.parse(owner)
                if process is not None and process.is_gone():
                    jobs.release(session, owner_prefix=owner)
                    log.warning("jobs of a lost worker taken back", worker=owner)

    def _run(self, name: str, status: LaneStatus, beside: int) -> None:
        """Work until the node stops. Whatever is raised, the lane goes on: without it due work would wait for ever.

        beside: more jobs than this must wait before one is begun beside those in hand; 0 for a thread that takes any.
        """
        owner = f"{self._name}/{name}"
        while not self._node.stop.is_set():
            try:
                self._work_once(owner, status, beside)
            except IndexUnavailableError as error:
                log.error("no work can be claimed", error=str(error))
                self._node.stop.wait(PAUSE_AFTER_TROUBLE_SECONDS)
            except Exception:  # the edge of a lane: without it the due work of its kind would wait for ever
                log.exception("a lane failed and continues", lane=name)
                self._node.stop.wait(PAUSE_AFTER_TROUBLE_SECONDS)

    def _work_once(self, owner: str, status: LaneStatus, beside: int) -> None:
        """Do the next job, or wait until there may be one."""
        kinds = (status.kind,)
        pause = status.health.pause_left()
        # Read before the queue is looked at: a job that comes between look and wait then ends the wait at once.
        generation = self._wakeups.generation(kinds)
        status.beat()
        if pause:
            self._pause(status, status.health.reason)
            self._node.stop.wait(min(pause, LOOK_AGAIN_SECONDS))
            return
        with self._node.database.read() as session:
            due_in = backlog.seconds_to_next(session, kinds, within=SLOW_POLL)
            if due_in == 0.0 and beside and backlog.count_due(session, status.kind, most=beside + 1) <= beside:
                due_in = None  # the first thread takes it, at once or next: one study alone is done soonest alone
        if due_in != 0.0:
            status.idle()
            seldom = BESIDE_POLL if beside else SLOW_POLL  # the first thread looks for all when nothing happens
            self._wakeups.wait(kinds, generation, seldom.total_seconds() if due_in is None else due_in)
            return
        fault = self._check.fault(status.kind)
        if fault:
            self._pause(status, fault)
            self._node.stop.wait(LOOK_AGAIN_SECONDS)
            return
        job = self._claim(status.kind, owner)
        if job is None:  # another worker was faster, or it is locked just now
            self._wakeups.wait(kinds, generation, 0.2)
            return
        with status.busy(job.key):
            self._do(job, status)
        if status.kind is JobKind.ANALYSE:
            # A further film of this person, which was passed over, may be taken now.
            self._wakeups.wake(kinds)

    def _claim(self, kind: JobKind, owner: str) -> ClaimedJob | None:
        with self._node.database.write() as session:
            job = jobs.claim(session, kinds=(kind,), owner=owner)
            if job is not None and kind in self._companions:
                job = self._companions[kind](session, job)
        if job is not None:
            with self._held_lock:
                self._held[owner] = job
        return job

    def _do(self, job: ClaimedJob, status: LaneStatus) -> None:
        started = time.monotonic()
        try:
            self._handlers[job.kind](job, self._node)
            log.info("job ended", job=job.key, attempt=job.attempts, seconds=round(time.monotonic() - started, 3))
            status.health.record_success()
        except LeaseLostError as error:
            log.warning("job lost to another worker", job=job.key, error=str(error))
            self._give_back(*job.companions)
        except NodeError as error:
            self._give_back(*job.companions)
            # A handler that fails during a stop fails of the stop: its model was ended, its connection closed.
            if self._node.stop.is_set():
                self._give_back(job)
                return
            self._fail(job, str(error), permanent=isinstance(error, DeliveryError) and error.permanent)
            if isinstance(error, StorageError):
                self._suspect_machine(job, str(error), status)
        except Exception as error:  # the edge of a job: whatever its handler raises ends this attempt alone
            log.exception("job failed unexpectedly", job=job.key)
            self._give_back(*job.companions)
            self._fail(job, f"{type(error).__name__}: {error}", permanent=False, logged=type(error).__name__)
            self._suspect_machine(job, type(error).__name__, status)
        finally:
            with self._held_lock:
                self._held.pop(job.lease_owner, None)

    def _fail(self, job: ClaimedJob, error: str, *, permanent: bool, logged: str = "") -> None:
        """End the attempt. logged: what the log may say of an error whose words may quote a patient's data."""
        try:
            with self._node.database.write() as session:
                state = jobs.fail(session, job, error, permanent=permanent)
        except (IndexUnavailableError, LeaseLostError) as lost:
            # The lease runs out and the rescue sweep brings the job back.
            log.error("job failed and the index did not take it", job=job.key, error=logged or error, index=str(lost))
            return
        log.warning("job failed", job=job.key, attempt=job.attempts, state=state, error=logged or error)

    def _suspect_machine(self, job: ClaimedJob, error: str, status: LaneStatus) -> None:
        """Count a failure that may be this machine's; where the lane pauses, uncount what its jobs were charged."""
        # The next look at this machine is a fresh one, not the answer that was kept from before the failure.
        self._check.forget()
        spent = status.health.record_failure(job.id, error)
        if not spent:
            return
        with self._node.database.write() as session:
            jobs.refund_attempts(session, spent)
        self._pause(status, status.health.reason)

    def _pause(self, status: LaneStatus, reason: str) -> None:
        """Claim nothing for now; people see it at once."""
        if status.pause(reason):
            log.error("lane paused", lane=status.kind, reason=reason)
            self._reporter.report()

    def _keep_leases(self) -> None:
        """Renew what is held and report the lanes, until the last job is given back."""
        pause = 0.0
        # Jobs in hand keep their leases during the grace of a stop: one that ends within it must still find itself the
        # owner.
        while not self._node.stop.wait(pause) or self._held:
            pause = (jobs.LEASE / 4).total_seconds()
            try:
                self._renew_all()
                self._reporter.report()
            except Exception:  # without this thread every job that takes longer than a lease would be lost
                log.exception("leases not renewed; tried again")
            if self._node.stop.is_set():
                time.sleep(1.0)  # stop.wait no longer waits

    def _renew_all(self) -> None:
        with self._held_lock:
            held = list(self._held.values())
        for job in held:
            for each in (job, *job.companions):
                self._renew(each)

    def _renew(self, job: ClaimedJob) -> None:
        try:
            with self._node.database.write() as session:
                jobs.heartbeat(session, job)
        except LeaseLostError:
            pass  # ended between the look and the renewal, or lost: the job's own transaction finds out
        except IndexUnavailableError as error:
            log.error("lease not renewed", job=job.key, error=str(error))
