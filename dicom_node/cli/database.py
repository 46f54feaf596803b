"""`dicom-node db`: the schema of the index."""

from __future__ import annotations

import typer

from dicom_node.cli.common import ConfigOption, console, settings_from
from dicom_node.index import schema
from dicom_node.index.database import Database


def upgrade(config: ConfigOption = None) -> None:
    """Bring the index to the schema of this program."""
    database = Database(settings_from(config).database.url)
    try:
        before = schema.current_revision(database)
        schema.upgrade(database)
        console.print(f"schema {before or 'none'} -> {schema.current_revision(database)}")
    finally:
        database.close()


def check(config: ConfigOption = None) -> None:
    """Exit 0 if the index has the schema of this program, else 1 with the command to run."""
    database = Database(settings_from(config).database.url)
    try:
        schema.require_current(database)
        console.print(f"schema {schema.head_revision()}: as needed")
    finally:
        database.close()


def register(app: typer.Typer) -> None:
    """Add `db upgrade` and `db check`."""
    group = typer.Typer(help="Show or upgrade the schema of the index.", no_args_is_help=True)
    group.command()(upgrade)
    group.command()(check)
    app.add_typer(group, name="db")
