"""The rows and jobs of received reports: made once, in the transaction of whoever received; looked at again in time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.index.tables.core import JobKind
from dicom_node.index.tables.reports import ReceivedReport, ReportKind, ReportState, new_report
from dicom_node.index.upsert import insert_if_absent
from dicom_node.jobs import queue as jobs
from dicom_node.logs import get_logger

log = get_logger(__name__)

LOOK_AGAIN = dt.timedelta(minutes=10)
"""The interval at which a report without a result of this node is looked at again."""
MOST_AT_ONCE = 200


def job_key(report_pk: int, look: int) -> str:
    """The key of the job that looks at a report for the nth time."""
    return f"report:{report_pk}:{look}"


def note_report(session: Session, sop_instance_uid: str, study_instance_uid: str, *, now: dt.datetime) -> None:
    """A Structured Report was stored: its row and its job, in the transaction that registers the instance."""
    values = new_report(ReportKind.SR, sop_instance_uid, now=now, study_instance_uid=study_instance_uid)
    add(session, values, now=now)


def add(session: Session, values: dict[str, Any], *, now: dt.datetime) -> bool:
    """Make the row and its job, in the caller's transaction; returns False where the same thing came before."""
    report_id = insert_if_absent(session, ReceivedReport, values, unique=["source_key"])
    if report_id is None:
        return False
    _enqueue(session, report_id, 1, now=now)
    return True


def _enqueue(session: Session, report_pk: int, look: int, *, now: dt.datetime) -> None:
    jobs.enqueue(session, JobKind.REPORT, job_key(report_pk, look), {"report_id": report_pk})


def result_came(session: Session, study_instance_uid: str, *, now: dt.datetime) -> int:
    """A study has a new result: its reports are looked at again, in the result's commit; returns how many."""
    waiting = (ReceivedReport.state == ReportState.UNMATCHED) & (
        ReceivedReport.study_instance_uid == study_instance_uid
    )
    used = ReceivedReport.state.in_([ReportState.USED, ReportState.CONTRADICTORY]) & (
        ReceivedReport.matched_study_uid == study_instance_uid
    )
    rows = [
        *session.scalars(select(ReceivedReport).where(waiting)),
        *session.scalars(select(ReceivedReport).where(used)),
    ]
    _look_at(session, rows, now=now)
    return len(rows)


def look_again(node: NodeContext) -> None:
    """The sweep: unmatched reports get another job from time to time, as another study may be theirs by now."""
    now = node.clock()
    due = (
        (ReceivedReport.state == ReportState.UNMATCHED)
        & (ReceivedReport.looked_at <= now - LOOK_AGAIN)
        & (ReceivedReport.received_at >= now - dt.timedelta(days=node.settings.feedback.wait_days))
    )
    with node.database.read() as session:  # mostly nothing is due, and a look takes no lock
        if session.scalar(select(ReceivedReport.id).where(due).limit(1)) is None:
            return
    with node.database.write() as session:
        rows = list(
            session.scalars(select(ReceivedReport).where(due).order_by(ReceivedReport.looked_at).limit(MOST_AT_ONCE))
        )
        _look_at(session, rows, now=now)
    log.info("reports looked at again", count=len(rows))


def _look_at(session: Session, rows: Sequence[ReceivedReport], *, now: dt.datetime) -> None:
    for row in rows:
        row.state, row.reason = ReportState.PENDING, ""
        _enqueue(session, row.id, row.looks + 1, now=now)
