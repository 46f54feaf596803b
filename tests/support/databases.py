"""An empty index on SQLite and on PostgreSQL: every test that asks for `database` or `each_index` runs on both.

Tests that make their nodes themselves (`tests.support.receiver`, `delivery_node`) ask here for the address of a
folder's index here, and get one on PostgreSQL while a test with the fixture `each_index` runs on it.
"""

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


class _Indexes:
    """The address of each folder's index."""

    def __init__(self) -> None:
        self.server: PostgresServer | None = None
        self.template = ""
        self.urls: dict[Path, str] = {}

    def url(self, folder: Path) -> str:
        """The same address each time for one folder."""
        if self.server is None:
            return f"sqlite:///{folder}/index.db"
        if folder not in self.urls:
            self.urls[folder] = self.server.new_database(template=self.template)
        return self.urls[folder]


_indexes = _Indexes()


def index_url(folder: Path) -> str:
    """The address of the index of a node whose data lie in this folder."""
    return _indexes.url(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def each_index(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test on SQLite and again on PostgreSQL, whose databases are copies of a template."""
    yield from _each(request)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def each_index_of_module(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same for a module whose tests share a node."""
    yield from _each(request)


def _each(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "postgresql":
        _indexes.server = request.getfixturevalue("postgres_server")
        _indexes.template = request.getfixturevalue("postgres_template")
    yield request.param
    _indexes.server = None
    _indexes.urls.clear()


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
