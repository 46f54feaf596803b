"""Statements that are compiled once: values of the tables' own types come out as they went in."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import Table, bindparam, insert, select, update

from dicom_node.index.database import Database, utc_now
from dicom_node.index.prepared import PreparedStatement
from dicom_node.index.tables.core import Base, Study, StudyState

_study = cast(Table, Study.__table__)


def test_prepared_statements_convert_values_both_ways(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/index.db")
    Base.metadata.create_all(database.engine)
    now = utc_now()
    look = PreparedStatement(
        select(_study.c.state, _study.c.last_instance_at.label("last")).where(
            _study.c.study_instance_uid == bindparam("uid")
        )
    )
    close = PreparedStatement(
        update(_study)
        .where(_study.c.study_instance_uid == bindparam("uid"))
        .values(state=StudyState.COMPLETE, last_instance_at=bindparam("now"))
    )
    with database.write() as session:
        session.add(Study(study_instance_uid="1.2", first_instance_at=now, last_instance_at=now, state=StudyState.OPEN))
        session.flush()
        assert look.execute(session, {"uid": "1.3"}) == []
        (row,) = look.execute(session, {"uid": "1.2"})
        assert (row.state, row.last) == (StudyState.OPEN, now)
        assert row.last.tzinfo is not None
        assert close.execute(session, {"uid": "1.2", "now": now + dt.timedelta(hours=1)}) == []
        (row,) = look.execute(session, {"uid": "1.2"})
        assert row.state is StudyState.COMPLETE
        assert row.last == now + dt.timedelta(hours=1)
    database.close()


def test_prepared_insert_that_leaves_a_default_to_python_is_refused(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/index.db")
    Base.metadata.create_all(database.engine)
    with database.write() as session, pytest.raises(AssertionError):
        PreparedStatement(insert(_study), ["study_instance_uid"]).execute(session, {"study_instance_uid": "1.2"})
    database.close()
