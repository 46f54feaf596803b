"""`dicom-node retrain`: learn from the site's own studies, compare, and promote what is better."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, open_node
from dicom_node.cli.progress import Progress
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
        bool, typer.Option("--dry-run", help="Show the data and the expected duration; change nothing.")
    ] = False,
    promote: Annotated[
        Promote | None, typer.Option(help=r"What to do with a better model; default: \[retrain] promote.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Train even if nothing is new.")] = False,
    estimate: Annotated[bool, typer.Option(help="Measure first how long it will take.")] = True,
    release: Annotated[
        str | None, typer.Option(metavar="SNAPSHOT", help="Only release a snapshot's studies to retention.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Retrain on the site's own studies with feedback; only a better model is promoted.

    An interrupted run continues. Exit status 0: done, even if the gate refused the model; 1: failed.
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


class _Speech(Progress):
    """Sentences of the run on standard output, its progress on standard error, its question on a terminal."""

    def __enter__(self) -> _Speech:
        return self

    def say(self, text: str) -> None:
        console.print(text)

    def progress(self, what: str, done: int, total: int) -> None:
        self.step(what, done, total)

    def confirm(self, question: str) -> bool | None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            return None
        self.pause()
        return typer.confirm(question)
