"""Ticks: what they mend, that a clock that is set neither storms nor stalls them, and that one leads on PostgreSQL."""

from __future__ import annotations

import datetime as dt
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import delete, select, text, update

from dicom_node.context import NodeContext
from dicom_node.index.tables.core import (
    AuditEvent,
    CommitmentRequest,
    Delivery,
    DeliveryState,
    Job,
    JobKind,
    JobState,
    Notice,
    Study,
    StudyState,
)
from dicom_node.jobs import queue as jobs
from dicom_node.notifications import raise_notice
from dicom_node.runtime import ticks
from dicom_node.runtime.clock_jumps import mend_after_setback
from dicom_node.runtime.scheduler import Sweeper
from dicom_node.runtime.ticks import Tick
from dicom_node.system.leader_election import Leadership
from tests.support.common import wait_until
from tests.support.delivery_node import Clock, all_jobs, deliveries, make_node, make_result
from tests.support.forked import ForkedProcess
from tests.support.postgres import PostgresServer

TICK_SECONDS = 0.1
PACS = {"name": "pacs", "port": 1}


def test_a_delivery_that_lost_its_job_gets_one_and_a_dead_job_ends_its_delivery(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock, PACS)
    make_result(node)
    with node.database.write() as session:
        first, second = session.scalars(select(Job).order_by(Job.id))
        session.execute(delete(Job).where(Job.id == first.id))
        session.execute(update(Job).where(Job.id == second.id).values(state=JobState.DEAD, finished_at=clock.now))
    ticks.reconcile_deliveries(node)
    assert [row.state for row in deliveries(node)] == [DeliveryState.PENDING, DeliveryState.DEAD]
    assert sorted(job.state for job in all_jobs(node)) == [JobState.DEAD, JobState.READY]
    ticks.reconcile_deliveries(node)
    assert len(all_jobs(node)) == 2


@pytest.mark.usefixtures("each_index")
def test_a_delivery_that_is_just_being_proven_is_not_sent_again(tmp_path: Path) -> None:
    node = make_node(tmp_path, Clock(), PACS)
    make_result(node)
    with node.database.write() as session:
        session.execute(update(Job).values(state=JobState.DONE))  # as if its end had been seen before the delivery's
    with ThreadPoolExecutor(1) as pool:
        with node.database.write() as session:
            for row in session.scalars(select(Delivery)):
                row.state = DeliveryState.CONFIRMED
            session.flush()
            tick = pool.submit(ticks.reconcile_deliveries, node)
            if not node.database.is_sqlite:
                wait_until(lambda: _waits_for_a_lock(node), what="the tick to reach the delivery")
        tick.result()
    assert [row.state for row in deliveries(node)] == [DeliveryState.CONFIRMED] * 2
    assert {job.state for job in all_jobs(node)} == {JobState.DONE}


def _waits_for_a_lock(node: NodeContext) -> bool:
    with node.database.read() as session:
        return bool(session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def test_a_lost_lease_is_rescued_and_old_finished_jobs_are_forgotten(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock, PACS)
    make_result(node)
    with node.database.write() as session:
        job = jobs.claim(session, kinds=[JobKind.DELIVER], owner="gone:1:x")
        other = jobs.claim(session, kinds=[JobKind.DELIVER], owner="done:1:x")
        assert job is not None
        assert other is not None
        jobs.complete(session, other)
    clock.forward(seconds=61)
    ticks.rescue_jobs(node)
    assert [row.state for row in all_jobs(node)] == [JobState.READY, JobState.DONE]
    clock.forward(days=8)
    ticks.forget_old_jobs(node)
    assert [row.state for row in all_jobs(node)] == [JobState.READY]


def test_a_quiet_study_is_completed_by_the_tick(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock, PACS)
    make_result(node)
    clock.forward(seconds=61)
    ticks.complete_studies(node)
    with node.database.read() as session:
        assert session.scalars(select(Study.state)).one() is StudyState.COMPLETE
        assert session.scalars(select(Job).where(Job.kind == JobKind.ANALYSE)).one().state is JobState.READY


def test_a_study_of_a_clock_that_was_ahead_for_a_moment_waits_from_now(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock, PACS)
    make_result(node)
    ahead = clock.now + dt.timedelta(days=3)
    with node.database.write() as session:
        session.execute(update(Study).values(last_instance_at=ahead, first_instance_at=ahead, opened_at=ahead))
    ticks.complete_studies(node)
    with node.database.read() as session:
        row = session.scalars(select(Study)).one()
        assert (row.last_instance_at, row.first_instance_at, row.opened_at) == (clock.now,) * 3
        assert row.state is StudyState.OPEN
    clock.forward(seconds=61)
    ticks.complete_studies(node)
    with node.database.read() as session:
        assert session.scalars(select(Study.state)).one() is StudyState.COMPLETE


def test_a_tick_that_was_planned_by_a_clock_that_was_ahead_is_planned_again(tmp_path: Path) -> None:
    node = make_node(tmp_path, Clock(), PACS)
    runs: list[int] = []
    sweeper = Sweeper(node, ticks=(Tick(name="slow", seconds=0.2, action=lambda _node: runs.append(1)),))
    sweeper.start()
    try:
        wait_until(lambda: runs, what="the first tick")
        ahead = dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
        sweeper._scheduler.modify_job("slow", next_run_time=ahead)
        before = len(runs)
        wait_until(lambda: len(runs) > before + 1, seconds=60, what="ticks at their pace")
    finally:
        sweeper.stop()


def test_a_clock_set_back_leaves_nothing_waiting_in_the_future(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock, PACS)
    make_result(node)
    before = clock.now
    with node.database.write() as session:
        session.execute(update(Job).where(Job.id == 2).values(run_at=before + dt.timedelta(minutes=5)))
    now = before - dt.timedelta(hours=3)
    with node.database.write() as session:
        mend_after_setback(session, before=before, now=now)
    assert [job.run_at for job in all_jobs(node)] == [now, now + dt.timedelta(minutes=5)]
    with node.database.read() as session:
        assert session.scalars(select(Study.last_instance_at)).one() == now


def test_a_clock_set_back_delays_no_proof_no_notice_and_no_report(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock, PACS)
    make_result(node)
    before, now = clock.now, clock.now - dt.timedelta(hours=3)
    with node.database.write() as session:
        session.execute(
            update(Delivery).values(state=DeliveryState.STORED, stored_at=before, commitment_asked_at=before)
        )
        session.execute(update(Study).values(opened_at=before))
        raise_notice(session, key="k", kind="disk", text="full", now=before + dt.timedelta(minutes=30))
        session.add(
            CommitmentRequest(
                transaction_uid="1.2.3",
                calling_ae_title="MODALITY",
                referenced_sops=[],
                next_attempt_at=before,
                created_at=before,
            )
        )
    with node.database.write() as session:
        mend_after_setback(session, before=before, now=now)
    assert {(row.stored_at, row.commitment_asked_at) for row in deliveries(node)} == {(now, now)}
    with node.database.read() as session:
        assert session.scalars(select(Study.opened_at)).one() == now
        assert session.scalars(select(Notice.next_attempt_at)).one() == now
        assert session.scalars(select(CommitmentRequest.next_attempt_at)).one() == now


@pytest.mark.parametrize("hours", [-6, 6])
def test_a_long_pause_makes_one_late_tick_and_a_jump_of_the_clock_none_too_many(tmp_path: Path, hours: int) -> None:
    clock = _MovableClock()
    node = make_node(tmp_path, clock, PACS)  # type: ignore[arg-type]
    runs: list[int] = []
    gate = threading.Event()

    def slow(_node: NodeContext) -> None:
        runs.append(1)
        if len(runs) == 1:
            gate.wait(30)  # the first tick takes as long as many intervals

    sweeper = Sweeper(node, ticks=(Tick(name="slow", seconds=0.2, action=slow),))
    began = time.monotonic()
    sweeper.start()
    try:
        wait_until(lambda: runs, what="the first tick")
        clock.offset = dt.timedelta(hours=hours)
        wait_until(lambda: clock.asked_since_set > 3, what="the steady clock to look")
        assert len(runs) == 1, "a tick that still runs is not started again"
        gate.set()
        wait_until(lambda: len(runs) >= 3, seconds=30, what="ticks after the clock was set")
    finally:
        gate.set()
        sweeper.stop()
    ended = len(runs)
    assert ended <= (time.monotonic() - began) / 0.2 + 3, "missed ticks are not made up for"
    with node.database.read() as session:
        types = list(session.scalars(select(AuditEvent.event_type)))
    assert types == ["110120", "110121"], "start and stop are audited"
    assert len(runs) == ended


def test_a_process_that_slept_ticks_once_for_all_that_it_missed(tmp_path: Path) -> None:
    """SIGSTOP is what a suspended machine is to its processes."""
    process = ForkedProcess("tests.support.ticking", [str(tmp_path), str(TICK_SECONDS)], log=tmp_path / "log")
    ticks = tmp_path / "ticks"

    def count() -> int:
        return len(ticks.read_text("ascii").splitlines()) if ticks.exists() else 0

    try:
        wait_until(lambda: count() >= 3, what="the first ticks")
        process.send_signal(signal.SIGSTOP)
        slept_at, before = time.monotonic(), count()
        wait_until(lambda: time.monotonic() - slept_at > 40 * TICK_SECONDS, what="a long sleep")
        process.send_signal(signal.SIGCONT)
        woken_at = time.monotonic()
        wait_until(lambda: count() > before + 2, what="ticks after the sleep")
        since = count() - before
        assert since <= (time.monotonic() - woken_at) / TICK_SECONDS + 3, "40 were missed, and not made up for"
    finally:
        process.kill()
        process.wait(30)


class _MovableClock:
    """The real clock, set by a test."""

    def __init__(self) -> None:
        self._offset = dt.timedelta(0)
        self.asked_since_set = 0

    @property
    def offset(self) -> dt.timedelta:
        return self._offset

    @offset.setter
    def offset(self, value: dt.timedelta) -> None:
        self._offset, self.asked_since_set = value, 0

    def __call__(self) -> dt.datetime:
        self.asked_since_set += 1
        return dt.datetime.now(dt.UTC) + self._offset


def test_all_ticks_of_a_leader_may_ask_at_once(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """The scheduler has four threads; a connection of SQLAlchemy's is for one."""
    node = make_node(tmp_path, Clock(), PACS, database={"url": postgres_server.new_database()})
    leader = Leadership(node)
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _number: leader.take_or_keep(), range(400)))
    leader.give_up()
    node.database.close()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_leader_that_is_killed_or_hangs_is_followed(
    postgres_server: PostgresServer, tmp_path: Path, sign: signal.Signals
) -> None:
    """A stopped process keeps its connection open, as a frozen machine and a cut cable do."""
    url = postgres_server.new_database()
    node = make_node(tmp_path, Clock(), PACS, database={"url": url})
    log = tmp_path / "log"
    process = ForkedProcess("tests.support.leading", [str(tmp_path / "other"), url], log=log)
    follower = Leadership(node)
    try:
        wait_until(lambda: process.poll() is not None or "leads: " in log.read_text("utf-8"), what="the other to try")
        assert "leads: True" in log.read_text("utf-8")
        assert not follower.take_or_keep()
    finally:
        process.send_signal(sign)
    try:
        wait_until(follower.take_or_keep, what="the follower to lead")
    finally:
        process.kill()
        process.wait(30)
    follower.give_up()
    node.database.close()


def test_a_leader_whose_ticks_have_stopped_gives_the_lead_up(
    postgres_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process lives and its connection speaks, but nothing is swept any more."""
    monkeypatch.setattr("dicom_node.system.leader_election.TICKLESS_SECONDS", 1.0)
    url = postgres_server.new_database()
    nodes = [make_node(tmp_path / name, Clock(), PACS, database={"url": url}) for name in ("a", "b")]
    leader, follower = map(Leadership, nodes)
    assert leader.take_or_keep()
    assert not follower.take_or_keep()
    wait_until(follower.take_or_keep, what="the follower to lead")
    follower.give_up()
    for node in nodes:
        node.database.close()


def test_one_sweeper_leads_on_postgresql_and_its_death_hands_over(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.new_database()
    first = make_node(tmp_path / "a", Clock(), PACS, database={"url": url})
    second = make_node(tmp_path / "b", Clock(), PACS, database={"url": url})
    leader, follower = Leadership(first), Leadership(second)
    assert leader.take_or_keep()
    assert leader.take_or_keep()
    assert not follower.take_or_keep()
    leader.give_up()
    wait_until(follower.take_or_keep, what="the follower to lead")
    assert not leader.take_or_keep()
    follower.give_up()
    first.database.close()
    second.database.close()


def test_work_that_waited_through_a_planned_stop_is_told_only_when_no_worker_comes(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock, PACS)
    make_result(node)
    clock.forward(hours=1)  # the node was stopped
    look = ticks.UnclaimedWorkTick()

    def told() -> list[str]:
        look(node)
        with node.database.read() as session:
            return list(session.scalars(select(Notice.text).where(Notice.kind == "work waits")))

    assert told() == []
    clock.forward(seconds=90)
    assert told() == [], "a worker is loading its model"
    clock.forward(seconds=31)
    (text,) = told()
    assert "no worker reports" in text
    assert told() == [text], "told once"
