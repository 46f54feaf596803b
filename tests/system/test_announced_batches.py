"""A leader of a batch waits for those who said that they are about to come, and for nobody else."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from dicom_node.system.leader_batch import LeaderBatch
from tests.support.common import wait_until


@pytest.fixture
def taken() -> list[list[str]]:
    """The batches in their order."""
    return []


@pytest.fixture
def patient(taken: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> LeaderBatch[str]:
    """Batches whose last one took a minute, and whose next leader waits for as long."""
    batches = LeaderBatch(taken.append, max_items=8)
    monkeypatch.setattr(batches, "_patience", 60.0)
    return batches


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_who_is_announced_shares_the_batch_of_a_leader_that_came_before(
    patient: LeaderBatch[str], taken: list[list[str]]
) -> None:
    is_announced, may_come = threading.Event(), threading.Event()

    def come_later() -> None:
        with patient.announced():
            is_announced.set()
            may_come.wait(60)
            patient.submit("announced")

    late = started(come_later)
    assert is_announced.wait(60)
    leader = started(lambda: patient.submit("leader"))
    wait_until(lambda: patient.waiting == 1, what="the leader to wait")
    may_come.set()
    leader.join(60)
    late.join(60)
    assert taken == [["leader", "announced"]]


def test_an_announcement_that_is_taken_back_keeps_nobody_waiting(
    patient: LeaderBatch[str], taken: list[list[str]]
) -> None:
    is_announced, may_go = threading.Event(), threading.Event()

    def change_its_mind() -> None:
        with patient.announced():
            is_announced.set()
            may_go.wait(60)

    other = started(change_its_mind)
    assert is_announced.wait(60)
    leader = started(lambda: patient.submit("leader"))
    wait_until(lambda: patient.waiting == 1, what="the leader to wait")
    may_go.set()
    leader.join(60)
    other.join(60)
    assert taken == [["leader"]]


def test_a_leader_waits_no_longer_than_its_last_batch_took(taken: list[list[str]]) -> None:
    batches = LeaderBatch(taken.append, max_items=8)
    is_announced, may_go = threading.Event(), threading.Event()

    def stay_away() -> None:
        with batches.announced():
            is_announced.set()
            may_go.wait(60)

    other = started(stay_away)
    assert is_announced.wait(60)
    for name in ("one", "two"):
        with batches.announced():
            batches.submit(name)
    assert taken == [["one"], ["two"]]
    may_go.set()
    other.join(60)
