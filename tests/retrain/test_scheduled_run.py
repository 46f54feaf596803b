"""Scheduled training: begun once in its window, gives way to analyses, stops with a checkpoint, goes on next night."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.config import NodeSection, RetrainSection, Settings
from dicom_node.context import NodeContext
from dicom_node.index.tables.core import JobKind, Notice
from dicom_node.index.tables.models import ScheduledTraining, ScheduledTrainingState
from dicom_node.jobs import queue as jobs
from dicom_node.retrain import scheduled_run as night
from dicom_node.retrain.scheduled_run import ScheduledTrainer
from tests.support.checkpoints import open_context
from tests.support.common import wait_until
from training.loop.pause import PAUSE_VARIABLE

TRAINER = """
import os, signal, sys, threading, time
from pathlib import Path
from training.loop.pause import breaks_from_environment
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
breaks = breaks_from_environment(stop)
steps = Path({steps!r})
done = int(steps.read_text() or 0) if steps.exists() else 0
print("nice", os.nice(0), "threads", os.environ["OMP_NUM_THREADS"], flush=True)
while done < {until}:
    if breaks():
        sys.exit(75)
    time.sleep(0.02)
    done += 1
    steps.with_suffix(".new").write_text(str(done))
    steps.with_suffix(".new").replace(steps)
print({words!r}, flush=True)
sys.exit({status})
"""
"""Counts steps as the real training does: a file that outlives it is the checkpoint, a pause is between two steps."""
OPEN = dt.datetime(2026, 3, 4, 2, 0, tzinfo=dt.UTC)
CLOSED = dt.datetime(2026, 3, 4, 5, 0, tzinfo=dt.UTC)


class Clock:
    """A clock that stands where it is put."""

    def __init__(self, now: dt.datetime) -> None:
        self.now = now

    def __call__(self) -> dt.datetime:
        return self.now


@dataclasses.dataclass(slots=True)
class Place:
    """A node with a schedule, its clock and the trainer's step count."""

    node: NodeContext
    clock: Clock
    steps: Path

    def watch(self, *, until: int = 10**9, words: str = "done", status: int = 0) -> ScheduledTrainer:
        program = TRAINER.format(steps=str(self.steps), until=until, words=words, status=status)
        return ScheduledTrainer(self.node, lambda: True, lambda _node: [sys.executable, "-c", program])

    def done(self) -> int:
        return int(self.steps.read_text()) if self.steps.exists() else 0

    def nights(self) -> list[ScheduledTraining]:
        with self.node.database.read() as session:
            return list(session.scalars(select(ScheduledTraining).order_by(ScheduledTraining.begins_at)))

    @contextmanager
    def training(self, watch: ScheduledTrainer) -> Iterator[threading.Thread]:
        """`look` in a thread, until its training has made a step; at the end the node stops."""
        before = self.done()
        thread = threading.Thread(target=watch.look)
        thread.start()
        try:
            wait_until(lambda: self.done() > before, seconds=120, what="the training to make a step")
            yield thread
        finally:
            self.node.stop.set()
            thread.join(120)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    clock = Clock(OPEN)
    with open_context(tmp_path) as context:
        section = RetrainSection(schedule="01:00-05:00", timezone="UTC", nice=7, threads=1)
        settings = Settings(node=NodeSection(data_dir=tmp_path), retrain=section)
        node = dataclasses.replace(context, settings=settings, clock=clock)
        yield Place(node, clock, tmp_path / "steps")


def test_the_variable_is_the_trainings_own() -> None:
    assert night.PAUSE_VARIABLE == PAUSE_VARIABLE


def test_outside_its_window_and_without_the_lead_nothing_begins(place: Place) -> None:
    place.clock.now = CLOSED
    assert not place.watch().look()
    place.clock.now = OPEN
    assert not ScheduledTrainer(place.node, lambda: False, lambda _node: ["false"]).look()
    assert place.nights() == []


def test_what_ends_by_itself_is_not_begun_again_in_the_same_window(place: Place) -> None:
    assert place.watch(until=3).look()
    (one,) = place.nights()
    assert (one.state, one.exit_status, one.detail) == (ScheduledTrainingState.DONE, 0, "done")
    assert one.begins_at == dt.datetime(2026, 3, 4, 1, tzinfo=dt.UTC)
    assert not place.watch(until=3).look()
    place.clock.now = OPEN + dt.timedelta(days=1)
    assert place.watch(until=6).look()
    assert [row.state for row in place.nights()] == [ScheduledTrainingState.DONE] * 2
    log = next((place.node.settings.node.data_dir / "logs").glob("retrain-20260304-*.log")).read_text()
    assert f"nice {min(19, os.nice(0) + 7)} threads 1" in log


def test_a_failure_is_told_once_however_often_it_comes_back(place: Place) -> None:
    for day in range(3):
        place.clock.now = OPEN + dt.timedelta(days=day)
        assert place.watch(until=0, words="nothing is trained yet: 3 of 200 patients", status=1).look()
    assert [row.state for row in place.nights()] == [ScheduledTrainingState.FAILED] * 3
    with place.node.database.read() as session:
        notice = session.scalars(select(Notice).where(Notice.kind == "training")).one()
    assert "3 of 200 patients" in notice.text


def test_the_window_ends_and_the_next_night_goes_on(place: Place) -> None:
    with place.training(place.watch()) as thread:
        place.clock.now = CLOSED
        thread.join(120)
        assert not thread.is_alive()
        (one,) = place.nights()
        assert (one.state, one.exit_status, one.detail) == (ScheduledTrainingState.STOPPED, 75, "the window is over")
    reached = place.done()
    place.node.stop.clear()
    place.clock.now = OPEN + dt.timedelta(days=1)
    assert place.watch(until=reached + 2).look()
    assert place.nights()[1].state is ScheduledTrainingState.DONE
    assert place.done() == reached + 2, "it went on from where it was"


def test_a_long_pause_gives_way_to_analyses_and_nothing_moves(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(night, "QUIET_SECONDS", 0.0)
    pause_file = place.node.settings.node.data_dir / "training.pause"
    with place.training(place.watch()) as thread:
        with place.node.database.write() as session:
            jobs.enqueue(session, JobKind.ANALYSE, "analyse:x", {})
        wait_until(pause_file.exists, what="the sign to pause")
        stands = [place.done(), -1]

        def stands_still() -> bool:
            stands.append(place.done())
            return stands[-1] == stands[-60:][0] and len(stands) > 62

        wait_until(stands_still, what="the training to stand still for sixty looks")
        place.clock.now += dt.timedelta(minutes=90)  # a long pause, still inside the window
        with place.node.database.write() as session:
            claimed = jobs.claim(session, kinds=[JobKind.ANALYSE], owner="elsewhere:1:x")
            assert claimed is not None
            jobs.complete(session, claimed)
        reached = place.done()
        wait_until(lambda: place.done() > reached, what="the training to go on")
        assert not pause_file.exists()
        with place.node.database.write() as session:
            jobs.enqueue(session, JobKind.ANALYSE, "analyse:y", {})
        wait_until(pause_file.exists, what="the second sign to pause")
        place.clock.now = CLOSED  # the window ends in the middle of a pause
        thread.join(120)
        assert not thread.is_alive()
    (one,) = place.nights()
    assert (one.state, one.pauses) == (ScheduledTrainingState.STOPPED, 2)
    assert one.paused_seconds > 0
    assert not pause_file.exists()


def test_a_node_that_stops_leaves_the_window_to_its_next_start(place: Place) -> None:
    with place.training(place.watch()):
        pass  # leaving it stops the node
    (one,) = place.nights()
    assert one.state is ScheduledTrainingState.RUNNING
    place.node.stop.clear()
    with place.node.database.write() as session:
        window = night.window_now(place.node.settings.retrain, OPEN)
        assert window is not None
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        session.get_one(ScheduledTraining, one.id).pid = gone.pid
        session.flush()
        again = night.begin(session, window, now=OPEN, host=one.host, pid=os.getpid())
        assert again == one.id, "its process is gone: taken over at once"
        assert night.begin(session, window, now=OPEN, host="another", pid=1) is None, "it lives elsewhere"
        later = OPEN + night.LOST + dt.timedelta(seconds=1)
        assert night.begin(session, window, now=later, host="another", pid=1) == one.id, "its machine was lost"
