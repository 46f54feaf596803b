"""A connection for notifications that the server ends is one error of ours, and none in the pool's log."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from dicom_node.errors import IndexUnavailableError
from dicom_node.index.database import Database


def test_a_lost_raw_connection_is_told_once(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has no server that could end a connection")

    lost = pytest.raises(IndexUnavailableError, match="the connection to the index was lost")
    with lost, database.raw_connection() as raw:
        with database.write() as session:
            session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": raw.info.backend_pid})
        raw.execute("SELECT 1")
    assert [record.getMessage() for record in caplog.records] == []
    with database.read() as session:
        assert session.scalar(text("SELECT 1")) == 1
