"""All tables with all indexes, for whoever compares or makes the schema: migrations and tests.

A process that reads or writes rows imports the tables that it uses, and needs no index's definition.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Index, MetaData, text

from dicom_node.index.tables import backfill, chart, core, models, questions, reports, retrain
from dicom_node.index.tables.base import Base
from dicom_node.index.tables.results import Result

TABLE_MODULES: Final = (backfill, chart, core, models, questions, reports, retrain)

# One current result per study and image: enforced by the database, not by care. Not beside the table, because a
# condition in the words of a dialect imports it, and PostgreSQL's takes a tenth of a second.
Index(
    "uq_result_current",
    Result.study_pk,
    Result.sop_instance_uid,
    unique=True,
    sqlite_where=text("is_current"),
    postgresql_where=text("is_current"),
)

WHOLE_SCHEMA: Final[MetaData] = Base.metadata
