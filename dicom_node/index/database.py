"""Opening the index: engine, pragmas, and the one way to write, a transaction that takes its lock at once."""

from __future__ import annotations

import datetime as dt
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

from dicom_node.errors import ConfigurationError, IndexConflictError, IndexUnavailableError

BUSY_TIMEOUT_MS = 15_000
"""The wait of a SQLite writer for another: longer than any transaction of the node, shorter than a DIMSE time-out."""
PING_AFTER_SECONDS = 60.0
"""A PostgreSQL connection that lay idle for longer is asked whether it lives before it is used."""

KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "connect_timeout": 10,
}
"""libpq: a server that is cut off is noticed within about 11 s instead of 15 minutes to two hours, so that a worker
goes on with another connection before its leases run out. A parameter of `database.url` goes before these."""
CONFLICTS = ("40P01", "40001")
"""PostgreSQL's SQLSTATEs for a deadlock and a serialisation failure: it is undone and may be tried again."""


INSUFFICIENT_PRIVILEGE = "42501"
UNDEFINED_TABLE = "42P01"
"""A replica that is empty still, or a database that was restored in part."""
MISSING = (INSUFFICIENT_PRIVILEGE, UNDEFINED_TABLE)


CLOCK_TOLERANCE = dt.timedelta(seconds=5)
"""The clocks of the machines of one index agree within this; one that moves further against a steady clock was set."""


def utc_now() -> dt.datetime:
    """Return this machine's time as aware UTC."""
    return dt.datetime.now(dt.UTC)


_AFTER_COMMIT = "after_commit"


def after_commit(session: Session, name: str, act: Callable[[], None]) -> None:
    """Have something done once the session's transaction is committed; once, however often the name is given."""
    session.info.setdefault(_AFTER_COMMIT, {})[name] = act


class Database:
    """The index's engine. One per process; sessions are short and never cross a thread.

    clock: the time of `dicom_node.index.clock.database_time` for a database that has no clock of its own (SQLite: this
    machine's); None: the server's.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite and parsed.database and parsed.database != ":memory:":
            _make_folder(Path(parsed.database).parent)
        self.url = url
        # An error of SQLAlchemy's quotes the values of its statement otherwise, names of patients among them.
        try:
            self.engine: Engine = create_engine(parsed, hide_parameters=True, connect_args=_connect_arguments(parsed))
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "database.url: PostgreSQL needs the extra: pip install dicom-node[postgres]"
            ) from error
        # A look is one statement or several that need no common snapshot, so it needs no transaction of its own: on
        # PostgreSQL BEGIN and ROLLBACK are round trips, a third of the time of the prior look-up.
        self._look = {"sqlite_begin": "DEFERRED"} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        if self.is_sqlite:
            _prepare_sqlite(self.engine)
        else:
            _prepare_postgresql(self.engine)
        self.clock: Callable[[], dt.datetime] | None = utc_now if self.is_sqlite else None
        self._sessions = sessionmaker(self.engine, expire_on_commit=False, info={"database": self})

    @contextmanager
    def connection(self, *, begin: bool = False) -> Iterator[Connection]:
        """For the schema's own work; with `begin` in one transaction. Raises IndexUnavailableError."""
        with map_errors(), self.engine.begin() if begin else self.engine.connect() as connection:
            yield connection

    @contextmanager
    def raw_connection(self) -> Iterator[Any]:
        """The driver's own connection, for what has no SQL (notifications). Raises IndexUnavailableError.

        It is closed at the end and not given back to the pool: it is in a state that a session does not expect.
        """
        with map_errors(), self.engine.connect() as connection:
            connection.detach()
            raw: Any = connection.connection.dbapi_connection
            try:
                yield raw
            except self.engine.dialect.loaded_dbapi.Error as error:
                raw.close()
                connection.invalidate()  # or a rollback is tried on it, and fails with a traceback in the log
                raise IndexUnavailableError(f"the connection to the index was lost: {error}") from error

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that commits at the end or rolls back; on SQLite BEGIN IMMEDIATE, so no lock upgrade fails.

        Raises IndexUnavailableError where the database cannot be reached or stays locked, and its kind
        IndexConflictError where PostgreSQL undid the transaction because of another one: trying again may do.
        """
        with map_errors(), self._sessions.begin() as session:
            yield session
        for act in session.info.get(_AFTER_COMMIT, {}).values():
            act()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read-only look. On SQLite a plain deferred BEGIN, so that readers never wait for a writer (WAL).

        On PostgreSQL each statement sees what is committed when it begins, as it did in a READ COMMITTED transaction.
        """
        with map_errors(), self._sessions() as session:
            session.connection(execution_options=self._look)
            yield session
            # Closing rolls back. A rollback here would expire the rows, and a reader could not use them afterwards.

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IndexUnavailableError(f"the index's folder {folder} cannot be made: {error.strerror}") from error


def _connect_arguments(url: URL) -> dict[str, Any]:
    if url.get_backend_name() != "postgresql":
        return {}
    return {name: value for name, value in KEEPALIVE.items() if name not in url.query}


@contextmanager
def map_errors() -> Iterator[None]:
    """The one place that knows the database's errors.

    What a program's own mistake causes (a wrong statement, a value or key that does not fit) goes through as it is.
    Everything else is the database's trouble, whatever class the driver gives it: a read-only server is an
    InternalError of psycopg's, a server that shuts down an OperationalError, a full pool no driver error at all.
    """
    try:
        yield
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) in CONFLICTS:
            raise IndexConflictError(f"another transaction stood in the way: {error.orig}") from error
        raise IndexUnavailableError(f"the index does not answer: {error.orig}") from error
    except (DataError, IntegrityError, ProgrammingError) as error:
        if error.connection_invalidated or getattr(error.orig, "sqlstate", None) in MISSING:
            raise IndexUnavailableError(f"the index refuses: {error.orig}") from error
        raise
    except DBAPIError as error:
        if type(error) is DatabaseError:  # SQLite of a file that is none of its own, or damaged
            raise IndexUnavailableError(f"the index cannot be read: {error.orig}") from error
        raise IndexUnavailableError(f"the index does not work: {error.orig}") from error
    except PoolTimeoutError as error:
        raise IndexUnavailableError("the index is busy: no connection came free in time") from error


def _prepare_postgresql(engine: Engine) -> None:
    """A connection from the pool is looked at before it is used: the server may have gone in the meantime.

    What `pool_pre_ping` does with a round trip each time is done by a look at the socket: nobody talks on an idle
    connection, so one with something to read was closed. After PING_AFTER_SECONDS it is asked all the same, because a
    firewall that forgot it says nothing.
    """

    @event.listens_for(engine, "checkin")
    def _checkin(_connection: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _checkout(connection: Any, record: Any, _proxy: Any) -> None:
        used_at = record.info.get("used_at")
        if used_at is None:
            return  # just made
        if connection.closed or _has_news(connection.fileno()):
            raise DisconnectionError("the server closed this connection")
        if time.monotonic() - used_at > PING_AFTER_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise DisconnectionError("the server does not answer on this connection") from error


def _has_news(descriptor: int) -> bool:
    """Tell whether something lies unread on a socket, its end included. poll, because select knows no number above
    1023."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _fold_case(text: str | None) -> str | None:
    return None if text is None else text.lower()


def _prepare_sqlite(engine: Engine) -> None:
    """WAL, full synchronisation and explicit BEGIN.

    pysqlite's own transaction control begins late and upgrades a read lock to a write lock, which fails at once with
    "database is locked" whatever the busy timeout; hence isolation_level None and our own BEGIN.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        # For C-FIND: "any case" of person names means umlauts too, and SQLite's lower() folds ASCII only.
        connection.create_function("fold_case", 1, _fold_case, deterministic=True)
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        # FULL: a commit is on the disk before C-STORE is answered with Success.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        if connection.connection.dbapi_connection.in_transaction:
            return  # begun on the driver's own connection (`StandingConnection`)
        mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
        connection.exec_driver_sql(f"BEGIN {mode}")
