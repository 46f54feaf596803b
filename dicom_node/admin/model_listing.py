"""The checkpoints that have answered studies, with their counts, for people."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.index.tables.core import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """One checkpoint as its results show it."""

    name: str
    version: str
    device_uid: str
    results: int
    first_at: dt.datetime
    last_at: dt.datetime
    outcomes: Mapping[str, int]


def models(session: Session) -> list[ModelLine]:
    """The checkpoints that made results, the latest first."""
    rows = session.execute(
        select(
            Result.model_name,
            Result.model_version,
            Result.device_uid,
            Result.outcome,
            func.count(),
            func.min(Result.created_at),
            func.max(Result.created_at),
        ).group_by(Result.model_name, Result.model_version, Result.device_uid, Result.outcome)
    ).all()
    lines: dict[str, list[Any]] = {}
    for row in rows:
        lines.setdefault(row[2], []).append(row)
    model_lines = [
        ModelLine(
            name=group[0][0],
            version=group[0][1],
            device_uid=uid,
            results=sum(row[4] for row in group),
            first_at=min(row[5] for row in group),
            last_at=max(row[6] for row in group),
            outcomes={row[3].value: row[4] for row in group},
        )
        for uid, group in lines.items()
    ]
    return sorted(model_lines, key=lambda line: line.last_at, reverse=True)
