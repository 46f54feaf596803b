"""Batching without a thread of its own: the caller that finds nobody at work does the work of all that gather.

A caller that comes while nothing runs becomes the leader and processes its own item at once, so a lone caller pays
nothing. Callers that come meanwhile wait; when the leader is done, the first of them leads the next batch. A batch
therefore grows with the load, and never waits for company. Used by the group commit of the receiver and by the
batched inference of the worker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")

MAX_PATIENCE_SECONDS: Final = 0.02


@dataclass(slots=True, eq=False)
class _Place(Generic[_T]):
    """An item's place in the queue."""

    item: _T
    turn: threading.Event = field(default_factory=threading.Event)
    """Set when the item was processed, or when its caller has to lead."""
    is_processed: bool = False


class LeaderBatch(Generic[_T]):
    """Hands items of many threads to `process` in batches, never two batches at once.

    Parameters
    ----------
    process
        Does the work of a batch and writes each outcome into its item. It should not raise: an exception goes to the
        leading caller alone, and the other items of the batch return as `process` left them, so an item's initial
        state must read as a failure.
    max_items
        The largest batch.
    """

    def __init__(self, process: Callable[[list[_T]], None], *, max_items: int) -> None:
        self._process = process
        self._max_items = max_items
        self._guard = threading.Lock()  # of all below; never held while a batch is processed
        self._arrived = threading.Condition(self._guard)
        self._waiting: list[_Place[_T]] = []
        self._coming: set[int] = set()
        """Threads that have announced an item."""
        self._patience = 0.0
        self._has_leader = False

    def submit(self, item: _T) -> None:
        """Return when `item` has been part of a processed batch."""
        entry = _Place(item)
        with self._guard:
            self._waiting.append(entry)
            self._arrive()
            is_leader = not self._has_leader
            self._has_leader = True
        if not is_leader:
            entry.turn.wait()
        # The leader is always the first in the queue, so its own item is in the batch that it processes.
        if not entry.is_processed:
            self._lead()

    @property
    def waiting(self) -> int:
        """The number of items that wait for their batch."""
        with self._guard:
            return len(self._waiting)

    @contextmanager
    def announced(self) -> Iterator[None]:
        """Say that this thread submits an item soon: a leader waits for it, for no longer than its last batch took."""
        with self._guard:
            self._coming.add(threading.get_ident())
        try:
            yield
        finally:
            with self._guard:
                self._arrive()

    def _arrive(self) -> None:
        """Take this thread's announcement back. Called with the guard held."""
        if self._coming:
            self._coming.discard(threading.get_ident())
            if not self._coming:
                self._arrived.notify_all()

    def _lead(self) -> None:
        with self._guard:
            # Two batches take longer than one of both: whoever comes within the time of one is worth the wait.
            self._arrived.wait_for(lambda: not self._coming, self._patience)
            batch, self._waiting = self._waiting[: self._max_items], self._waiting[self._max_items :]
        began = time.monotonic()
        try:
            self._process([entry.item for entry in batch])
        finally:  # also after a defect: a caller left waiting would wait for ever
            self._patience = min(MAX_PATIENCE_SECONDS, time.monotonic() - began)
            for entry in batch:
                entry.is_processed = True
                entry.turn.set()
            self._hand_on()

    def _hand_on(self) -> None:
        with self._guard:
            successor = self._waiting[0] if self._waiting else None
            # It stays true across the hand-over, so a caller that comes before the successor wakes cannot lead beside
            # it.
            self._has_leader = successor is not None
        if successor is not None:
            successor.turn.set()
