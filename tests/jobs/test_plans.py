"""The queries of an idle lane and of a claim read one entry of an index, also after ANALYZE of a queue of one kind."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from dicom_node.index.database import Database
from dicom_node.index.tables.core import JobKind
from dicom_node.jobs import backlog, due, queue
from dicom_node.jobs.due import Priority

ANALYSE = JobKind.ANALYSE
JOBS = 5000
OF_A_MILLION = {
    "ix_job_next": "1000000 1000000 1000000 500000 500000 1",
    "ix_job_lease": "1000000 1000000 1000000",
    "sqlite_autoindex_job_1": "1000000 1",
}
"""SQLite's statistics (`sqlite_stat1`) of a million ready jobs of one kind: hardly a column tells one from another."""


@pytest.fixture(scope="module")
def statements() -> dict[str, Callable[[Session], object]]:
    """The query that a lane repeats while a backfill waits."""
    return {
        "look": lambda session: backlog.seconds_to_next(session, (JobKind.DELIVER,), within=dt.timedelta(seconds=5)),
        "claim": lambda session: queue.claim(session, kinds=(JobKind.DELIVER,), owner="w"),
        "look for an analysis": lambda session: backlog.seconds_to_next(session, (ANALYSE,), within=dt.timedelta(0)),
        "count of analyses": lambda session: backlog.count_due(session, ANALYSE, most=3),
        "claim of an analysis": lambda session: queue.claim(session, kinds=(ANALYSE,), owner="w"),
        "busy": backlog.analyses_have_work,
        "unclaimed": backlog.find_unclaimed_work,
    }


@pytest.mark.parametrize(
    "name",
    [
        "look",
        "claim",
        "look for an analysis",
        "count of analyses",
        "claim of an analysis",
        "busy",
        "unclaimed",
    ],
)
def test_a_long_queue_is_never_read_through(
    database: Database, name: str, statements: dict[str, Callable[[Session], object]]
) -> None:
    _fill(database)
    lines = _plans(database, statements[name])
    assert any("ix_job_next" in line for line in lines)
    bad = (
        "SCAN job",
        "SCAN study",
        "Seq Scan on job",
        "ANY(",
    )  # the last is SQLite's skip-scan, which reads a long index
    assert [line for line in lines if any(word in line for word in bad)] == []


@pytest.mark.parametrize("urgency", list(Priority))
def test_each_priority_is_looked_for_and_claimed(database: Database, urgency: Priority) -> None:
    with database.write() as session:
        queue.enqueue(session, JobKind.ANALYSE, "a", {}, priority=urgency)
    with database.read() as session:
        assert backlog.seconds_to_next(session, (JobKind.ANALYSE,), within=dt.timedelta(0)) == 0
    with database.write() as session:
        assert queue.claim(session, kinds=(JobKind.ANALYSE,), owner="w") is not None


def test_a_priority_that_no_claim_asks_for_cannot_be_given() -> None:
    with pytest.raises(ValueError, match="150 is not a valid Priority"):
        due.Priority(150)


def _fill(database: Database) -> None:
    """Many ready bulk jobs of one kind and of nothing else, and statistics that say so."""
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    with database.write() as session:
        queue.enqueue(session, JobKind.ANALYSE, "0", {}, priority=Priority.BULK, run_at=moment)
        columns = "kind, payload, state, priority, attempts, max_attempts, run_at, created_at, lease_owner, last_error"
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {JOBS})"
        copies = f"{numbers} INSERT INTO job (key, {columns}) SELECT CAST(i AS VARCHAR(20)), {columns} FROM n, job"
        session.execute(text(copies))
    with database.connection(begin=True) as connection:
        connection.execute(text("ANALYZE"))
        if database.is_sqlite:
            for index, stat in OF_A_MILLION.items():
                told = text("UPDATE sqlite_stat1 SET stat = :stat WHERE idx = :index RETURNING idx")
                assert connection.execute(told, {"stat": stat, "index": index}).all()
    database.close()  # a new connection reads the statistics


def _plans(database: Database, ask: Callable[[Session], object]) -> list[str]:
    """The lines of the plans of all statements that `ask` has executed."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        asked.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        with database.write() as session:
            ask(session)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    with database.connection() as connection:
        cursor = connection.connection.cursor()
        lines: list[str] = []
        for statement, parameters in asked:
            if " job" in statement:
                cursor.execute(explain + statement, parameters)
                lines += [str(row[-1]) for row in cursor.fetchall()]
        cursor.close()
    return lines
