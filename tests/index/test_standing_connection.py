"""A connection that a writer keeps: its transactions are whole or not there, whatever was used in them."""

from __future__ import annotations

from typing import cast

import pytest
from sqlalchemy import Table, bindparam, func, select, update
from sqlalchemy.orm import Session

from dicom_node.errors import IndexUnavailableError
from dicom_node.index.database import Database, utc_now
from dicom_node.index.prepared import PreparedStatement
from dicom_node.index.standing_connection import StandingConnection
from dicom_node.index.tables.core import Study

_study = cast(Table, Study.__table__)
_DESCRIBE = PreparedStatement(
    update(_study)
    .where(_study.c.study_instance_uid == bindparam("uid"))
    .values(study_description=bindparam("description"))
)


def study(uid: str) -> Study:
    now = utc_now()
    return Study(study_instance_uid=uid, first_instance_at=now, last_instance_at=now, study_description="as sent")


def descriptions(database: Database) -> dict[str, str]:
    with database.read() as session:
        rows = session.execute(select(Study.study_instance_uid, Study.study_description))
        return {row.study_instance_uid: row.study_description for row in rows}


def add_and_describe(session: Session, uid: str) -> None:
    session.add(study(uid))
    session.flush()
    _DESCRIBE.execute(session, {"uid": uid, "description": f"of {uid}"})


def test_prepared_and_other_statements_share_a_transaction(database: Database) -> None:
    standing = StandingConnection(database)
    for uid in ("1.2", "1.3"):
        with standing.write() as session:
            add_and_describe(session, uid)
    with standing.write() as session:
        _DESCRIBE.execute(session, {"uid": "1.2", "description": "again"})  # nothing else: the session is not used
    assert descriptions(database) == {"1.2": "again", "1.3": "of 1.3"}
    with standing.write() as session:
        session.add(study("1.4"))  # written by the commit
    assert descriptions(database)["1.4"] == "as sent"
    standing.close()


@pytest.mark.parametrize("uses_session", [False, True])
def test_what_fails_leaves_nothing_and_no_lock(database: Database, uses_session: bool) -> None:
    standing = StandingConnection(database)
    with standing.write() as session:
        session.add(study("1.2"))

    def fail() -> None:
        with standing.write() as session:
            _DESCRIBE.execute(session, {"uid": "1.2", "description": "never"})
            if uses_session:
                assert session.scalar(select(func.count()).select_from(Study)) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.write() as session:  # another connection, which would wait for a lock that was left
        _DESCRIBE.execute(session, {"uid": "1.2", "description": "of another"})
    with standing.write() as session:
        add_and_describe(session, "1.3")
    assert descriptions(database) == {"1.2": "of another", "1.3": "of 1.3"}
    standing.close()


def test_an_error_of_the_driver_is_the_error_of_the_index(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL's statements go through SQLAlchemy")
    standing = StandingConnection(database)
    with database.write() as session:
        session.add(study("1.2"))
    with database.connection(begin=True) as connection:
        connection.exec_driver_sql("ALTER TABLE study RENAME COLUMN study_description TO gone")
    with pytest.raises(IndexUnavailableError, match="no such column"), standing.write() as session:
        _DESCRIBE.execute(session, {"uid": "1.2", "description": "never"})
    standing.close()
