"""`dicom-node retrain`: learn from the site's own studies, compare, and promote what is better."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dicom_node.cli.common import ConfigOption, console, errors, open_node
from dicom_node.index.tables.retrain import Promote
from dicom_node.system.child_process import stop_on_signals


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("retrain")(retrain_command)


def retrain_command(
    recipe: Annotated[
        Path | None, typer.Option(help=r"Training recipe; default: that of \[retrain] in the configuration.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what there is and how long it will take; change nothing.")
    ] = False,
    promote: Annotated[
        Promote | None, typer.Option(help=r"What becomes of a better model; default: \[retrain] promote.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Train although nothing is new.")] = False,
    estimate: Annotated[bool, typer.Option(help="Measure first how long it will take.")] = True,
    release: Annotated[
        str | None, typer.Option(metavar="SNAPSHOT", help="Only let retention have a snapshot's studies again.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Retrain on the site's own studies with feedback; only a better model is promoted.

    A run that was interrupted goes on. Exit status 0: done, also where the gate refused; 1: could not be done.
    """
    from dicom_node.retrain.run import RetrainOptions, release_snapshot, run_retrain

    if release is not None:
        with open_node(config) as node:
            console.print(f"{release_snapshot(node, release)} studies are no longer held")
        return
    options = RetrainOptions(
        who=_user(), recipe=recipe, promote=promote, dry_run=dry_run, again=again, estimate=estimate
    )
    with open_node(config) as node, _Speech() as talk:
        stop_on_signals(node.stop)
        outcome = run_retrain(node, options, talk)
        talk.say(f"retraining: {outcome.value}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"


class _Speech:
    """Lines and a bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=errors, disable=not errors.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}

    def __enter__(self) -> _Speech:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        console.print(text)

    def progress(self, what: str, done: int, total: int) -> None:
        """A bar for each stage; elsewhere a line at its begin, at each tenth and at its end."""
        if errors.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total or None)
            self._bar.update(self._tasks[what], completed=done, total=total or None)
            return
        tenth = 10 * done // total if total else 0
        if self._tenths.get(what) != tenth:
            self._tenths[what] = tenth
            console.print(f"{what} {done} of {total}" if total else what)

    def confirm(self, question: str) -> bool | None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            return None
        self._bar.stop()
        return typer.confirm(question)
