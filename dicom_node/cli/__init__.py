"""The command line: `dicom-node COMMAND`. Exit status 0 done, 1 failed, 2 wrong usage or configuration."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from typing import Annotated

import typer

from dicom_node.errors import ConfigurationError, NodeError, UsageError

AREAS = (
    "run",
    "daily",
    "quarantine",
    "doctor.command",
    "database",
    "import_folder",
    "priors",
    "report",
    "training.train",
    "training.train_run",
    "training.models",
    "training.drift",
    "training.retrain",
    "feedback",
)
"""Modules of this package that add their commands by `register(app)`."""

app = typer.Typer(
    name="dicom-node",
    help="Compares a chest radiograph with its prior and returns Structured Reports to the PACS.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dicom-node {metadata.version('dicom-node')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Compares a chest radiograph with its prior and returns Structured Reports to the PACS."""


def main() -> None:
    """Run the command line and map our own errors to exit statuses."""
    for area in AREAS:
        importlib.import_module(f"dicom_node.cli.{area}").register(app)
    try:
        app()
    except NodeError as error:
        if "--json" in sys.argv:
            from dicom_node.cli.common import print_error_as_json

            print_error_as_json(error)
        sys.stderr.write(f"dicom-node: {error}\n")
        sys.exit(2 if isinstance(error, ConfigurationError | UsageError) else 1)
    except OSError as error:  # a path without rights, a port that is taken, a disk that is full: no fault of ours
        where = f"{error.filename}: " if error.filename else ""
        if "--json" in sys.argv:
            from dicom_node.cli.common import print_error_as_json

            print_error_as_json(error)
        sys.stderr.write(f"dicom-node: {where}{error.strerror or error}\n")
        sys.exit(1)
