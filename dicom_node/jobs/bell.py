"""The bell of an index on SQLite: rung when a new job is committed, heard by the worker's watching thread.

PostgreSQL tells its listeners by itself (`dicom_node.jobs.wakeups`).
"""

from __future__ import annotations

from functools import partial

from sqlalchemy.orm import Session

from dicom_node.index.database import Database, after_commit
from dicom_node.system.doorbell import Doorbell, ring


def doorbell_of(database: Database) -> Doorbell:
    """The end that hears of new jobs in this index."""
    return Doorbell(database.url)


def ring_after_commit(session: Session) -> None:
    """Ring once the session's transaction, which made a job, is committed."""
    database: Database | None = session.info.get("database")
    if database is not None and database.is_sqlite:
        after_commit(session, "bell", partial(ring, database.url))
