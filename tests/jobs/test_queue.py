"""The job queue on both databases: every transition, and a state machine against a model of what must hold."""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.index.database import Database
from dicom_node.index.tables.core import Job, JobKind, JobState
from dicom_node.jobs import backlog
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.due import Priority
from dicom_node.jobs.queue import ClaimedJob, LeaseLostError
from dicom_node.jobs.upkeep import forget_done

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
ALL = tuple(JobKind)


@pytest.fixture(autouse=True)
def _time_stands_still(database: Database) -> None:
    """The index's own time, which a test moves by `at`."""
    at(database, NOW)


def at(database: Database, moment: dt.datetime) -> None:
    database.clock = lambda: moment


def add(database: Database, key: str, **changes: object) -> bool:
    values: dict[str, object] = {"kind": JobKind.ANALYSE, "payload": {"n": 1}}
    values |= changes
    with database.write() as session:
        kind = values.pop("kind")
        assert isinstance(kind, JobKind)
        return jobs.enqueue(session, kind, key, **values)  # type: ignore[arg-type]


def take(database: Database, owner: str = "w1", now: dt.datetime = NOW, kinds: tuple[JobKind, ...] = ALL) -> ClaimedJob:
    at(database, now)
    with database.write() as session:
        job = jobs.claim(session, kinds=kinds, owner=owner)
    assert job is not None
    return job


def nothing_due(database: Database, now: dt.datetime = NOW, kinds: tuple[JobKind, ...] = ALL) -> bool:
    at(database, now)
    with database.write() as session:
        return jobs.claim(session, kinds=kinds, owner="idle") is None


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
            jobs.enqueue(session, JobKind.ANALYSE, "lost", {})
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        effect_that_fails()
    assert nothing_due(database)


def test_claim_by_kind_time_priority_and_age(database: Database) -> None:
    add(database, "later", run_at=NOW + 5 * SECOND)
    add(database, "bulk", priority=Priority.BULK, run_at=NOW - 9 * SECOND)
    add(database, "second", run_at=NOW - 1 * SECOND)
    add(database, "first", run_at=NOW - 2 * SECOND)
    add(database, "other", kind=JobKind.FETCH, run_at=NOW - 3 * SECOND)
    only = (JobKind.ANALYSE,)
    assert [take(database, kinds=only).key for _ in range(3)] == ["first", "second", "bulk"]
    assert nothing_due(database, kinds=only)
    assert take(database, now=NOW + 5 * SECOND, kinds=only).key == "later"
    assert take(database).key == "other"


def test_bulk_work_never_goes_before_what_came_tonight_however_long_it_has_waited(database: Database) -> None:
    for number in range(20):
        add(database, f"bulk {number}", priority=Priority.BULK, run_at=NOW - dt.timedelta(days=9))
    add(database, "tonight", run_at=NOW - 1 * SECOND)
    assert take(database).key == "tonight"
    assert take(database).key == "bulk 0"


@pytest.mark.parametrize("change", ["complete", "heartbeat", "fail", "postpone"])
def test_a_late_change_of_a_lost_lease_is_refused_although_its_owner_has_the_job_again(
    database: Database, change: str
) -> None:
    add(database, "a")
    first = take(database, "worker:7:analyse-0")
    with database.write() as session:
        at(database, NOW + 61 * SECOND)
        assert jobs.rescue(session) == ["a"]
    second = take(database, "worker:7:analyse-0", now=NOW + 61 * SECOND)
    assert (first.attempts, second.attempts, second.lease_owner) == (1, 2, first.lease_owner)
    late: Callable[[Session], object] = {
        "complete": lambda session: jobs.complete(session, first),
        "heartbeat": lambda session: jobs.heartbeat(session, first),
        "fail": lambda session: jobs.fail(session, first, "late"),
        "postpone": lambda session: jobs.postpone(session, first),
    }[change]
    before = row(database, "a")
    with pytest.raises(LeaseLostError), database.write() as session:
        late(session)
    after = row(database, "a")
    assert (after.state, after.attempts, after.lease_until) == (before.state, before.attempts, before.lease_until)
    with database.write() as session:
        jobs.complete(session, second)
    assert row(database, "a").state is JobState.DONE


def test_times_are_the_databases_whatever_this_machines_clock_says(database: Database) -> None:
    """No function of the queue takes a time, so a leader that is ten minutes ahead judges leases as all others do."""
    if database.is_sqlite:
        pytest.skip("SQLite lives on one machine and has that machine's clock")
    database.clock = None
    add(database, "a")
    with database.write() as session:
        assert jobs.claim(session, kinds=ALL, owner="w1") is not None
    server = "SELECT extract(epoch from lease_until - clock_timestamp()), attempts FROM job"
    with database.write() as session:
        left, _ = session.connection().exec_driver_sql(server).one()
        assert jobs.LEASE.total_seconds() - 30 < left <= jobs.LEASE.total_seconds()
        assert jobs.rescue(session) == []


def test_refunded_attempts_do_not_count_and_revive_what_they_had_killed(database: Database) -> None:
    add(database, "last", max_attempts=1)
    add(database, "first", max_attempts=3)
    for _ in range(2):
        job = take(database)
        with database.write() as session:
            jobs.fail(session, job, "no such file")
    ids = [row(database, key).id for key in ("last", "first")]
    assert row(database, "last").state is JobState.DEAD
    with database.write() as session:
        jobs.refund_attempts(session, ids)
    assert [(row(database, key).state, row(database, key).attempts) for key in ("last", "first")] == [
        (JobState.READY, 0),
        (JobState.READY, 0),
    ]


def test_complete_ends_it(database: Database) -> None:
    add(database, "a")
    job = take(database)
    with database.write() as session:
        jobs.complete(session, job)
    done = row(database, "a")
    assert (done.state, done.finished_at, done.lease_owner) == (JobState.DONE, NOW, "")
    assert nothing_due(database, NOW + dt.timedelta(days=9))
    with pytest.raises(LeaseLostError), database.write() as session:
        jobs.complete(session, job)


def test_failures_back_off_and_end_dead(database: Database) -> None:
    add(database, "a", max_attempts=3)
    now = NOW
    for attempt in (1, 2, 3):
        job = take(database, now=now)
        assert job.attempts == attempt
        with database.write() as session:
            state = jobs.fail(session, job, f"error {attempt}")
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
            assert jobs.fail(session, job, "no such study", permanent=True) is JobState.DEAD
    with database.write() as session:
        assert jobs.retry_dead(session, keys=["a"]) == ["a"]
    revived = take(database)
    assert (revived.key, revived.attempts) == ("a", 1)
    assert nothing_due(database)
    with database.write() as session:
        assert jobs.retry_dead(session) == ["b"]


def test_postpone_counts_no_attempt(database: Database) -> None:
    add(database, "a", max_attempts=1)
    for minute in range(3):
        now = NOW + dt.timedelta(minutes=minute)
        job = take(database, now=now)
        assert job.attempts == 1
        with database.write() as session:
            jobs.postpone(session, job, until=now + dt.timedelta(minutes=1))
        assert nothing_due(database, now)


def test_a_heartbeat_keeps_the_job_and_a_lost_lease_is_noticed(database: Database) -> None:
    add(database, "a")
    job = take(database, "w1")
    at(database, NOW + 30 * SECOND)
    with database.write() as session:
        jobs.heartbeat(session, job)
    for seconds, lost in ((61, []), (91, ["a"])):
        at(database, NOW + seconds * SECOND)
        with database.write() as session:
            assert jobs.rescue(session) == lost
    again = take(database, "w2", now=NOW + 91 * SECOND)
    assert again.attempts == 2
    for late in (jobs.heartbeat, jobs.complete):
        with pytest.raises(LeaseLostError), database.write() as session:
            late(session, job)
    with pytest.raises(LeaseLostError), database.write() as session:
        jobs.fail(session, job, "x")
    with database.write() as session:
        jobs.complete(session, again)


def test_what_kills_its_worker_every_time_goes_dead(database: Database) -> None:
    add(database, "killer", max_attempts=2)
    now = NOW
    for _ in range(2):
        take(database, now=now)
        now += 2 * jobs.LEASE
        at(database, now)
        with database.write() as session:
            assert jobs.rescue(session) == ["killer"]
    assert row(database, "killer").state is JobState.DEAD


def test_release_gives_back_only_what_the_gone_worker_held(database: Database) -> None:
    add(database, "a")
    add(database, "b")
    take(database, "host_1:7:analyse")
    take(database, "hostX1:7:analyse")  # "_" must not match any character
    with database.write() as session:
        assert jobs.release(session, owner_prefix="host_1:") == 1
    assert take(database).key == "a"


def test_what_was_in_hand_when_the_plug_was_pulled_goes_on_first_once(database: Database) -> None:
    """A later film of the same patient rests on it. Lost again, it may be what kills the worker, and waits behind."""
    add(database, "prior", run_at=NOW - 2 * SECOND)
    add(database, "current", run_at=NOW - 1 * SECOND)
    for after in ("prior", "current"):
        assert take(database, "host:7:analyse").key == "prior"
        with database.write() as session:
            assert jobs.release(session, owner_prefix="host:") == 1
        found = take(database, "host:8:analyse")
        assert found.key == after
        with database.write() as session:
            jobs.postpone(session, found)


def test_what_kills_the_whole_node_every_time_goes_dead(database: Database) -> None:
    """The node starts again, finds the job of its dead predecessor, and must not die of it for ever."""
    add(database, "killer", max_attempts=2)
    for _ in range(2):
        take(database, "host:7:analyse")
        with database.write() as session:
            assert jobs.release(session, owner_prefix="host:") == 1
    assert row(database, "killer").state is JobState.DEAD


def test_forgetting_leaves_everything_but_old_done_jobs(database: Database) -> None:
    for key in ("old", "new", "open"):
        add(database, key)
    for when in (NOW, NOW + 10 * SECOND):
        job = take(database, now=when)
        with database.write() as session:
            jobs.complete(session, job)
    with database.write() as session:
        assert forget_done(session, age=5 * SECOND) == 1
        assert backlog.depth(session) == {(JobKind.ANALYSE, JobState.DONE): 1, (JobKind.ANALYSE, JobState.READY): 1}


def test_claimers_in_parallel_never_get_the_same_job(database: Database) -> None:
    """Six threads, each with its own connection, empty one queue; every job is got exactly once."""
    total = 60
    with database.write() as session:
        for number in range(total):
            jobs.enqueue(session, JobKind.ANALYSE, f"job {number}", {})
    got: Counter[str] = Counter()
    lock = threading.Lock()
    start = threading.Barrier(6)

    def work(owner: str) -> None:
        start.wait()
        while True:
            with database.write() as session:
                job = jobs.claim(session, kinds=ALL, owner=owner)
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
        self.database.clock = lambda: self.now
        self.held: dict[str, ClaimedJob] = {}
        self.done: Counter[str] = Counter()
        self.keys: set[str] = set()
        with self.database.write() as session:
            session.execute(delete(Job))

    @rule(key=st.sampled_from("abc"), attempts=st.integers(1, 3))
    def enqueue(self, key: str, attempts: int) -> None:
        with self.database.write() as session:
            made = jobs.enqueue(session, JobKind.ANALYSE, key, {}, max_attempts=attempts)
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
            job = jobs.claim(session, kinds=ALL, owner=owner)
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
                    jobs.complete(session, job)
                self.done[job.key] += 1

    @rule(owner=st.sampled_from(["w1", "w2"]), permanent=st.booleans())
    def fail(self, owner: str, permanent: bool) -> None:
        with self._still_mine(owner) as job:
            if job is not None:
                with self.database.write() as session:
                    jobs.fail(session, job, "error", permanent=permanent)

    @rule(owner=st.sampled_from(["w1", "w2"]))
    def postpone(self, owner: str) -> None:
        with self._still_mine(owner) as job:
            if job is not None:
                with self.database.write() as session:
                    jobs.postpone(session, job, until=self.now + SECOND)

    @rule()
    def rescue(self) -> None:
        with self.database.write() as session:
            jobs.rescue(session)

    @rule(owner=st.sampled_from(["w1", "w2"]))
    def release(self, owner: str) -> None:
        with self.database.write() as session:
            jobs.release(session, owner_prefix=owner)

    @rule()
    def revive(self) -> None:
        with self.database.write() as session:
            jobs.retry_dead(session)

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
