"""The job queue on both databases: every transition, and a state machine against a model of what must hold."""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import delete, select

from dicom_node.index.database import Database
from dicom_node.index.tables.core import Job, JobKind, JobState
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import ClaimedJob, LeaseLostError

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
ALL = tuple(JobKind)


def add(database: Database, key: str, **changes: object) -> bool:
    values: dict[str, object] = {"kind": JobKind.ANALYSE, "payload": {"n": 1}, "now": NOW}
    values |= changes
    with database.write() as session:
        kind = values.pop("kind")
        assert isinstance(kind, JobKind)
        return jobs.enqueue(session, kind, key, **values)  # type: ignore[arg-type]


def take(database: Database, owner: str = "w1", now: dt.datetime = NOW, kinds: tuple[JobKind, ...] = ALL) -> ClaimedJob:
    with database.write() as session:
        job = jobs.claim(session, kinds=kinds, owner=owner, now=now)
    assert job is not None
    return job


def nothing_due(database: Database, now: dt.datetime = NOW, kinds: tuple[JobKind, ...] = ALL) -> bool:
    with database.write() as session:
        return jobs.claim(session, kinds=kinds, owner="idle", now=now) is None


def row(database: Database, key: str) -> Job:
    with database.read() as session:
        return session.scalars(select(Job).where(Job.key == key)).one()


def test_the_same_key_twice_is_one_job(database: Database) -> None:
    assert add(database, "a", payload={"n": 1})
    assert not add(database, "a", payload={"n": 2})
    assert take(database).payload == {"n": 1}
    assert nothing_due(database)


def test_a_job_and_its_effect_commit_together(database: Database) -> None:
    def effect_that_fails() -> None:
        with database.write() as session:
            jobs.enqueue(session, JobKind.ANALYSE, "lost", {}, now=NOW)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        effect_that_fails()
    assert nothing_due(database)


def test_claim_by_kind_time_priority_and_age(database: Database) -> None:
    add(database, "later", run_at=NOW + 5 * SECOND)
    add(database, "bulk", priority=jobs.Priority.BULK, run_at=NOW - 9 * SECOND)
    add(database, "second", run_at=NOW - 1 * SECOND)
    add(database, "first", run_at=NOW - 2 * SECOND)
    add(database, "other", kind=JobKind.FETCH, priority=1)
    only = (JobKind.ANALYSE,)
    assert [take(database, kinds=only).key for _ in range(3)] == ["first", "second", "bulk"]
    assert nothing_due(database, kinds=only)
    assert take(database, now=NOW + 5 * SECOND, kinds=only).key == "later"
    assert take(database).key == "other"


def test_what_has_waited_too_long_goes_before_every_priority(database: Database) -> None:
    add(database, "urgent", priority=1)
    add(database, "starving", priority=900, run_at=NOW - jobs.STARVATION)
    assert take(database).key == "starving"


def test_complete_ends_it(database: Database) -> None:
    add(database, "a")
    job = take(database)
    with database.write() as session:
        jobs.complete(session, job, now=NOW)
    done = row(database, "a")
    assert (done.state, done.finished_at, done.lease_owner) == (JobState.DONE, NOW, "")
    assert nothing_due(database, NOW + dt.timedelta(days=9))
    with pytest.raises(LeaseLostError), database.write() as session:
        jobs.complete(session, job, now=NOW)


def test_failures_back_off_and_end_dead(database: Database) -> None:
    add(database, "a", max_attempts=3)
    now = NOW
    for attempt in (1, 2, 3):
        job = take(database, now=now)
        assert job.attempts == attempt
        with database.write() as session:
            state = jobs.fail(session, job, f"error {attempt}", now=now)
        left = row(database, "a")
        assert left.last_error == f"error {attempt}"
        if attempt < 3:
            assert state is left.state is JobState.READY
            base = jobs.FIRST_RETRY * 2 ** (attempt - 1)
            assert 0.8 * base <= left.run_at - now <= 1.2 * base
            assert nothing_due(database, left.run_at - 0.001 * SECOND)
            now = left.run_at
    assert state is row(database, "a").state is JobState.DEAD
    assert nothing_due(database, NOW + dt.timedelta(days=9))


def test_back_off_has_a_ceiling() -> None:
    assert max(jobs.back_off(attempts) for attempts in range(1, 500)) <= 1.2 * jobs.LONGEST_RETRY


def test_a_permanent_failure_is_dead_at_once_and_an_administrator_revives_it(database: Database) -> None:
    add(database, "a")
    add(database, "b")
    for _ in range(2):
        job = take(database)
        with database.write() as session:
            assert jobs.fail(session, job, "no such study", now=NOW, permanent=True) is JobState.DEAD
    with database.write() as session:
        assert jobs.retry_dead(session, now=NOW, keys=["a"]) == ["a"]
    revived = take(database)
    assert (revived.key, revived.attempts) == ("a", 1)
    assert nothing_due(database)
    with database.write() as session:
        assert jobs.retry_dead(session, now=NOW) == ["b"]


def test_postpone_counts_no_attempt(database: Database) -> None:
    add(database, "a", max_attempts=1)
    for minute in range(3):
        now = NOW + dt.timedelta(minutes=minute)
        job = take(database, now=now)
        assert job.attempts == 1
        with database.write() as session:
            jobs.postpone(session, job, now=now, until=now + dt.timedelta(minutes=1))
        assert nothing_due(database, now)


def test_a_heartbeat_keeps_the_job_and_a_lost_lease_is_noticed(database: Database) -> None:
    add(database, "a")
    job = take(database, "w1")
    with database.write() as session:
        jobs.heartbeat(session, job, now=NOW + 30 * SECOND)
    with database.write() as session:
        assert jobs.rescue(session, now=NOW + 61 * SECOND) == []
    with database.write() as session:
        assert jobs.rescue(session, now=NOW + 91 * SECOND) == ["a"]
    again = take(database, "w2", now=NOW + 91 * SECOND)
    assert again.attempts == 2
    for late in (jobs.heartbeat, jobs.complete):
        with pytest.raises(LeaseLostError), database.write() as session:
            late(session, job, now=NOW)
    with pytest.raises(LeaseLostError), database.write() as session:
        jobs.fail(session, job, "x", now=NOW)
    with database.write() as session:
        jobs.complete(session, again, now=NOW)


def test_what_kills_its_worker_every_time_goes_dead(database: Database) -> None:
    add(database, "killer", max_attempts=2)
    now = NOW
    for _ in range(2):
        take(database, now=now)
        now += 2 * jobs.LEASE
        with database.write() as session:
            assert jobs.rescue(session, now=now) == ["killer"]
    assert row(database, "killer").state is JobState.DEAD


def test_release_gives_back_only_what_the_gone_worker_held(database: Database) -> None:
    add(database, "a")
    add(database, "b")
    take(database, "host_1:7:analyse")
    take(database, "hostX1:7:analyse")  # "_" must not match any character
    with database.write() as session:
        assert jobs.release(session, owner_prefix="host_1:", now=NOW) == 1
    assert take(database).key == "a"


def test_what_kills_the_whole_node_every_time_goes_dead(database: Database) -> None:
    """The node starts again, finds the job of its dead predecessor, and must not die of it for ever."""
    add(database, "killer", max_attempts=2)
    for _ in range(2):
        take(database, "host:7:analyse")
        with database.write() as session:
            assert jobs.release(session, owner_prefix="host:", now=NOW) == 1
    assert row(database, "killer").state is JobState.DEAD


def test_forgetting_leaves_everything_but_old_done_jobs(database: Database) -> None:
    for key in ("old", "new", "open"):
        add(database, key)
    for when in (NOW, NOW + 10 * SECOND):
        job = take(database)
        with database.write() as session:
            jobs.complete(session, job, now=when)
    with database.write() as session:
        assert jobs.forget_done(session, before=NOW + 5 * SECOND) == 1
        assert jobs.depth(session) == {(JobKind.ANALYSE, JobState.DONE): 1, (JobKind.ANALYSE, JobState.READY): 1}


def test_claimers_in_parallel_never_get_the_same_job(database: Database) -> None:
    """Six threads, each with its own connection, empty one queue; every job is got exactly once."""
    total = 60
    with database.write() as session:
        for number in range(total):
            jobs.enqueue(session, JobKind.ANALYSE, f"job {number}", {}, now=NOW)
    got: Counter[str] = Counter()
    lock = threading.Lock()
    start = threading.Barrier(6)

    def work(owner: str) -> None:
        start.wait()
        while True:
            with database.write() as session:
                job = jobs.claim(session, kinds=ALL, owner=owner, now=NOW)
            if job is None:
                # SKIP LOCKED may pass over a job that another claimer is just taking; only the count ends the work.
                if got.total() == total:
                    return
                continue
            with lock:
                got[job.key] += 1

    threads = [threading.Thread(target=work, args=(f"w{n}",), daemon=True) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == total
    assert set(got.values()) == {1}


class QueueMachine(RuleBasedStateMachine):
    """Random work of two workers with lost leases and a moving clock, against what must hold of every job.

    held: what each worker believes to hold; it may be wrong after a rescue. ended: how often each job reached DONE by a
    `complete` that was accepted.
    """

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.held: dict[str, ClaimedJob] = {}
        self.done: Counter[str] = Counter()
        self.keys: set[str] = set()
        with self.database.write() as session:
            session.execute(delete(Job))

    @rule(key=st.sampled_from("abc"), attempts=st.integers(1, 3))
    def enqueue(self, key: str, attempts: int) -> None:
        with self.database.write() as session:
            made = jobs.enqueue(session, JobKind.ANALYSE, key, {}, now=self.now, max_attempts=attempts)
        assert made is (key not in self.keys)
        self.keys.add(key)

    @rule(seconds=st.sampled_from([1, 30, 61, 4000]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @rule(owner=st.sampled_from(["w1", "w2"]))
    def claim(self, owner: str) -> None:
        if owner in self.held:
            return
        with self.database.write() as session:
            job = jobs.claim(session, kinds=ALL, owner=owner, now=self.now)
        if job is None:
            return
        assert job.attempts <= job.max_attempts
        assert not self.done[job.key]
        self.held[owner] = job

    @contextmanager
    def _still_mine(self, owner: str) -> Iterator[ClaimedJob | None]:
        """The worker's job, with the row's own word on whether it is still the worker's."""
        job = self.held.pop(owner, None)
        if job is None:
            yield None
            return
        current = row(self.database, job.key)
        mine = current.state is JobState.RUNNING and current.lease_owner == owner
        try:
            yield job
        except LeaseLostError:
            assert not mine
        else:
            assert mine

    @rule(owner=st.sampled_from(["w1", "w2"]))
    def complete(self, owner: str) -> None:
        with self._still_mine(owner) as job:
            if job is not None:
                with self.database.write() as session:
                    jobs.complete(session, job, now=self.now)
                self.done[job.key] += 1

    @rule(owner=st.sampled_from(["w1", "w2"]), permanent=st.booleans())
    def fail(self, owner: str, permanent: bool) -> None:
        with self._still_mine(owner) as job:
            if job is not None:
                with self.database.write() as session:
                    jobs.fail(session, job, "error", now=self.now, permanent=permanent)

    @rule(owner=st.sampled_from(["w1", "w2"]))
    def postpone(self, owner: str) -> None:
        with self._still_mine(owner) as job:
            if job is not None:
                with self.database.write() as session:
                    jobs.postpone(session, job, now=self.now, until=self.now + SECOND)

    @rule()
    def rescue(self) -> None:
        with self.database.write() as session:
            jobs.rescue(session, now=self.now)

    @rule(owner=st.sampled_from(["w1", "w2"]))
    def release(self, owner: str) -> None:
        with self.database.write() as session:
            jobs.release(session, owner_prefix=owner, now=self.now)

    @rule()
    def revive(self) -> None:
        with self.database.write() as session:
            jobs.retry_dead(session, now=self.now)

    @invariant()
    def every_job_is_in_one_consistent_state(self) -> None:
        with self.database.read() as session:
            rows = list(session.scalars(select(Job)))
        assert {job.key for job in rows} == self.keys
        for job in rows:
            assert (job.state is JobState.RUNNING) is bool(job.lease_owner)
            assert (job.state is JobState.RUNNING) is (job.lease_until is not None)
            assert (job.state in (JobState.DONE, JobState.DEAD)) is (job.finished_at is not None)
            assert (job.state is JobState.DONE) is (self.done[job.key] == 1), "done exactly once, and it stays so"
            assert self.done[job.key] <= 1


def test_state_machine(database: Database) -> None:
    machine = type("Machine", (QueueMachine,), {"database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
