"""The worker edge: every job ends in the queue's own words, whatever its handler does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.config import NodeSection, Settings
from dicom_node.context import NodeContext, utc_now
from dicom_node.errors import DeliveryError
from dicom_node.index import schema
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Job, JobKind, JobState
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.jobs.worker import Worker
from dicom_node.storage.instance_store import InstanceStore
from tests.support.common import wait_until


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeContext]:
    database = Database(f"sqlite:///{tmp_path}/index.db")
    schema.upgrade(database)
    settings = Settings(node=NodeSection(data_dir=tmp_path))
    yield NodeContext(settings=settings, database=database, store=InstanceStore(tmp_path / "instances"))
    database.close()


def _enqueue(node: NodeContext, key: str, *, max_attempts: int = 3) -> None:
    with node.database.write() as session:
        jobs.enqueue(session, JobKind.DELIVER, key, {}, now=node.clock(), max_attempts=max_attempts)


def _job(node: NodeContext, key: str) -> Job:
    with node.database.read() as session:
        return session.scalars(select(Job).where(Job.key == key)).one()


def _done(job: ClaimedJob, node: NodeContext) -> None:
    with node.database.write() as session:
        jobs.complete(session, job, now=node.clock())


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
    wait_until(lambda: _job(node, "a").state is state, seconds=20, what=f"the job to be {state}")
    worker.stop()
    assert error in _job(node, "a").last_error


def test_an_unexpected_error_does_not_stop_the_next_job(node: NodeContext) -> None:
    def handler(job: ClaimedJob, context: NodeContext) -> None:
        (_break if job.key == "bad" else _done)(job, context)

    _enqueue(node, "bad")
    _enqueue(node, "good")
    worker = Worker(node, {JobKind.DELIVER: handler})
    worker.start()
    wait_until(lambda: _job(node, "good").state is JobState.DONE, seconds=20, what="the good job")
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
    assert begun.wait(20)
    worker.stop(grace_seconds=0.1)
    job = _job(node, "slow")
    assert job.state is JobState.READY
    assert job.attempts == 0, "being stopped is no failure of the job's"
    release.set()


def test_jobs_of_a_dead_process_are_taken_back_at_once(node: NodeContext) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    owners = {"dead": f"{socket.gethostname()}:{gone.pid}:x", "alive": f"{socket.gethostname()}:{os.getppid()}:x"}
    for key, owner in owners.items():
        _enqueue(node, key)
        with node.database.write() as session:
            assert jobs.claim(session, kinds=[JobKind.DELIVER], owner=owner, now=node.clock())
    worker = Worker(node, {JobKind.DELIVER: _done})
    worker.start()
    wait_until(lambda: _job(node, "dead").state is JobState.DONE, seconds=20, what="the dead worker's job")
    worker.stop()
    assert _job(node, "alive").state is JobState.RUNNING
