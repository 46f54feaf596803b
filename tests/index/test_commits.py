"""A look at the index is skipped while nothing was committed since it found nothing, and only then."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from dicom_node.errors import IndexUnavailableError
from dicom_node.index.commits import CommitWatch
from dicom_node.index.database import Database


class Look:
    """A look that counts how often it is made."""

    def __init__(self) -> None:
        self.made = 0
        self.finds = False

    def __call__(self) -> bool:
        self.made += 1
        return self.finds


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path / 'index.db'}")
    commit(database, "CREATE TABLE things (name TEXT)")
    return database


def commit(database: Database, statement: str) -> None:
    with database.write() as session:
        session.execute(text(statement))


def test_a_look_that_found_nothing_is_made_again_after_a_commit(database: Database) -> None:
    watch, look = CommitWatch(database), Look()
    assert [watch.look(look) for _ in range(3)] == [False] * 3
    assert look.made == 1
    other = Database(str(database.engine.url))
    commit(other, "INSERT INTO things VALUES ('x')")
    look.finds = True
    assert [watch.look(look) for _ in range(3)] == [True] * 3
    assert look.made == 4, "what is there is looked at each time: the time may decide"
    look.finds = False
    commit(database, "DELETE FROM things")
    assert [watch.look(look) for _ in range(3)] == [False] * 3
    assert look.made == 5
    watch.close()
    other.close()
    database.close()


def test_a_commit_during_the_look_is_seen_at_the_next_one(database: Database) -> None:
    watch, look = CommitWatch(database), Look()

    def look_and_miss() -> bool:
        found = look()
        commit(database, "INSERT INTO things VALUES ('late')")
        return found

    assert not watch.look(look_and_miss)
    look.finds = True
    assert watch.look(look)
    watch.close()
    database.close()


def test_a_look_that_fails_is_made_again(database: Database) -> None:
    watch, look = CommitWatch(database), Look()

    def fail() -> bool:
        raise IndexUnavailableError("away")

    with pytest.raises(IndexUnavailableError):
        watch.look(fail)
    watch.look(look)
    assert look.made == 1
    watch.close()
    watch.look(look)
    assert look.made == 2, "a new connection knows nothing of the one before"
    watch.close()
    database.close()


def test_a_watch_closes_its_connection_without_an_error(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    watch = CommitWatch(database)
    watch.look(Look())
    cursor = watch._cursor
    watch.close()
    assert not caplog.records
    with pytest.raises(sqlite3.ProgrammingError):
        cursor.execute("SELECT 1")
