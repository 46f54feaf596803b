"""A look at whether anything was committed, which costs a hundredth of a look at the rows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from dicom_node.errors import IndexUnavailableError
from dicom_node.index.database import Database


def read_commit_counter(cursor: Any) -> int:
    """Read SQLite's counter of the commits of connections other than the cursor's own. Takes no lock."""
    version: int = cursor.execute("PRAGMA data_version").fetchone()[0]
    return version


class CommitWatch:
    """Skips a look at the index while nothing was committed since that look found nothing.

    For looks whose answer depends on the rows alone and not on the time. SQLite counts the commits of other connections
    (`PRAGMA data_version`), and this one's own connection makes none. PostgreSQL counts none: each look is made there.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._guard = threading.Lock()
        self._open = ExitStack()
        self._cursor: Any = None
        self._nothing_at: int | None = None

    def look(self, finds_something: Callable[[], bool]) -> bool:
        """Return the answer of `finds_something`; False without asking where it cannot have changed from that.

        Raises
        ------
        IndexUnavailableError
            The index does not answer.
        """
        with self._guard:
            version = self._version()
            if version is not None and version == self._nothing_at:
                return False
            self._nothing_at = None
            # The version is older than the look: a commit in between is seen at the next one.
            has_news = finds_something()
            self._nothing_at = None if has_news else version
            return has_news

    def close(self) -> None:
        """Give the connection back; the next look opens another one."""
        with self._guard:
            self._forget()

    def _forget(self) -> None:
        self._cursor = None
        self._nothing_at = None
        self._open.close()

    def _version(self) -> int | None:
        if not self._database.is_sqlite:
            return None
        try:
            if self._cursor is None:
                connection = self._open.enter_context(self._database.raw_connection())
                self._cursor = connection.cursor()
            return read_commit_counter(self._cursor)
        except (IndexUnavailableError, self._database.engine.dialect.loaded_dbapi.Error) as error:
            self._forget()
            raise IndexUnavailableError(f"the index does not answer: {error}") from error
