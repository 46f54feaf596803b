"""The schema's version: which one the database has, which one this program needs, and the way from one to the other."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from dicom_node.errors import IndexUnavailableError
from dicom_node.index.database import Database

if TYPE_CHECKING:  # alembic takes half a second to import, and most commands find nothing to upgrade
    from alembic.config import Config


def head_revision() -> str:
    """The revision that this program's tables are."""
    files = resources.files("migrations").joinpath("versions").iterdir()
    # Revisions are numbered with leading zeros, so the largest text is the newest.
    return max(revision for file in files if (revision := file.name.partition("_")[0]).isdecimal())


def current_revision(database: Database) -> str | None:
    """The revision that the database has; None for an empty one."""
    with database.connection() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return revision


def upgrade(database: Database) -> None:
    """Bring the database to the needed revision, in one transaction. Does nothing where it has that revision."""
    if current_revision(database) == head_revision():
        return
    from alembic import command

    with database.connection(begin=True) as connection:
        command.upgrade(migration_config(connection), "head")


def migration_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration of the migrations in this package."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(resources.files("migrations")))
    config.attributes["connection"] = connection
    return config


def require_current(database: Database) -> None:
    """Raise IndexUnavailableError naming the command to run where the database has another revision."""
    current, needed = current_revision(database), head_revision()
    if current != needed:
        raise IndexUnavailableError(
            f"the index has schema {current or 'none'}, this program needs {needed}: run `dicom-node db upgrade`"
        )
