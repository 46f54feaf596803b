"""Opening the index: engine, pragmas, and the one way to write, a transaction that takes its lock at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from dicom_node.errors import IndexUnavailableError

BUSY_TIMEOUT_MS = 15_000
"""How long a SQLite writer waits for another: longer than any of our transactions, shorter than a DIMSE time-out."""


class Database:
    """The index's engine. One per process; sessions are short and never cross a thread."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite and parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {} if self.is_sqlite else {"pool_pre_ping": True}
        self.url = url
        self.engine: Engine = create_engine(parsed, **options)
        if self.is_sqlite:
            _prepare_sqlite(self.engine)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that commits at the end or rolls back; on SQLite BEGIN IMMEDIATE, so no lock upgrade fails.

        Raises IndexUnavailableError where the database cannot be reached or stays locked.
        """
        with _mapped_errors(), self._sessions.begin() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read-only look. On SQLite a plain deferred BEGIN, so that readers never wait for a writer (WAL)."""
        with _mapped_errors(), self._sessions() as session:
            session.connection(execution_options={"sqlite_begin": "DEFERRED"} if self.is_sqlite else {})
            yield session
            # Closing rolls back. A rollback here would expire the rows, and a reader could not use them afterwards.

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


@contextmanager
def _mapped_errors() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise IndexUnavailableError(f"the index does not answer: {error.orig}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise IndexUnavailableError(f"the connection to the index was lost: {error.orig}") from error
        raise


def _prepare_sqlite(engine: Engine) -> None:
    """WAL, full synchronisation and explicit BEGIN.

    pysqlite's own transaction control begins late and upgrades a read lock to a write lock, which fails at once with
    "database is locked" whatever the busy timeout; hence isolation_level None and our own BEGIN.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        # FULL: a commit is on the disk before C-STORE is answered with Success.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
        connection.exec_driver_sql(f"BEGIN {mode}")
