"""Work mapped over processes of this machine. One that dies or hangs costs the item that did it, and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

from dicom_node.bulk.work import Batch, BulkError, Work
from dicom_node.logs import get_logger
from dicom_node.system.child_process import end_with_parent

log = get_logger(__name__)

START_SECONDS: Final = 1800.0
"""Reading 16 GB of weights from a slow disk takes minutes."""
MAX_DEATHS: Final = 10
"""One after another without an answer between them: then it is not the items' fault."""
_OPEN: Final = "open"
_ITEMS: Final = "items"
_READY: Final = "ready"
_DONE: Final = "done"
_FAILED: Final = "failed"

_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A batch, or one item of a batch at which a process died. position: of its first item in the batch."""

    batch: Batch[Any]
    position: int = 0
    is_single: bool = False

    @property
    def items(self) -> tuple[Any, ...]:
        return (self.batch.items[self.position],) if self.is_single else self.batch.items


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    """A process, this end of its pipe, and what it does now. deadline: by the monotonic clock."""

    process: BaseProcess
    pipe: Connection
    deadline: float
    work: Work[Any, Any, Any] | None = None
    task: _Task | None = None
    is_ready: bool = False

    def open(self, work: Work[Any, Any, Any]) -> None:
        """Let the process make what reads and answers for this work."""
        self.work, self.is_ready = work, False
        self.deadline = time.monotonic() + START_SECONDS
        self._send((_OPEN, work))

    def give(self, task: _Task, deadline: float) -> None:
        """Let the process work on a task."""
        self.task, self.deadline = task, deadline
        self._send((_ITEMS, task.items))

    def _send(self, message: tuple[str, Any]) -> None:
        with suppress(OSError):  # it has just died: the wait for its answer will tell
            self.pipe.send(message)

    def end(self) -> int | None:
        """Kill the process; return the status that it ended with by itself, None where it had not."""
        self.process.join(0.5 if self.pipe.closed else 0.0)
        status = self.process.exitcode
        if status is None:
            self.process.kill()
            self.process.join()
        self.pipe.close()
        return status


@dataclass(slots=True, kw_only=True, eq=False)
class ProcessMapper:
    """Maps work over `count` processes, each of which reads and answers; they live until `close` or an error.

    item_seconds: an item that takes longer is lost.
    """

    count: int
    item_seconds: float
    _workers: list[_Worker] = field(default_factory=list)
    _tasks: deque[_Task] = field(default_factory=deque)
    _parts: dict[int, dict[int, list[Any]]] = field(default_factory=dict)
    _deaths: int = 0

    def map(self, work: Work[Any, Any, Any], batches: Iterable[Batch[Any]]) -> Iterator[tuple[int, list[Any]]]:
        """Yield the number and the outcomes of each batch, in any order. Raises BulkError."""
        self._tasks.extend(_Task(batch=batch) for batch in batches)
        is_done = False
        try:
            while self._tasks or any(worker.task is not None for worker in self._workers):
                self._hand_out(work)
                yield from self._collect(work)
            is_done = True
        finally:
            if not is_done:
                self.close()
            self._tasks.clear()
            self._parts.clear()

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def _hand_out(self, work: Work[Any, Any, Any]) -> None:
        """Give every idle process a task, and start processes while there are more tasks than they take."""
        for worker in self._workers:
            if worker.work is not work:
                worker.open(work)
            elif worker.is_ready and worker.task is None and self._tasks:
                task = self._tasks.popleft()
                worker.give(task, time.monotonic() + self.item_seconds * len(task.items))
        # Those that are starting will take a task each: no more are started than there are tasks beyond those.
        starting = sum(not worker.is_ready for worker in self._workers)
        for _ in range(min(self.count - len(self._workers), len(self._tasks) - starting)):
            worker = _start_worker()
            worker.open(work)
            self._workers.append(worker)

    def _collect(self, work: Work[Any, Any, Any]) -> Iterator[tuple[int, list[Any]]]:
        """Wait for the next message, death or end of time, and deal with it."""
        first = min(worker.deadline for worker in self._workers)
        heard = wait([worker.pipe for worker in self._workers], timeout=max(0.0, first - time.monotonic()))
        for worker in [worker for worker in self._workers if worker.pipe in heard]:
            try:
                kind, value = worker.pipe.recv()
            except (EOFError, OSError):
                yield from self._bury(worker, work, is_late=False)
                continue
            if kind == _FAILED:
                raise BulkError(str(value))
            worker.deadline = time.monotonic() + START_SECONDS
            if kind == _READY:
                worker.is_ready = True
                continue
            self._deaths = 0
            task, worker.task = worker.task, None
            assert task is not None
            yield from self._finish(task, value)
        now = time.monotonic()
        for worker in [each for each in self._workers if each.pipe not in heard and each.deadline <= now]:
            if worker.task is None and worker.is_ready:
                worker.deadline = now + START_SECONDS  # idle: nothing is due
                continue
            yield from self._bury(worker, work, is_late=True)

    def _finish(self, task: _Task, outcomes: list[Any]) -> Iterator[tuple[int, list[Any]]]:
        """Give out a batch once all its items are answered."""
        if not task.is_single:
            yield task.batch.number, outcomes
            return
        parts = self._parts.setdefault(task.batch.number, {})
        parts[task.position] = outcomes
        if len(parts) == len(task.batch.items):
            del self._parts[task.batch.number]
            yield task.batch.number, [outcome for position in sorted(parts) for outcome in parts[position]]

    def _bury(self, worker: _Worker, work: Work[Any, Any, Any], *, is_late: bool) -> Iterator[tuple[int, list[Any]]]:
        """Put an end to a process; its batch is tried item by item, and an item that killed it alone is lost."""
        self._workers.remove(worker)
        worker.process.join(0.0 if is_late else 5.0)
        status, task = worker.end(), worker.task
        why = (
            f"it took longer than {self.item_seconds:.0f} s"
            if is_late
            else f"the process died of it ({_words(status)})"
        )
        self._deaths += 1
        # It died before it had any task: the work itself cannot be opened, and the next process would die of the same.
        if task is None:
            raise BulkError(f"a process ended while it started ({_words(status)}); its last words stand above")
        if self._deaths > MAX_DEATHS:
            raise BulkError(f"{self._deaths} processes ended one after another, the last because {why}")
        log.warning("a process of a long job ended", items=len(task.items), status=status, is_late=is_late)
        # Alone with the process that died: this item it was.
        if len(task.items) == 1:
            yield from self._finish(task, work.lost(task.items[0], why))
            return
        # Any item of the batch may be the one: each is tried alone, at the front of the queue and in order, so that the
        # others are saved and results stay close to their position.
        singles = (
            _Task(batch=task.batch, position=position, is_single=True) for position in range(len(task.batch.items))
        )
        self._tasks.extendleft(reversed(list(singles)))


def _words(status: int | None) -> str:
    if status is None:
        return "stopped"
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _start_worker() -> _Worker:
    pipe, child_end = _spawn.Pipe()
    process = _spawn.Process(target=_serve, args=(child_end, os.getpid()), name="bulk", daemon=True)
    process.start()
    child_end.close()
    return _Worker(process=process, pipe=pipe, deadline=time.monotonic() + START_SECONDS)


def _serve(pipe: Connection, parent_pid: int) -> None:
    """The life of a process: open both halves of a work, then read and answer its batches, until the pipe closes."""
    end_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    read: Any = None
    answer: Any = None
    reply: tuple[str, Any]
    while True:
        try:
            kind, value = pipe.recv()
        except EOFError:
            return
        try:
            if kind == _OPEN:
                read, answer = value.open_reader(), value.open_answerer()
                reply = (_READY, None)
            else:
                reply = (_DONE, answer(read(value)))
        except BulkError as error:
            reply = (_FAILED, str(error))
        pipe.send(reply)
