"""The worker edge: every job ends in the queue's own words, whatever its handler does."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.orm import Session

from dicom_node.config import ModelSection, NodeSection, Settings
from dicom_node.config.models import STUDIES_BY_LOAD
from dicom_node.context import NodeContext, utc_now
from dicom_node.errors import DeliveryError
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Job, JobKind, JobState, LaneState, Study, WorkerLane
from dicom_node.jobs import backlog
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.lane_report import LaneReporter
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.jobs.wakeups import SLOW_POLL, Wakeups
from dicom_node.jobs.worker import Worker
from dicom_node.storage.folder_store import FolderStore
from dicom_node.system.process_identity import machine
from tests.support.common import wait_until

NONCE = "00112233445566aa"


@pytest.fixture
def node(database: Database, tmp_path: Path) -> NodeContext:
    settings = Settings(node=NodeSection(data_dir=tmp_path))
    return NodeContext(settings=settings, database=database, store=FolderStore(tmp_path / "instances"))


def _enqueue(node: NodeContext, key: str, *, max_attempts: int = 3) -> None:
    with node.database.write() as session:
        jobs.enqueue(session, JobKind.DELIVER, key, {}, max_attempts=max_attempts)


def _job(node: NodeContext, key: str) -> Job:
    with node.database.read() as session:
        return session.scalars(select(Job).where(Job.key == key)).one()


def _done(job: ClaimedJob, node: NodeContext) -> None:
    with node.database.write() as session:
        jobs.complete(session, job)


def _refuse(job: ClaimedJob, node: NodeContext) -> None:
    raise DeliveryError("the peer says no", permanent=True)


def _break(job: ClaimedJob, node: NodeContext) -> None:
    raise ZeroDivisionError("a mistake of ours")


@pytest.mark.parametrize(
    ("handler", "attempts", "state", "error"),
    [
        (_done, 3, JobState.DONE, ""),
        (_refuse, 3, JobState.DEAD, "the peer says no"),
        (_break, 1, JobState.DEAD, "ZeroDivisionError: a mistake of ours"),
    ],
)
def test_a_job_ends_as_its_handler_does(
    node: NodeContext, handler: Callable[[ClaimedJob, NodeContext], None], attempts: int, state: JobState, error: str
) -> None:
    _enqueue(node, "a", max_attempts=attempts)
    worker = Worker(node, {JobKind.DELIVER: handler})
    worker.start()
    wait_until(lambda: _job(node, "a").state is state, what=f"the job to be {state}")
    worker.stop()
    assert error in _job(node, "a").last_error


def test_an_unexpected_error_does_not_stop_the_next_job(node: NodeContext) -> None:
    def handler(job: ClaimedJob, context: NodeContext) -> None:
        (_break if job.key == "bad" else _done)(job, context)

    _enqueue(node, "bad")
    _enqueue(node, "good")
    worker = Worker(node, {JobKind.DELIVER: handler})
    worker.start()
    wait_until(lambda: _job(node, "good").state is JobState.DONE, what="the good job")
    worker.stop()
    assert _job(node, "bad").state is JobState.READY
    assert _job(node, "bad").run_at > utc_now()


def test_a_job_that_outlasts_the_grace_goes_back_to_the_queue(node: NodeContext) -> None:
    begun, release = threading.Event(), threading.Event()

    def slow(job: ClaimedJob, context: NodeContext) -> None:
        begun.set()
        release.wait(30)
        _done(job, context)

    _enqueue(node, "slow")
    worker = Worker(node, {JobKind.DELIVER: slow})
    worker.start()
    assert begun.wait(60)
    worker.stop(grace_seconds=0.1)
    job = _job(node, "slow")
    assert job.state is JobState.READY
    assert job.attempts == 0, "being stopped is no failure of the job's"
    release.set()


def test_companions_of_a_job_that_fails_go_back_as_they_were(node: NodeContext) -> None:
    _enqueue(node, "a")
    ended = threading.Event()

    def handler(job: ClaimedJob, node: NodeContext) -> None:
        if job.companions:
            _break(job, node)
        _done(job, node)
        ended.set()

    def take_b(session: Session, job: ClaimedJob) -> ClaimedJob:
        # Made in the claim of the other one, so that no other lane can take it first.
        is_new = job.key == "a" and jobs.enqueue(session, JobKind.DELIVER, "b", {})
        return jobs.claim_companions(session, job, ["b"]) if is_new else job

    worker = Worker(node, {JobKind.DELIVER: handler}, companions={JobKind.DELIVER: take_b})
    worker.start()
    assert ended.wait(60)
    worker.stop()
    assert _job(node, "b").state is JobState.DONE
    assert (_job(node, "b").attempts, _job(node, "b").last_error) == (1, "")
    assert (_job(node, "a").state, _job(node, "a").attempts) == (JobState.READY, 1)


def test_jobs_of_a_dead_process_are_taken_back_at_once(node: NodeContext) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    elsewhere = f"0123456789ab/{gone.pid}/{NONCE}/deliver-0"  # the same number on another machine says nothing
    reused = f"{machine()}/{os.getpid()}/{NONCE}/deliver-0"  # an earlier life of this very process id
    owners = {
        "dead": f"{machine()}/{gone.pid}/{NONCE}/deliver-0",
        "reused": reused,
        "alive": f"{machine()}/{os.getppid()}/{NONCE}/deliver-0",
        "elsewhere": elsewhere,
    }
    for key, owner in owners.items():
        _enqueue(node, key)
        with node.database.write() as session:
            assert jobs.claim(session, kinds=[JobKind.DELIVER], owner=owner)
    worker = Worker(node, {JobKind.DELIVER: _done})
    worker.start()
    wait_until(lambda: _job(node, "dead").state is JobState.DONE, what="the dead worker's job")
    wait_until(lambda: _job(node, "reused").state is JobState.DONE, what="the job of the earlier life")
    worker.stop()
    assert _job(node, "alive").state is _job(node, "elsewhere").state is JobState.RUNNING


@pytest.fixture
def shared(database: Database, tmp_path: Path) -> Callable[[], NodeContext]:
    """Make nodes on one index, each as a machine of its own has it."""

    def make() -> NodeContext:
        return NodeContext(
            settings=Settings(node=NodeSection(data_dir=tmp_path)),
            database=Database(database.url),
            store=FolderStore(tmp_path / "instances"),
        )

    return make


def test_a_broken_machine_beside_a_healthy_one_kills_no_job(
    shared: Callable[[], NodeContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails each job at once, is therefore always idle, and would win every claim until all attempts are used up."""
    monkeypatch.setattr(jobs, "FIRST_RETRY", dt.timedelta(milliseconds=20))
    healthy, broken = shared(), shared()
    for number in range(12):
        _enqueue(healthy, f"study {number}", max_attempts=2)

    def fail(job: ClaimedJob, node: NodeContext) -> None:
        raise FileNotFoundError("No such file or directory")

    bad, good = Worker(broken, {JobKind.DELIVER: fail}), Worker(healthy, {JobKind.DELIVER: _done})
    bad.start()
    paused = LaneState.PAUSED
    wait_until(lambda: paused in {lane.state for lane in _lanes(broken)}, seconds=60, what="the broken lane to pause")
    good.start()
    keys = [f"study {number}" for number in range(12)]
    wait_until(lambda: all(_job(healthy, key).state is JobState.DONE for key in keys), seconds=60, what="all jobs")
    bad.stop()
    good.stop()
    assert _lanes(healthy) == [], "a worker that stopped is not listed"


def _lanes(node: NodeContext) -> list[WorkerLane]:
    with node.database.read() as session:
        return list(session.scalars(select(WorkerLane)))


def test_a_lane_survives_whatever_its_index_raises(node: NodeContext) -> None:
    worker = Worker(node, {JobKind.DELIVER: _done})
    hidden = {"table": False}
    broken = threading.Event()

    @event.listens_for(node.database.engine, "before_cursor_execute")
    def _break_job_statements(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if hidden["table"] and "job" in statement:
            broken.set()
            raise RuntimeError("a defect below the queue")

    worker.start()
    hidden["table"] = True
    assert broken.wait(60), "an idle lane asks for jobs every few seconds"
    hidden["table"] = False
    _enqueue(node, "after")
    wait_until(lambda: _job(node, "after").state is JobState.DONE, seconds=30, what="the job after the trouble")
    assert worker.is_moving()
    worker.stop()


@pytest.mark.parametrize("kind", [JobKind.ANALYSE, JobKind.DELIVER])
def test_due_work_that_no_lane_takes_is_told(database: Database, kind: JobKind) -> None:
    now = dt.datetime(2026, 3, 1, 22, tzinfo=dt.UTC)
    database.clock = lambda: now
    with database.write() as session:
        jobs.enqueue(session, kind, "waits", {}, run_at=now - backlog.UNCLAIMED)
        (waiting,) = backlog.find_unclaimed_work(session)
        assert (waiting.kind, waiting.due_since) == (kind, now - backlog.UNCLAIMED)
        assert "no worker reports" in waiting.sentence()
        lane = {"worker": "w", "lane": str(kind), "kind": kind, "host": "ward", "since": now, "seen_at": now}
        session.add(WorkerLane(**lane, state=LaneState.PAUSED, reason="the store is not mounted"))
        session.flush()
        assert "ward is paused: the store is not mounted" in backlog.find_unclaimed_work(session)[0].sentence()
        session.execute(update(WorkerLane).values(state=LaneState.WORKING))
        assert backlog.find_unclaimed_work(session) == []
        session.execute(update(WorkerLane).values(seen_at=now - backlog.LANE_IS_GONE))
        assert "no worker reports" in backlog.find_unclaimed_work(session)[0].reason


def test_workers_that_ended_without_stopping_are_told_of_though_nothing_waits(database: Database) -> None:
    now = dt.datetime(2026, 3, 1, 22, tzinfo=dt.UTC)
    database.clock = lambda: now
    killed = now - backlog.LANE_IS_GONE - dt.timedelta(seconds=1)
    with database.write() as session:
        assert backlog.find_lost_workers(session) is None, "no worker was ever here, or each was stopped"
        lane = {"lane": "analyse", "kind": JobKind.ANALYSE, "since": killed}
        session.add(WorkerLane(**lane, worker="killed", seen_at=killed))
        session.flush()
        assert backlog.find_lost_workers(session) == killed
        assert "last reported at 2026-03-01 21:57 UTC did not stop in order" in backlog.worker_troubles(session)[0]
        session.add(WorkerLane(**lane, worker="started again", seen_at=now))
        session.flush()
        assert backlog.worker_troubles(session) == []


def test_a_worker_that_stops_takes_the_lanes_of_killed_ones_with_it(node: NodeContext) -> None:
    reporter = LaneReporter(node, "stops")
    reporter.add(JobKind.ANALYSE)
    reporter.report()
    lane = {"lane": "analyse", "kind": JobKind.ANALYSE}
    long_ago = dt.datetime.now(dt.UTC) - 2 * backlog.LANE_IS_GONE
    with node.database.write() as session:
        session.add(WorkerLane(**lane, worker="killed", since=long_ago, seen_at=long_ago))
        session.add(WorkerLane(**lane, worker="works", since=long_ago, seen_at=dt.datetime.now(dt.UTC)))
    reporter.withdraw()
    with node.database.read() as session:
        assert session.scalars(select(WorkerLane.worker)).all() == ["works"]


def test_an_idle_lane_is_woken_by_a_job_of_another_connection(
    shared: Callable[[], NodeContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow poll is put out of reach: only the notification can start the job."""
    monkeypatch.setattr("dicom_node.jobs.worker.SLOW_POLL", dt.timedelta(hours=1))
    node, other = shared(), shared()
    worker = Worker(node, {JobKind.DELIVER: _done})
    worker.start()
    wait_until(lambda: worker._reporter._lanes[0].state is LaneState.IDLE, what="the lane to wait")
    _enqueue(other, "now")
    wait_until(lambda: _job(other, "now").state is JobState.DONE, seconds=30, what="the job to be done")
    worker.stop()


def test_a_commit_wakes_only_the_lanes_that_have_work(shared: Callable[[], NodeContext]) -> None:
    node, other = shared(), shared()
    wakeups = Wakeups(node)
    wakeups.start()

    def enqueue(kind: JobKind, key: str, run_at: dt.datetime | None = None) -> None:
        with other.database.write() as session:
            jobs.enqueue(session, kind, key, {}, run_at=run_at)

    enqueue(JobKind.REPORT, "first")
    wait_until(lambda: wakeups.generation([JobKind.REPORT]) > 0, what="the watch to begin")
    before = {kind: wakeups.generation([kind]) for kind in JobKind}
    enqueue(JobKind.DELIVER, "second")
    wait_until(lambda: wakeups.generation([JobKind.DELIVER]) > before[JobKind.DELIVER], what="the lane to be woken")
    enqueue(JobKind.FETCH, "soon", run_at=utc_now() + SLOW_POLL / 2)
    wait_until(lambda: wakeups.generation([JobKind.FETCH]) > before[JobKind.FETCH], what="one that is due soon")
    for idle in (JobKind.ANALYSE, JobKind.SHADOW, JobKind.BACKFILL):
        assert wakeups.generation([idle]) == before[idle]
    node.stop.set()
    wakeups.join()


def _node_by_load(shared: Callable[[], NodeContext]) -> tuple[NodeContext, NodeContext]:
    """A node that analyses side by side by the load, and another on the same index that puts in what waits."""
    other = shared()
    by_load = other.settings.model_copy(update={"model": ModelSection(studies_at_once=0)})
    return dataclasses.replace(other, settings=by_load, stop=threading.Event()), other


class _HeldAnalyses:
    """Analyses that have begun, by the key of their job, and end only when they may go on."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go_on = threading.Event()

    def analyse(self, job: ClaimedJob, context: NodeContext) -> None:
        self.begun.append(job.key)
        assert self.go_on.wait(120)
        _done(job, context)


def test_studies_are_analysed_side_by_side_only_while_others_wait(shared: Callable[[], NodeContext]) -> None:
    node, other = _node_by_load(shared)
    held = _HeldAnalyses()

    def enqueue(*keys: str) -> None:
        with other.database.write() as session:
            for key in keys:
                jobs.enqueue(session, JobKind.ANALYSE, key, {})

    worker = Worker(node, {JobKind.ANALYSE: held.analyse})
    worker.start()
    enqueue("first")
    wait_until(lambda: held.begun == ["first"], what="the first study")
    enqueue("second")
    with node.database.read() as session:
        assert backlog.count_due(session, JobKind.ANALYSE, most=5) == 1
    enqueue("third")
    wait_until(lambda: len(held.begun) == 2, what="a study beside the first, because another one waits")
    with node.database.read() as session:
        assert backlog.count_due(session, JobKind.ANALYSE, most=5) == 1, "and that one waits for its turn"
        assert backlog.count_due(session, JobKind.ANALYSE, most=0) == 0
    enqueue(*(f"more {number}" for number in range(4)))
    wait_until(lambda: len(held.begun) == STUDIES_BY_LOAD, what="as many as the load allows")
    held.go_on.set()
    wait_until(lambda: len(held.begun) == 7, what="all to be begun")
    worker.stop()
    assert len(set(held.begun)) == 7


def test_two_films_of_one_patient_are_analysed_one_after_the_other(shared: Callable[[], NodeContext]) -> None:
    node, other = _node_by_load(shared)
    held = _HeldAnalyses()

    with other.database.write() as session:
        for uid, patient in (("1", "P"), ("2", "P"), ("3", "Q"), ("4", "Q"), ("5", "Q")):
            now = utc_now()
            study = Study(study_instance_uid=uid, patient_id=patient, first_instance_at=now, last_instance_at=now)
            session.add(study)
            jobs.enqueue(session, JobKind.ANALYSE, uid, {"study_instance_uid": uid})
    worker = Worker(node, {JobKind.ANALYSE: held.analyse})
    worker.start()
    wait_until(lambda: len(held.begun) == 2, what="the first film of each patient")
    assert set(held.begun) == {"1", "3"}
    with node.database.read() as session:
        assert backlog.count_due(session, JobKind.ANALYSE, most=9) == 0, "the others wait for them"
    held.go_on.set()
    wait_until(lambda: len(held.begun) == 5, what="all films")
    worker.stop()
    assert sorted(held.begun) == ["1", "2", "3", "4", "5"]
