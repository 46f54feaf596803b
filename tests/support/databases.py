"""An empty index on SQLite and on PostgreSQL: every test that asks for `database` or `each_index` runs on both.

Tests that make their nodes themselves (`tests.support.receiver`, `delivery_node`) ask here for the address of a
folder's index here, and get one on PostgreSQL while a test with the fixture `each_index` runs on it. They give it its
tables by `add_tables`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
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


@cache
def _empty_index() -> bytes:
    """The file of a migrated, empty SQLite index; writing it is quicker than migrating anew."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.db"
        _migrated(f"sqlite:///{path}")
        return path.read_bytes()


def add_tables(database: Database) -> None:
    """Give an index its tables: a SQLite file that is not there yet those of the template."""
    file = database.engine.url.database
    if database.is_sqlite and file and not Path(file).exists():
        Path(file).write_bytes(_empty_index())
    schema.upgrade(database)


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
        url = f"sqlite:///{tmp_path}/index.db"
    database = Database(url)
    add_tables(database)
    yield database
    database.close()
