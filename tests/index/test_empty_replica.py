"""A PostgreSQL server that is there and has none of the tables, as a replica that is empty still."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from dicom_node.errors import IndexUnavailableError
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Study
from tests.support.index import after, arrive, received
from tests.support.postgres import PostgresServer


def test_missing_tables_are_the_databases_trouble_for_readers_and_writers(postgres_server: PostgresServer) -> None:
    database = Database(postgres_server.new_database())
    with pytest.raises(IndexUnavailableError, match="the index refuses"), database.read() as session:
        session.scalars(select(Study)).all()
    with pytest.raises(IndexUnavailableError, match="the index refuses"):
        arrive(database, received(), after(0))
    database.close()
