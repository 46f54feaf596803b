"""The command line: `dicom-node COMMAND`. Exit status 0 done, 1 failed, 2 wrong usage or configuration."""

from __future__ import annotations

import importlib
import sys

import typer

from dicom_node.errors import ConfigurationError, NodeError, UsageError

AREAS = (
    "run",
    "daily",
    "doctor",
    "database",
    "importing",
    "priors",
    "report",
    "train",
    "train_run",
    "models",
    "drift",
    "retrain",
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
