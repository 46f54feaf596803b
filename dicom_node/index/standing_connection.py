"""A connection that one writer keeps for all of its transactions.

To begin and end a transaction by pool and session costs SQLAlchemy five times as long as SQLite needs for the rows of a
received instance. A writer that writes all day keeps its connection, and talks to the driver for what every transaction
has; the session of each transaction stands by for statements that are not prepared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from dicom_node.index.database import Database, map_errors
from dicom_node.index.prepared import DRIVER_CONNECTION, run_on_driver


class StandingConnection:
    """The transactions of one writer, from any thread but one after the other.

    On PostgreSQL, where the round trips count and not the calls, each takes a connection of the pool as ever.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction, as `Database.write` makes one; it raises the same."""
        if not self._database.is_sqlite:
            with self._database.write() as session:
                yield session
            return
        with map_errors():
            connection = self._connection or self._database.engine.connect()
            self._connection = None  # until the transaction has ended well: a connection with one open is of no use
            try:
                yield from self._transaction(connection)
            except BaseException:
                connection.close()  # back to the pool, which undoes what was not committed
                raise
            self._connection = connection

    def close(self) -> None:
        """Give the connection back. A later transaction takes another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _transaction(self, connection: Connection) -> Iterator[Session]:
        raw: Any = connection.connection.dbapi_connection
        info = {"database": self._database, DRIVER_CONNECTION: raw}
        with Session(connection, expire_on_commit=False, info=info) as session:
            run_on_driver(raw, "BEGIN IMMEDIATE")
            yield session
            # A session that was used has joined the transaction, and may hold rows that it has not written yet.
            if session.in_transaction():
                session.commit()
            else:
                run_on_driver(raw, "COMMIT")
