"""The database's clock: the only one that all machines of a node share.

Machines' own clocks differ by minutes where nobody looks after them, so a lease that one machine writes and another one
judges must be written and judged by the same clock. The job queue lets the database compute its times
(`database_time`); the rest of a node on PostgreSQL reads `DatabaseClock`, which follows the server's clock.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable

from sqlalchemy import ColumnElement, DateTime, Interval, func, literal, select, type_coerce
from sqlalchemy.orm import Session

from dicom_node.errors import IndexUnavailableError
from dicom_node.index.database import Database, utc_now
from dicom_node.index.tables.base import UtcDateTime
from dicom_node.logs import get_logger

log = get_logger(__name__)

REFRESH_SECONDS = 60.0
"""The time for which an offset is used: two quartz clocks part by less than 10 ms in this time."""
RETRY_SECONDS = 5.0
"""The wait before a database that did not answer is asked again."""
SKEW_WORTH_A_WARNING_SECONDS = 5.0


def database_time(session: Session, after: dt.timedelta = dt.timedelta(0)) -> ColumnElement[dt.datetime]:
    """Build the SQL expression of the database's present time plus `after`.

    PostgreSQL computes it when the statement begins (`statement_timestamp`, which is STABLE: an index on the column
    that it is compared with is used; `clock_timestamp` is VOLATILE and would scan the table). SQLite has no clock of
    its own and lives on one machine: there it is the machine's time.
    """
    clock = given_clock(session)
    return server_time(after) if clock is None else literal(clock() + after, UtcDateTime())


def given_clock(session: Session) -> Callable[[], dt.datetime] | None:
    """Return the clock that stands in for a database without one of its own; None: the server's time is asked for."""
    database: Database | None = session.info.get("database")
    return utc_now if database is None else database.clock


def server_time(after: dt.timedelta = dt.timedelta(0)) -> ColumnElement[dt.datetime]:
    """Build `database_time` for PostgreSQL: it stays true in a statement that is built once."""
    moment: ColumnElement[dt.datetime] = func.statement_timestamp(type_=DateTime(timezone=True))
    if after:
        moment = moment + literal(after, Interval())
    return type_coerce(moment, UtcDateTime())


class DatabaseClock:
    """A clock that follows the PostgreSQL server's: its time is asked for once a minute and kept by the steady clock.

    A step of this machine's own clock does not touch it. While the database cannot be asked, the last offset is used,
    and before the first answer this machine's clock.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._guard = threading.Lock()
        self._base = utc_now()
        self._base_at = time.monotonic()
        self._ask_again_at = 0.0

    def __call__(self) -> dt.datetime:
        """Return the time as aware UTC."""
        with self._guard:
            if time.monotonic() >= self._ask_again_at:
                self._ask()
            return self._base + dt.timedelta(seconds=time.monotonic() - self._base_at)

    def _ask(self) -> None:
        try:
            with self._database.read() as session:
                asked_at = time.monotonic()
                server = session.execute(select(database_time(session))).scalar_one()
                answered_at = time.monotonic()
        except IndexUnavailableError:
            self._ask_again_at = time.monotonic() + RETRY_SECONDS
            return
        # The server read its clock somewhere between question and answer; half the round trip is the best guess.
        self._base, self._base_at = server, (asked_at + answered_at) / 2
        self._ask_again_at = answered_at + REFRESH_SECONDS
        skew = (utc_now() - server).total_seconds()
        if abs(skew) > SKEW_WORTH_A_WARNING_SECONDS:
            log.warning("this machine's clock differs from the database's", seconds=round(skew, 1))


def clock_of(database: Database) -> Callable[[], dt.datetime]:
    """Return the clock that a node on this index goes by."""
    return utc_now if database.is_sqlite else DatabaseClock(database)
