"""Reports and feedback that need a look: unmatched and contradictory ones, and disagreements between sources."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.feedback import agreement
from dicom_node.feedback import consensus as opinions
from dicom_node.index.tables.core import Feedback
from dicom_node.index.tables.reports import ReceivedReport, ReportState

OPEN = (ReportState.UNMATCHED, ReportState.CONTRADICTORY)
"""The states that `feedback list` and the page show by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLine:
    """One report. is_matched: the study is ours. words: how many of its words stand as feedback."""

    id: int
    kind: str
    state: str
    reason: str
    study_instance_uid: str
    is_matched: bool
    author: str
    received_at: dt.datetime
    words: int
    contradictions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContradictionLine:
    """One statement of the node of which sources say different things. said: (value, who)."""

    study_instance_uid: str
    sop_instance_uid: str
    finding: str
    aspect: str
    stated: str
    said: tuple[tuple[str, tuple[str, ...]], ...]
    at: dt.datetime


def report_lines(session: Session, states: Collection[ReportState] = OPEN, *, limit: int = 200) -> list[ReportLine]:
    """Reports in these states, newest first."""
    rows = session.scalars(
        select(ReceivedReport)
        .where(ReceivedReport.state.in_(list(states)))
        .order_by(ReceivedReport.received_at.desc(), ReceivedReport.id.desc())
        .limit(limit)
    ).all()
    counts = {
        row[0]: row[1]
        for row in session.execute(
            select(Feedback.report_pk, func.count())
            .where(Feedback.report_pk.in_([row.id for row in rows]), Feedback.withdrawn_at.is_(None))
            .group_by(Feedback.report_pk)
        )
    }
    return [
        ReportLine(
            id=row.id,
            kind=row.kind.value,
            state=row.state.value,
            reason=row.reason,
            study_instance_uid=row.matched_study_uid or row.study_instance_uid,
            is_matched=row.matched_study_uid != "",
            author=row.author,
            received_at=row.received_at,
            words=counts.get(row.id, 0),
            contradictions=tuple(
                (contradiction["finding"], contradiction["why"]) for contradiction in row.contradictions
            ),
        )
        for row in rows
    ]


def contradiction_lines(session: Session, *, limit: int = 200) -> list[ContradictionLine]:
    """Where words on one statement differ, newest first."""
    contested = [opinion for opinion in opinions.load(session) if opinion.contradictory]
    return [
        ContradictionLine(
            study_instance_uid=opinion.study_instance_uid,
            sop_instance_uid=opinion.sop_instance_uid,
            finding=opinion.finding,
            aspect=opinion.aspect,
            stated=opinion.stated,
            said=tuple(opinion.values.items()),
            at=opinion.at,
        )
        for opinion in reversed(contested[-limit:])
    ]


def report_counts(session: Session) -> dict[str, int]:
    """The number of reports in each state."""
    return {
        state.value: count
        for state, count in session.execute(select(ReceivedReport.state, func.count()).group_by(ReceivedReport.state))
    }


def agreement_json(found: dict[str, agreement.FindingAgreement]) -> list[dict[str, Any]]:
    """The figures as values, all findings pooled last (finding "")."""
    return [
        {
            "finding": finding_agreement.finding,
            "aspect": finding_agreement.aspect,
            "judged": finding_agreement.judged,
            "agree": finding_agreement.agree,
            "ratio": finding_agreement.ratio,
            "kappa": finding_agreement.kappa,
            "node_only": finding_agreement.node_only,
            "radiologist_only": finding_agreement.radiologist_only,
            "contradictory": finding_agreement.contradictory,
            "table": [
                {"node": node, "radiologist": radiologist, "count": count}
                for (node, radiologist), count in finding_agreement.table.items()
            ],
        }
        for finding_agreement in (*found.values(), agreement.overall(found))
    ]
