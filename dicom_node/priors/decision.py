"""The analysis' decision on the prior, as it is kept with the study's current results."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.index.tables.core import Result, Study


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDecision:
    """The prior of one image's current result; the prior's UIDs and date are "" where nothing was compared."""

    sop_instance_uid: str
    prior_sop_instance_uid: str
    prior_study_instance_uid: str
    prior_date: str
    reasons: tuple[str, ...]
    decided_at: dt.datetime


def stored_decisions(session: Session, study_instance_uid: str) -> tuple[StoredDecision, ...]:
    """The decision of each current result of a study; empty for one that was not analysed yet."""
    results = session.scalars(
        select(Result)
        .join(Study, Result.study_pk == Study.id)
        .where(Study.study_instance_uid == study_instance_uid, Result.is_current)
        .order_by(Result.id)
    ).all()
    return tuple(_decision(session, result) for result in results)


def _decision(session: Session, result: Result) -> StoredDecision:
    # The date that the report itself gives; the study's where the result is of before it was kept.
    prior = result.prediction.get("prior") or {}
    date = session.scalar(select(Study.study_date).where(Study.study_instance_uid == result.prior_study_instance_uid))
    why = tuple(result.prior_reasons) or ((result.reason,) if result.reason else ())
    return StoredDecision(
        sop_instance_uid=result.sop_instance_uid,
        prior_sop_instance_uid=result.prior_sop_instance_uid,
        prior_study_instance_uid=result.prior_study_instance_uid,
        prior_date=str(prior.get("date") or date or "").replace("T", " ")[:16],
        reasons=why,
        decided_at=result.created_at,
    )
