"""The valid one of several reports of a study: the corrected, the verified, the first of two that say the same."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from dicom_node.feedback import record as feedback
from dicom_node.index.tables.reports import ReceivedReport, ReportKind, ReportState

_STANDING = (ReportState.USED, ReportState.CONTRADICTORY, ReportState.UNMATCHED, ReportState.PENDING)
CANCELLED = "cancelled"
"""The opening words of the reason when an HL7 message takes back an earlier one."""


def settle_with_others(session: Session, row: ReceivedReport, *, now: dt.datetime) -> ReportState:
    """Supersede what `row` replaces, or give `row` the state that another report leaves it; returns its state."""
    others = [other for other in _find_related_reports(session, row) if other.id != row.id]
    for other in others:
        if other.state in _STANDING and _replaces(row, other):
            _supersede(session, other, by=row, now=now)
        # Reports may come in the wrong order: a correction before what it corrects.
        elif _replaces(other, row) and other.state is not ReportState.REFUSED:
            _supersede(session, row, by=other, now=now)
    if row.state is ReportState.SUPERSEDED:
        return row.state
    for other in others:
        same = (
            other.text_sha256 == row.text_sha256
            and row.text_sha256
            and other.matched_study_uid == row.matched_study_uid
        )
        if same and row.matched_study_uid and other.state in (ReportState.USED, ReportState.CONTRADICTORY):
            row.state, row.reason = ReportState.DUPLICATE, f"the same text came before, as report {other.id}"
    return row.state


def _find_related_reports(session: Session, row: ReceivedReport) -> Iterable[ReceivedReport]:
    """Reports of the same study or order, and those that either names as its forerunner."""
    chosen: list[ColumnElement[bool]] = [ReceivedReport.source_key.in_(row.predecessors)]
    if row.matched_study_uid:
        chosen.append(ReceivedReport.matched_study_uid == row.matched_study_uid)
    if row.study_instance_uid:
        chosen.append(ReceivedReport.study_instance_uid == row.study_instance_uid)
    if row.order_key:
        chosen.append(ReceivedReport.order_key == row.order_key)
    return session.scalars(select(ReceivedReport).where(or_(*chosen)).order_by(ReceivedReport.id)).all()


def _replaces(later: ReceivedReport, earlier: ReceivedReport) -> bool:
    """By name (predecessor), by a later message of the same order, or as the verified form of an unverified report.

    A refused report replaces nothing, except an HL7 message that cancels its order.
    """
    if earlier.source_key in later.predecessors:
        return _is_final(later)
    same_order = later.order_key != "" and later.order_key == earlier.order_key
    if same_order and later.kind is ReportKind.HL7 and earlier.kind is ReportKind.HL7:
        final = _is_final(later) or later.reason.startswith(CANCELLED)
        # Messages may come in another order than they were written in: their own time decides, and between equal ones
        # the order of coming.
        return final and (later.written or "", later.id) > (earlier.written or "", earlier.id)
    same_study = later.matched_study_uid != "" and later.matched_study_uid == earlier.matched_study_uid
    return same_study and later.is_verified and not earlier.is_verified and _is_final(later)


def _is_final(report: ReceivedReport) -> bool:
    """Tell whether it is a radiologist's final word; of one that is just being read, its reason says why not."""
    refused = report.state is ReportState.REFUSED or (report.state is ReportState.PENDING and report.reason != "")
    return not refused


def _supersede(session: Session, row: ReceivedReport, *, by: ReceivedReport, now: dt.datetime) -> None:
    row.state, row.reason = ReportState.SUPERSEDED, f"report {by.id} stands in its place"
    feedback.withdraw(session, report_pk=row.id, now=now)
