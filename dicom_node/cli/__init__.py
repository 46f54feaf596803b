"""The command line: `dicom-node COMMAND`. Exit status 0 done, 1 failed, 2 wrong usage or configuration.

A command's module is imported when the command is called, and what is heavy only inside the function that needs it:
`--version` and `--help` answer at once, and no command waits for a library that another one uses.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any, Final

import typer
from typer import core as typer_core
from typer.main import get_command

from dicom_node.errors import ConfigurationError, NodeError, UsageError
from dicom_node.system.collection import hold_collection, resume_collection

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "init": ("run", "Write a commented configuration file with the defaults."),
    "serve": ("run", "Run the node until SIGTERM."),
    "demo": ("run", "Run a node and a receiving PACS on loopback, send a prior and a current study, print the report."),
    "analyze": ("run", "Analyse files without a network: the same rules, model and documents as on the node."),
    "predict": (
        "predict",
        "Run the model over many studies without a network; the rows hold what the node would report.",
    ),
    "status": (
        "daily.status",
        "Show studies, jobs, deliveries and free disk space. Exit 1 if something needs attention.",
    ),
    "studies": ("daily.lists", "List the studies that were sent to the node, newest first."),
    "jobs": ("daily.lists", "List the jobs that are not done, failed ones first."),
    "retry": ("daily.actions", "Try failed jobs again."),
    "abandon": ("daily.actions", "Give up failed deliveries, for example to a destination that no longer exists."),
    "reprocess": ("daily.actions", "Analyse a study again; the new result replaces the old one and is sent."),
    "resend": ("daily.actions", "Send the current documents of a study again."),
    "purge": ("daily.actions", "Show what retention would remove now; with --yes remove it."),
    "quarantine": ("quarantine", "List quarantined objects, which need a decision; with --settle mark one as settled."),
    "echo": ("doctor.command", "Send a C-ECHO to a destination and show which services it accepts."),
    "doctor": ("doctor.command", "Check for the usual mistakes of an installation. Exit 1 if a check fails."),
    "web-password": ("doctor.command", "Ask for a password and print its hash for a web.users table."),
    "import": (
        "import_folder",
        "Import a folder of DICOM files as priors or, with --analyse, as studies to be analysed.",
    ),
    "backfill": ("backfill", "Analyse an archive's past studies as bulk work."),
    "backup": ("backup", "Copy new or changed index, instances, documents and models while the node runs."),
    "restore": (
        "backup",
        "Restore a backup; the node must be stopped. Existing files stay, an existing index is set aside.",
    ),
    "evaluate": ("training.train", "Evaluate a checkpoint on a data set; writes an HTML page and a JSON file."),
    "drift": (
        "training.drift",
        "Check the weeks that have ended for drift and show the newest. Exit 1 if one of its figures raises an alarm.",
    ),
    "retrain": (
        "training.retrain",
        "Retrain on the site's own studies with feedback; only a better model is promoted.",
    ),
    "config": ("configuration", "Check the configuration file."),
    "audit": ("audit", "Show who did what to whose data."),
    "store": ("store", "Move instances and documents into an object store."),
    "db": ("database", "Show or upgrade the schema of the index."),
    "priors": ("priors", "Show which earlier image a study is compared with, and why."),
    "report": ("report", "Show Structured Reports."),
    "train": (
        "training.train_run",
        "Make a checkpoint from data sets: preview, prepare, train, finish (docs/training.md).",
    ),
    "models": ("training.models", "List, promote, roll back and calibrate checkpoints."),
    "ask": ("ask", "Answer a question about one study from its current result, or say why it cannot be answered."),
    "feedback": ("feedback", "Import and summarise what radiologists say about the node's results."),
}
"""Module of this package that adds the command by `register(app)`, and its line in the help, which a test compares with
the command's own."""


class _CommandsByName(typer_core.TyperGroup):
    """Imports the module of the one command that was called."""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        # Typer looks here for a name that is near to one it does not know.
        self.commands.update({name: typer_core.TyperCommand(name, help=line) for name, (_, line) in COMMANDS.items()})

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command with nothing but its help line, which is all that a list of commands shows."""
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name is None or command is None:
            return name, command, rest
        if name == "serve" and "--help" not in rest:
            # The children's libraries are imported by their own process while this one imports the command's.
            from dicom_node.runtime.fork_server import start_fork_server

            start_fork_server()
        command = load_command(name)
        resume_collection()
        return name, command, rest


def load_command(name: str) -> Any:
    """The whole command, its module imported."""
    single = typer.Typer()
    single.callback()(_no_options)
    importlib.import_module(f"dicom_node.cli.{COMMANDS[name][0]}").register(single)
    group = get_command(single)
    return group.commands[name]  # type: ignore[attr-defined]  # a Typer app with one callback is a group


def _no_options() -> None:
    """Make a group of an application with a single command."""


app = typer.Typer(
    name="dicom-node",
    cls=_CommandsByName,
    help="Compares a chest radiograph with its prior and returns Structured Reports to the PACS.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(f"dicom-node {metadata.version('dicom-node')}")
        raise typer.Exit


@app.callback()
def _take_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Compares a chest radiograph with its prior and returns Structured Reports to the PACS."""


def main() -> None:
    """Run the command line and map errors to exit statuses."""
    hold_collection()  # until the command is loaded
    _let_waiting_threads_sleep()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it would read what every installed package registers
    try:
        app()
    except NodeError as error:
        _print_as_json_if_asked(error)
        sys.stderr.write(f"dicom-node: {error}\n")
        sys.exit(2 if isinstance(error, ConfigurationError | UsageError) else 1)
    except (
        OSError
    ) as error:  # a path without rights, a port that is taken, a disk that is full: not a fault of the code
        _print_as_json_if_asked(error)
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"dicom-node: {where}{error.strerror or error}\n")
        sys.exit(1)


def _let_waiting_threads_sleep() -> None:
    """Set what OpenMP (torch) and OpenBLAS (numpy) read when they are loaded, here or in a child.

    By default their threads spin while they wait for each other, which took two to three times the CPU of the model's
    own work where other work ran beside it. numpy's matrices are too small here to share out. What the environment
    says already stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _print_as_json_if_asked(error: Exception) -> None:
    if "--json" in sys.argv:
        from dicom_node.cli.common import print_error_as_json

        print_error_as_json(error)
