"""A new job is heard of as soon as it is committed, and nothing depends on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dicom_node.index.database import Database
from dicom_node.index.tables.core import JobKind
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.bell import doorbell_of
from dicom_node.system.doorbell import Doorbell, ring
from tests.support.databases import add_tables


@pytest.fixture
def sqlite(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path / 'index.db'}")
    add_tables(database)
    return database


def test_a_committed_job_rings_and_one_that_is_rolled_back_or_there_already_does_not(sqlite: Database) -> None:
    with doorbell_of(sqlite) as bell:
        assert not bell.wait(0)
        with sqlite.write() as session:
            assert jobs.enqueue(session, JobKind.DELIVER, "a", {})
            assert not bell.wait(0), "before the commit nobody would find it"
        assert bell.wait(60)
        assert not bell.wait(0), "heard once"
        with sqlite.write() as session:
            assert not jobs.enqueue(session, JobKind.DELIVER, "a", {})
        assert not bell.wait(0)
        with pytest.raises(ZeroDivisionError):
            enqueue_and_fail(sqlite)
        assert not bell.wait(0)


def enqueue_and_fail(database: Database) -> None:
    with database.write() as session:
        jobs.enqueue(session, JobKind.DELIVER, "b", {})
        raise ZeroDivisionError


def test_another_process_rings_and_many_rings_are_one() -> None:
    name = f"test of {__name__}"
    with Doorbell(name) as bell:
        program = f"from dicom_node.system.doorbell import ring\nfor _ in range(5000): ring({name!r})"
        subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
        assert bell.wait(60)
        while bell.wait(0):
            pass
        assert not bell.wait(0.01)


def test_a_second_bell_of_a_name_hears_nothing_and_nobody_may_listen() -> None:
    name = f"another test of {__name__}"
    ring(name)
    with Doorbell(name) as first:
        with Doorbell(name) as second:
            ring(name)
            assert first.wait(60)
            assert not second.wait(0.01)
        ring(name)
        assert first.wait(60)
    ring(name)
    with Doorbell(name) as later:
        assert not later.wait(0.01)
