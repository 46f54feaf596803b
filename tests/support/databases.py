"""An empty index on SQLite and on PostgreSQL: every test that asks for `database` runs on both."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.index import schema
from dicom_node.index.database import Database
from tests.support.postgres import PostgresServer


def _migrated(url: str) -> str:
    database = Database(url)
    schema.upgrade(database)
    database.close()
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite index; copying it is quicker than migrating anew."""
    path = tmp_path_factory.mktemp("template") / "index.db"
    _migrated(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a migrated, empty PostgreSQL database."""
    return _migrated(postgres_server.new_database()).rpartition("/")[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.new_database(template=request.getfixturevalue("postgres_template"))
    else:
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "index.db")
        url = f"sqlite:///{tmp_path}/index.db"
    database = Database(url)
    yield database
    database.close()
