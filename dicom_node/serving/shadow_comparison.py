"""Where champion and challenger differ: on one pair, counted over all, and the newest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.index.tables.core import Result, Study
from dicom_node.index.tables.models import ShadowResult


def differences(
    champion_says: Sequence[Mapping[str, Any]], challenger_says: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Where two answers to one pair differ in presence or change; findings that only one of them is asked are not."""
    challenged = {str(finding["key"]): finding for finding in challenger_says}
    differing = []
    for ours in champion_says:
        other = challenged.get(str(ours["key"]))
        if other is None:
            continue
        for aspect, certainty in (("presence", "probability"), ("change", "change_probability")):
            if ours[aspect] != other[aspect]:
                differing.append(
                    {
                        "finding": str(ours["key"]),
                        "aspect": aspect,
                        "champion": ours[aspect] or "none",
                        "challenger": other[aspect] or "none",
                        "champion_probability": ours[certainty],
                        "challenger_probability": other[certainty],
                    }
                )
    return differing


def summary(session: Session, folder: str) -> dict[str, Any]:
    """The number of pairs that the challenger saw, and its differences by number of findings and kind."""
    rows = session.execute(
        select(ShadowResult.error, ShadowResult.differences).where(ShadowResult.folder == folder)
    ).all()
    by_finding: dict[str, int] = {}
    for row in rows:
        for difference in row.differences:
            name = f"{difference['finding']} {difference['aspect']}"
            by_finding[name] = by_finding.get(name, 0) + 1
    return {
        "answered": sum(1 for row in rows if not row.error),
        "disagreeing": sum(1 for row in rows if row.differences),
        "failed": sum(1 for row in rows if row.error),
        "by_finding": dict(sorted(by_finding.items(), key=lambda item: (-item[1], item[0]))),
        "seconds": session.scalar(
            select(func.avg(ShadowResult.seconds)).where(ShadowResult.folder == folder, ShadowResult.error == "")
        ),
    }


def disagreements(session: Session, folder: str, *, limit: int = 50) -> list[dict[str, Any]]:
    """The newest results on which the challenger differs."""
    rows = session.execute(
        select(ShadowResult, Result.sop_instance_uid, Study.study_instance_uid)
        .join(Result, Result.id == ShadowResult.result_pk)
        .join(Study, Study.id == Result.study_pk)
        .where(ShadowResult.folder == folder, ShadowResult.disagreements > 0)
        .order_by(ShadowResult.id.desc())
        .limit(limit)
    )
    return [
        {
            "study_instance_uid": study_uid,
            "sop_instance_uid": image_uid,
            "result": row.result_pk,
            "at": row.created_at,
            "challenger": {"folder": row.folder, "version": row.model_version, "device_uid": row.device_uid},
            "differences": row.differences,
        }
        for row, image_uid, study_uid in rows
    ]
