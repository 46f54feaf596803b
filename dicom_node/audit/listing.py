"""Reading the audit messages back: who did what to whose data, and when."""

from __future__ import annotations

import datetime as dt
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.audit.messages import AuditedEvent, EventOutcome, EventType
from dicom_node.index.tables.core import AuditEvent

_ROWS_AT_ONCE = 500
_STUDY_OBJECT, _PATIENT_OBJECT = ("2", "3"), ("1", "1")
"""(type code, role code) of a participating object (PS3.15 table A.5.2-1): a report in the widest sense, a patient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """The filter of audit events; an empty value takes everything. Texts are found anywhere, whatever their case.

    since, until: aware, the second one excluded. event: DCM code value of event or event type.
    """

    since: dt.datetime | None = None
    until: dt.datetime | None = None
    actor: str = ""
    patient: str = ""
    event: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """One audit message as people read it."""

    id: int
    at: dt.datetime
    event: str
    event_type: str
    outcome: str
    actors: tuple[str, ...]
    """User ids and AE titles, the requestor first."""
    patients: tuple[str, ...]
    """Patient ID and name of each patient."""
    studies: tuple[str, ...]
    """StudyInstanceUIDs."""
    is_sent: bool
    """Has the collector got it?"""


def events_by_name() -> dict[str, str]:
    """Names of events and event types, in lower case → DCM code value."""
    return {each.value[1].lower(): each.value[0] for kinds in (AuditedEvent, EventType) for each in kinds}


def audit_lines(session: Session, wanted: AuditFilter, *, limit: int) -> list[AuditLine]:
    """The newest messages that fit, newest first."""
    lines: list[AuditLine] = []
    for line in _lines(session, wanted):
        if _is_wanted(line, wanted):
            lines.append(line)
        if len(lines) == limit:
            break
    return lines


def _lines(session: Session, wanted: AuditFilter) -> Iterator[AuditLine]:
    """Messages of the time and event, newest first; actor and patient stand inside the message only."""
    rows = select(AuditEvent).order_by(AuditEvent.id.desc())
    if wanted.since is not None:
        rows = rows.where(AuditEvent.at >= wanted.since)
    if wanted.until is not None:
        rows = rows.where(AuditEvent.at < wanted.until)
    if wanted.event:
        rows = rows.where((AuditEvent.event_id == wanted.event) | (AuditEvent.event_type == wanted.event))
    # yield_per: an audit log has millions of rows.
    for row in session.scalars(rows.execution_options(yield_per=_ROWS_AT_ONCE)):
        yield _line(row)


def _is_wanted(line: AuditLine, wanted: AuditFilter) -> bool:
    return _is_in(wanted.actor, line.actors) and _is_in(wanted.patient, line.patients)


def _is_in(text: str, values: tuple[str, ...]) -> bool:
    return not text or any(text.lower() in value.lower() for value in values)


def _line(row: AuditEvent) -> AuditLine:
    root = ET.fromstring(row.message)
    participants = sorted(root.iter("ActiveParticipant"), key=lambda each: each.get("UserIsRequestor") != "true")
    objects = list(root.iter("ParticipantObjectIdentification"))
    return AuditLine(
        id=row.id,
        at=row.at,
        event=_display_name(root, "EventIdentification/EventID"),
        event_type=_display_name(root, "EventIdentification/EventTypeCode"),
        outcome=_outcome(row.outcome),
        actors=tuple(_actor(each) for each in participants),
        patients=tuple(_patient(each) for each in objects if _kind(each) == _PATIENT_OBJECT),
        studies=tuple(each.get("ParticipantObjectID", "") for each in objects if _is_study(each)),
        is_sent=row.sent_at is not None,
    )


def _display_name(root: ET.Element, path: str) -> str:
    element = root.find(path)
    return element.get("originalText", "") if element is not None else ""


def _outcome(value: int) -> str:
    return EventOutcome(value).name.lower().replace("_", " ")


def _actor(element: ET.Element) -> str:
    title = element.get("AlternativeUserID", "").removeprefix("AETITLES=")
    user = element.get("UserID", "")
    return user if not title or user.startswith(title) else f"{user} ({title})"


def _kind(element: ET.Element) -> tuple[str, str]:
    return element.get("ParticipantObjectTypeCode", ""), element.get("ParticipantObjectTypeCodeRole", "")


def _is_study(element: ET.Element) -> bool:
    """A query has the same codes as a study; the type of its id tells them apart."""
    code = element.find("ParticipantObjectIDTypeCode")
    return _kind(element) == _STUDY_OBJECT and code is not None and code.get("csd-code") == "110180"


def _patient(element: ET.Element) -> str:
    name = element.find("ParticipantObjectName")
    return " ".join(filter(None, (element.get("ParticipantObjectID", ""), name.text if name is not None else "")))
