"""Progress of long commands on standard error, with the time left: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from dicom_node.admin.formats import span
from dicom_node.cli.common import errors
from dicom_node.cli.console import LineConsole

if TYPE_CHECKING:  # the bars take a tenth of a second to import, and only a terminal shows them
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

T = TypeVar("T")
FIRST_LINE_SECONDS = 1.0
"""A stage that ends sooner says nothing where no terminal is."""
LINE_SECONDS = 10.0
"""Between two lines of a stage where no terminal is."""


class Progress:
    """The stages of one command, each counted from 1 to its total.

    Parameters
    ----------
    console
        Shows bars or lines; standard error by default, so that standard output stays the command's result.
    clock
        Seconds from any origin.
    """

    def __init__(self, *, console: LineConsole | Console = errors, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._stages: dict[str, _StageBar] = {}

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()

    def pause(self) -> None:
        """Take the bars from the terminal, for a question to the user or at the end."""
        if self._bars is not None:
            self._bars.stop()

    def begin(self, what: str, total: int | None = None) -> None:
        """Name a stage before its first step is done."""
        if self._console.is_terminal:
            self._bar(what, total)
        else:
            self._stages.setdefault(what, _StageBar(self._clock()))

    def step(self, what: str, done: int, total: int | None) -> None:
        """Show how far a stage is; total: None or 0 where nobody knows it."""
        if self._console.is_terminal:
            bars, task = self._bar(what, total)
            bars.update(task, completed=done, total=total or None)
            return
        now = self._clock()
        stage = self._stages.setdefault(what, _StageBar(now))
        if stage.is_due(now, done=done, is_last=done == total):
            self._console.print(stage.line(what, done, total, now))

    def watch(self, what: str, items: Iterable[T], total: int | None = None) -> Iterator[T]:
        """Give the items on, and count each as done once the next is asked for."""
        self.begin(what, total)
        done = 0
        for done, item in enumerate(items, 1):
            yield item
            self.step(what, done, total)
        if done and done != total:
            self.step(what, done, done)

    def _bar(self, what: str, total: int | None) -> tuple[Bars, TaskID]:
        if self._bars is None:
            self._bars = _bars(self._console)
        self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total or None)
        return self._bars, self._tasks[what]


class _StageBar:
    """Times of one stage's lines."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.spoken: float | None = None

    def is_due(self, now: float, *, done: int, is_last: bool) -> bool:
        """Is it time for a line? The last step gets one where an earlier one did."""
        if is_last:
            due = self.spoken is not None or now - self.started >= FIRST_LINE_SECONDS
        elif self.spoken is None:
            due = done > 0 and now - self.started >= FIRST_LINE_SECONDS
        else:
            due = now - self.spoken >= LINE_SECONDS
        if due:
            self.spoken = now
        return due

    def line(self, what: str, done: int, total: int | None, now: float) -> str:
        """Such as "evaluating 3 of 200, 4 min left"."""
        spent = now - self.started
        if not total:
            return f"{what} {done}, {span(spent)} so far"
        if done >= total:
            return f"{what} {done} of {total}, done in {span(spent)}"
        return (
            f"{what} {done} of {total}, {span(spent / done * (total - done))} left" if done else f"{what} 0 of {total}"
        )


def _bars(console: LineConsole | Console) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(
        *columns, TimeRemainingColumn(), console=console.rich() if isinstance(console, LineConsole) else console
    )
