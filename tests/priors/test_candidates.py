"""The prior look-up against a plain reading of its rule, its round trips, and connections that the server cut."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, text

from dicom_node.errors import IndexUnavailableError
from dicom_node.index import database as index_database
from dicom_node.index.database import Database
from dicom_node.index.queries import prior_candidates, study_by_uid
from dicom_node.index.tables.core import Study
from tests.support.index import arrive, received, study_uid

IDS = ("P1", "P2", "P3")
DATES = ("", "20200101", "20230615", "20240516", "20240517", "20240518")

held = st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(DATES), st.integers(1, 2)), max_size=6)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(others=held, date=st.sampled_from(DATES), linked=st.sets(st.sampled_from(IDS[1:])), days=st.integers(1, 2000))
def test_what_the_rule_says_is_found(
    database: Database, others: list[tuple[str, str, int]], date: str, linked: set[str], days: int
) -> None:
    with database.write() as session:
        session.execute(delete(Study))
    arrive(database, received("current", study_date=date))
    for number, (patient_id, day, images) in enumerate(others):
        for image in range(images):
            arrive(database, received(f"other {number}", image, patient_id=patient_id, study_date=day))
    with database.read() as session:
        current = study_by_uid(session, study_uid("current"))
        assert current is not None
        found = prior_candidates(session, current, look_back_days=days, other_ids=linked)
    expected = {
        study_uid(f"other {number}"): images
        for number, (patient_id, day, images) in enumerate(others)
        if patient_id in {"P1", *linked} and (not day or not date or _days_before(day, date) in range(days + 2))
    }
    counted = {uid: sum(row.series.study.study_instance_uid == uid for row in found) for uid in expected}
    assert counted == expected
    assert len(found) == sum(expected.values())
    dates = [row.series.study.study_date for row in found]
    assert dates == sorted(dates, reverse=True)


def _days_before(day: str, date: str) -> int:
    return (dt.date.fromisoformat(date) - dt.date.fromisoformat(day)).days


def test_only_the_newest_are_looked_at(database: Database) -> None:
    arrive(database, received("current"))
    for number in range(6):
        arrive(database, received(f"other {number}", study_date=f"2024010{number + 1}"))
    with database.read() as session:
        current = study_by_uid(session, study_uid("current"))
        assert current is not None
        found = prior_candidates(session, current, most=2)
    assert [row.series.study.study_date for row in found] == ["20240106", "20240105"]


@contextmanager
def _counted(database: Database) -> Iterator[list[str]]:
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def test_the_look_up_is_two_statements_without_a_transaction(database: Database) -> None:
    """Round trips are most of its time on PostgreSQL; docs/benchmarks.md."""
    arrive(database, received("current"))
    arrive(database, received("other", study_date="20240101"))
    with _counted(database) as said, database.read() as session:
        current = study_by_uid(session, study_uid("current"))
        assert current is not None
        assert len(prior_candidates(session, current)) == 1
        if not database.is_sqlite:
            driver = session.connection().connection.driver_connection
            assert driver is not None
            assert driver.info.transaction_status.name == "IDLE"
    assert [statement.split()[0] for statement in said if not statement.startswith("BEGIN")] == ["SELECT", "SELECT"]


@pytest.fixture
def postgresql(request: pytest.FixtureRequest, database: Database) -> Database:
    if database.is_sqlite:
        pytest.skip("a file has no connections to cut")
    return database


_OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


def _cut_all_others(database: Database) -> None:
    with database.read() as session:
        session.execute(text(f"SELECT pg_terminate_backend(pid) {_OTHERS}"))
        deadline = time.monotonic() + 60
        while session.scalar(text(f"SELECT count(*) {_OTHERS}")):
            assert time.monotonic() < deadline, "the server keeps its connections"


@pytest.mark.parametrize("ping_after", [60.0, -1.0])
def test_an_idle_connection_that_the_server_cut_is_replaced(
    postgresql: Database, monkeypatch: pytest.MonkeyPatch, ping_after: float
) -> None:
    """A restart of the server costs the idle node nothing: neither a read nor a write fails."""
    monkeypatch.setattr(index_database, "PING_AFTER_SECONDS", ping_after)
    arrive(postgresql, received("current"))
    other = Database(postgresql.url)
    _cut_all_others(other)
    with postgresql.read() as session:
        assert study_by_uid(session, study_uid("current")) is not None
    _cut_all_others(other)
    arrive(postgresql, received("other", study_date="20240101"))
    other.close()


def test_a_connection_that_dies_in_use_is_an_index_that_is_away(postgresql: Database) -> None:
    other = Database(postgresql.url)

    def look() -> None:
        with postgresql.read() as session:
            study_by_uid(session, study_uid("current"))
            _cut_all_others(other)
            study_by_uid(session, study_uid("current"))

    with pytest.raises(IndexUnavailableError):
        look()
    with postgresql.read() as session:
        assert study_by_uid(session, study_uid("current")) is None
    other.close()
