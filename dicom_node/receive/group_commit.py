"""Group commit: registrations of several associations share one transaction, and so one fsync of the index.

There is no writer thread: `dicom_node.system.leader_batch` lets one of the waiting associations write for all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.errors import IndexConflictError, IndexUnavailableError, NodeError
from dicom_node.index.database import Database
from dicom_node.index.standing_connection import StandingConnection
from dicom_node.system.leader_batch import LeaderBatch

MAX_BATCH: Final = 64
CONFLICT_TRIES: Final = 4
"""The number of tries for a piece of work whose transaction PostgreSQL undid in favour of another one's."""
_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class _Item:
    """One piece of work and what became of it."""

    work: Callable[[Session], Any]
    result: Any = None
    succeeded: bool = False
    error: Exception = field(default_factory=lambda: IndexUnavailableError("the shared transaction ended in a defect"))


class IndexWriter:
    """Runs small pieces of work in shared transactions of one database."""

    def __init__(self, database: Database) -> None:
        self._connection = StandingConnection(database)
        self._batches: LeaderBatch[_Item] = LeaderBatch(self._write, max_items=MAX_BATCH)

    def run(self, work: Callable[[Session], _T]) -> _T:
        """The result of `work(session)`, once it is committed. Raises what it raised, or IndexUnavailableError.

        `work` may be called twice, each time in a new transaction, and must then do the same again.
        """
        item = _Item(work)
        self._batches.submit(item)
        if not item.succeeded:
            raise item.error
        return cast(_T, item.result)

    def expecting(self) -> AbstractContextManager[None]:
        """For a block in which the caller's work is about to come, so that a commit that begins then takes it along."""
        return self._batches.announced()

    def close(self) -> None:
        """Give the index's connection back, after the last piece of work."""
        self._connection.close()

    def _write(self, batch: list[_Item], *, tries: int = CONFLICT_TRIES) -> None:
        """Write a batch; on failure its items hold the error. What is a defect of ours goes through."""
        try:
            with self._connection.write() as session:
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
        # Not before the transaction's end: a caller that is told earlier would answer Success for a row that a failed
        # commit takes back.
        for item, result in zip(batch, results, strict=True):
            item.result, item.succeeded = result, True
