"""Group commit: registrations of several associations share one transaction, and so one fsync of the index.

There is no writer thread. Whoever comes while nobody writes becomes the leader and writes what has gathered; whoever
comes meanwhile waits, and one of those leads next. A single sender so pays nothing for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.errors import IndexConflictError, IndexUnavailableError, NodeError
from dicom_node.index.database import Database

MAX_BATCH: Final = 64
CONFLICT_TRIES: Final = 4
"""How often a piece of work is tried whose transaction PostgreSQL undid in favour of another one's."""
_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class _Item:
    """One piece of work and what became of it."""

    work: Callable[[Session], Any]
    turn: threading.Event = field(default_factory=threading.Event)
    """Set when the result is there, or when it is this item's thread's turn to lead."""
    is_done: bool = False
    result: Any = None
    succeeded: bool = False
    error: Exception = field(default_factory=lambda: IndexUnavailableError("the shared transaction ended in a defect"))


class IndexWriter:
    """Runs small pieces of work in shared transactions of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._guard = threading.Lock()
        self._waiting: list[_Item] = []
        self._has_leader = False

    def run(self, work: Callable[[Session], _T]) -> _T:
        """The result of `work(session)`, once it is committed. Raises what it raised, or IndexUnavailableError.

        `work` may be called twice, each time in a new transaction, and must then do the same again.
        """
        item = _Item(work)
        with self._guard:
            self._waiting.append(item)
            leads = not self._has_leader
            self._has_leader = True
        if not leads:
            item.turn.wait()
        if not item.is_done:
            self._lead()
        if not item.succeeded:
            raise item.error
        return cast(_T, item.result)

    def _lead(self) -> None:
        """Write one batch, which holds the leader's own item, and hand the lead on."""
        with self._guard:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        try:
            self._write(batch)
        finally:
            for item in batch:
                item.is_done = True
                item.turn.set()
            with self._guard:
                if self._waiting:
                    self._waiting[0].turn.set()
                else:
                    self._has_leader = False

    def _write(self, batch: list[_Item], *, tries: int = CONFLICT_TRIES) -> None:
        """Write a batch; on failure its items hold the error. What is a defect of ours goes through."""
        try:
            with self._database.write() as session:
                results = [item.work(session) for item in batch]
        except IndexConflictError as error:
            # Two processes took the same studies in another order. Alone each piece takes one study's lock only.
            for item in batch:
                item.error = error
            if tries > 1:
                for item in batch:
                    self._write([item], tries=tries - 1)
            return
        except IndexUnavailableError as error:
            for item in batch:
                item.error = error
            return
        except (NodeError, SQLAlchemyError) as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            # One failed and took the others' work with it: each gets a transaction of its own.
            for item in batch:
                self._write([item])
            return
        for item, result in zip(batch, results, strict=True):
            item.result, item.succeeded = result, True
