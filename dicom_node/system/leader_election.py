"""Which of several machines leads: a session-level advisory lock of PostgreSQL, which dies with its connection."""

from __future__ import annotations

import threading

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from dicom_node.context import NodeContext
from dicom_node.logs import get_logger

log = get_logger(__name__)

ADVISORY_LOCK = 0x4C554D45
"""Of the leading sweeper on PostgreSQL."""


class Leadership:
    """Whether this process leads. On SQLite there is only one."""

    def __init__(self, node: NodeContext, lock: int = ADVISORY_LOCK) -> None:
        self._database = node.database
        self._lock = lock
        self._connection: Connection | None = None
        self._one_at_a_time = threading.Lock()
        """Ticks ask from several threads, and a connection is for one."""

    def held(self) -> bool:
        """Take or keep the lead; False where another one has it or the index is away."""
        if self._database.is_sqlite:
            return True
        with self._one_at_a_time:
            try:
                return self._take_or_keep()
            except DBAPIError:
                self._let_go()
                return False

    def _take_or_keep(self) -> bool:
        if self._connection is None:
            connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            if not connection.scalar(select(text(f"pg_try_advisory_lock({self._lock})"))):
                connection.close()
                return False
            self._connection = connection
            log.info("led from here", lock=self._lock)
        self._connection.execute(text("SELECT 1"))
        return True

    def give_up(self) -> None:
        """Let another one lead: the lock ends with its connection, so that goes for good, not back into the pool."""
        with self._one_at_a_time:
            self._let_go()

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None
