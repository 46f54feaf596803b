"""The schema's version: which one the database has, which one this program needs, and the way from one to the other."""

from __future__ import annotations

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from dicom_node.errors import IndexUnavailableError
from dicom_node.index.database import Database


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("migrations")))
    config.attributes["connection"] = connection
    return config


def needed_revision() -> str:
    """The revision that this program's tables are."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None, "the package ships without migrations"
    return head


def current_revision(database: Database) -> str | None:
    """The revision that the database has; None for an empty one."""
    with database.connection() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(database: Database) -> None:
    """Bring the database to the needed revision, in one transaction."""
    with database.connection(begin=True) as connection:
        command.upgrade(_config(connection), "head")


def require_current(database: Database) -> None:
    """Raises IndexUnavailableError naming the command to run where the database has another revision."""
    found, needed = current_revision(database), needed_revision()
    if found != needed:
        raise IndexUnavailableError(
            f"the index has schema {found or 'none'}, this program needs {needed}: run `dicom-node db upgrade`"
        )
