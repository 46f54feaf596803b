"""Election of a leader among machines: a session-level advisory lock of PostgreSQL, which dies with its connection.

A leader that hangs must lose the lead: a stopped process, a frozen virtual machine and a cut cable leave the TCP
connection open, and its lock with it, for hours. Three things end it. The server closes the leader's session when it
has been silent for SILENCE_SECONDS (`idle_session_timeout`, PostgreSQL 14 and later), and a thread here speaks more
often than that. The thread itself falls silent when no tick has asked for the lead for TICKLESS_SECONDS, so that a
scheduler that hangs in a living process loses it too. And the keepalives of the connection (`KEEPALIVE` in
`dicom_node.index.database`) make a leader that is cut off notice that it no longer leads.
"""

from __future__ import annotations

import threading
import time

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from dicom_node.context import NodeContext
from dicom_node.logs import get_logger

log = get_logger(__name__)

ADVISORY_LOCK = 0x4C554D45
"""Of the leading sweeper on PostgreSQL."""
SILENCE_SECONDS = 8
"""The server ends a leader's session that says nothing for so long."""
SPEAK_SECONDS = 2.0
TICKLESS_SECONDS = 15.0
"""The ticks ask every second; a scheduler that has not for so long hangs."""
_KEEPALIVE = ("tcp_keepalives_idle = 5", "tcp_keepalives_interval = 2", "tcp_keepalives_count = 3")
"""On the server's side of the connection, for a cable that is cut while the server waits for a statement's answer."""


class Leadership:
    """The leadership of this process. On SQLite there is only one."""

    def __init__(self, node: NodeContext, lock: int = ADVISORY_LOCK) -> None:
        self._database = node.database
        self._lock = lock
        self._connection: Connection | None = None
        self._one_at_a_time = threading.Lock()
        """Ticks ask from several threads, and a connection is for one."""
        self._asked_at = 0.0
        self._keeper: threading.Thread | None = None
        self._ended = threading.Event()

    def take_or_keep(self) -> bool:
        """Take or keep the lead; False where another one has it or the index is away."""
        if self._database.is_sqlite:
            return True
        self._asked_at = time.monotonic()
        with self._one_at_a_time:
            if self._connection is None:
                return self._take()
            return self._speak(self._connection)

    def give_up(self) -> None:
        """Let another one lead: the lock ends with its connection, so that goes for good, not back into the pool."""
        self._ended.set()
        with self._one_at_a_time:
            self._let_go()

    def _take(self) -> bool:
        try:
            # PostgreSQL ends an idle session only outside a transaction (idle_session_timeout): with one left open, a
            # leader that hangs would keep the lead.
            connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        except DBAPIError:
            return False
        try:
            if not connection.scalar(select(text(f"pg_try_advisory_lock({self._lock})"))):
                connection.close()
                return False
            for setting in (f"idle_session_timeout = '{SILENCE_SECONDS}s'", *_KEEPALIVE):
                connection.exec_driver_sql(f"SET {setting}")
        except DBAPIError as error:
            log.error("the lead could not be taken", error=str(error.orig))
            # The lock may be held already: the session ends here and does not go back into the pool with it.
            connection.invalidate()
            connection.close()
            return False
        self._connection = connection
        self._ended.clear()
        self._keeper = threading.Thread(target=self._keep, args=(connection,), name="leader", daemon=True)
        self._keeper.start()
        log.info("led from here", lock=self._lock)
        return True

    def _keep(self, connection: Connection) -> None:
        """Speak on the connection until it is gone, given up, or the ticks have stopped to ask."""
        while not self._ended.wait(SPEAK_SECONDS):
            with self._one_at_a_time:
                # The lead was lost and taken again, and the new connection has a keeper of its own.
                if self._connection is not connection:
                    return
                silent = time.monotonic() - self._asked_at
                if silent > TICKLESS_SECONDS:
                    log.error("the lead is given up: no tick has asked for it", seconds=round(silent))
                    self._let_go()
                    return
                if not self._speak(connection):
                    return

    def _speak(self, connection: Connection) -> bool:
        """Say something, so that the server keeps the session; False where the lead was lost with it."""
        try:
            connection.exec_driver_sql("SELECT 1")
        except DBAPIError as error:
            log.warning("the lead was lost with its connection", error=str(error.orig))
            self._let_go()
            return False
        return True

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None
