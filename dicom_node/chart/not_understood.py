"""Parts of chart messages that no rule of the node understands, counted by kind and code."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.index.tables.chart import ChartUnknown
from dicom_node.index.upsert import insert_or_update

if TYPE_CHECKING:  # `dicom-node status` lists the parts and reads no message
    from dicom_node.chart.messages import UnknownPart


def count_part(session: Session, part: UnknownPart, *, now: dt.datetime) -> None:
    """Add one to the times that a part was met."""
    values = {"kind": part.kind, "code": part.code, "system": part.system, "times": 1, "last_at": now}
    insert_or_update(
        session,
        ChartUnknown,
        values,
        unique=["kind", "code", "system"],
        update={"times": ChartUnknown.times + 1, "last_at": now},
    )


def unknown_parts(session: Session, *, limit: int = 50) -> list[ChartUnknown]:
    """The parts that were not understood, the most frequent first."""
    rows = select(ChartUnknown).order_by(ChartUnknown.times.desc(), ChartUnknown.id).limit(limit)
    return list(session.scalars(rows))
