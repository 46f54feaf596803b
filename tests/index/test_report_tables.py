"""The tables of reports are what the migration makes, and their queries run, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dicom_node.feedback import consensus as opinions
from dicom_node.index import schema
from dicom_node.index.database import Database
from dicom_node.index.tables.reports import ReportState
from dicom_node.index.tables.whole_schema import WHOLE_SCHEMA
from dicom_node.studies.received_reports import look_again
from tests.support.postgres import PostgresServer
from tests.support.reporting import add_study, read_reports, receive, report_sr, reporting_node, reports, words


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an index without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/index.db"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database()


def test_the_migration_makes_these_tables_and_the_story_runs(url: str, tmp_path: Path) -> None:
    database = Database(url)
    schema.upgrade(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = [
            one for one in compare_metadata(context, WHOLE_SCHEMA) if "report" in repr(one) or "feedback" in repr(one)
        ]
    database.close()
    assert not found
    with reporting_node(tmp_path, database={"url": url}) as (node, clock):
        receive(node, report_sr())
        read_reports(node)
        assert reports(node)[0].state is ReportState.UNMATCHED
        clock.forward(minutes=11)
        look_again(node)
        read_reports(node)
        add_study(node)
        read_reports(node)
        assert reports(node)[0].state is ReportState.USED
        assert words(node)["pneumothorax", "presence"] == ("absent", "agree", "")
        with node.database.read() as session:
            assert len(opinions.load(session, since=clock())) == len(words(node))
