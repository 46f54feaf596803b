"""The tables of retraining are what the migrations make, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dicom_node.index import schema
from dicom_node.index.database import Database
from dicom_node.index.tables.whole_schema import WHOLE_SCHEMA
from tests.support.postgres import PostgresServer


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An index without tables."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path}/index.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        database = Database(server.new_database())
    yield database
    database.close()


def test_the_migrations_make_these_tables(database: Database) -> None:
    schema.upgrade(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = [d for d in compare_metadata(context, WHOLE_SCHEMA) if "retrain" in repr(d)]
    assert not differences
