"""Audit messages by DICOM PS3.15 section A.5: who did what to whose data, kept as rows and sent to a syslog collector.

An audit message names the patient, as the Standard wants; so it goes to the database and to the audit collector only,
never into the ordinary log. `record` writes in the caller's transaction: what is rolled back was not done.
"""

from __future__ import annotations

import base64
import datetime as dt
import os
import socket
import ssl
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.config import AuditSection
from dicom_node.errors import NodeError
from dicom_node.index.tables import AuditEvent
from dicom_node.logs import get_logger

if TYPE_CHECKING:
    from dicom_node.context import NodeContext

log = get_logger(__name__)

SYSLOG_PRIORITY = 10 * 8 + 5
"""Facility 10 (security), severity 5 (notice), as IHE ITI TF-2 3.20 has it."""
BATCH = 200
CONNECT_SECONDS = 5.0


class AuditError(NodeError):
    """The audit collector did not take messages; they stay in the database and go later."""


class Event(Enum):
    """Event identification: DCM code value and meaning (PS3.16 CID 400)."""

    APPLICATION_ACTIVITY = ("110100", "Application Activity")
    INSTANCES_ACCESSED = ("110103", "DICOM Instances Accessed")
    INSTANCES_TRANSFERRED = ("110104", "DICOM Instances Transferred")
    STUDY_DELETED = ("110105", "DICOM Study Deleted")
    EXPORT = ("110106", "Export")
    PATIENT_RECORD = ("110110", "Patient Record")
    QUERY = ("110112", "Query")
    SECURITY_ALERT = ("110113", "Security Alert")
    USER_AUTHENTICATION = ("110114", "User Authentication")


class EventType(Enum):
    """Event type (PS3.16 CID 401)."""

    APPLICATION_START = ("110120", "Application Start")
    APPLICATION_STOP = ("110121", "Application Stop")
    LOGIN = ("110122", "Login")
    LOGOUT = ("110123", "Logout")
    NODE_AUTHENTICATION = ("110126", "Node Authentication")
    SOFTWARE_CONFIGURATION = ("110131", "Software Configuration")
    USE_OF_RESTRICTED_FUNCTION = ("110132", "Use of Restricted Function")


class Outcome(IntEnum):
    """EventOutcomeIndicator (PS3.15 section A.5.1)."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8
    MAJOR_FAILURE = 12


ACTIONS = {
    Event.APPLICATION_ACTIVITY: "E",
    Event.INSTANCES_ACCESSED: "R",
    Event.INSTANCES_TRANSFERRED: "C",
    Event.STUDY_DELETED: "D",
    Event.EXPORT: "R",
    Event.PATIENT_RECORD: "R",
    Event.QUERY: "E",
    Event.SECURITY_ALERT: "E",
    Event.USER_AUTHENTICATION: "E",
}
"""EventActionCode: create, read, update, delete, execute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """Somebody or something that took part: a person, an application entity, this process.

    role: "source" (110153), "destination" (110152), "application" (110150) or "" for a person.
    """

    user_id: str
    requestor: bool = False
    role: str = ""
    address: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AboutStudy:
    """The study that it happened to, and its patient."""

    study_instance_uid: str
    patient_id: str = ""
    patient_name: str = ""
    accession_number: str = ""
    sop_classes: tuple[tuple[str, int], ...] = ()
    """(SOP class UID, number of instances)."""


ROLES = {
    "source": ("110153", "Source Role ID"),
    "destination": ("110152", "Destination Role ID"),
    "application": ("110150", "Application"),
}


def this_node(ae_title: str, *, requestor: bool = False, role: str = "application") -> Participant:
    """This process as a participant."""
    return Participant(user_id=f"{ae_title}:{os.getpid()}", requestor=requestor, role=role, name="dicom-node")


def record(
    session: Session,
    event: Event,
    *,
    now: dt.datetime,
    participants: tuple[Participant, ...],
    event_type: EventType | None = None,
    outcome: Outcome = Outcome.SUCCESS,
    study: AboutStudy | None = None,
    query: bytes | None = None,
    alert: str = "",
    site: str = "",
) -> None:
    """Keep one message, in the caller's transaction.

    query: the encoded identifier of a Query event. alert: what a Security Alert is about, in plain words.
    """
    root = ET.Element("AuditMessage")
    identification = ET.SubElement(
        root,
        "EventIdentification",
        EventActionCode=ACTIONS[event],
        EventDateTime=now.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=str(int(outcome)),
    )
    _code(identification, "EventID", event.value)
    if event_type is not None:
        _code(identification, "EventTypeCode", event_type.value)
    for participant in participants:
        _participant(root, participant)
    source = ET.SubElement(root, "AuditSourceIdentification", AuditSourceID=f"dicom-node@{socket.gethostname()}")
    if site:
        source.set("AuditEnterpriseSiteID", site)
    ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # application server process
    if study is not None:
        _study(root, study)
    if query is not None:
        _query(root, query)
    if alert:
        _alert(root, alert)
    session.add(
        AuditEvent(
            at=now,
            event_id=event.value[0],
            event_type=event_type.value[0] if event_type else "",
            outcome=int(outcome),
            message=ET.tostring(root, encoding="unicode"),
        )
    )


def _code(parent: ET.Element, tag: str, code: tuple[str, str]) -> None:
    ET.SubElement(
        parent, tag, {"csd-code": code[0], "codeSystemName": "DCM", "originalText": code[1], "displayName": code[1]}
    )


def _participant(root: ET.Element, participant: Participant) -> None:
    element = ET.SubElement(
        root, "ActiveParticipant", UserID=participant.user_id, UserIsRequestor=str(participant.requestor).lower()
    )
    if participant.name:
        element.set("UserName", participant.name)
    if participant.address:
        element.set("NetworkAccessPointID", participant.address)
        element.set("NetworkAccessPointTypeCode", "2")  # an IP address
    if participant.role:
        _code(element, "RoleIDCode", ROLES[participant.role])


def _study(root: ET.Element, study: AboutStudy) -> None:
    """The study and patient objects of PS3.15 table A.5.3.7-1 and its kin."""
    element = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=study.study_instance_uid,
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="3",
    )
    _code(element, "ParticipantObjectIDTypeCode", ("110180", "Study Instance UID"))
    description = ET.SubElement(element, "ParticipantObjectDescription")
    if study.accession_number:
        ET.SubElement(description, "Accession", Number=study.accession_number)
    for sop_class, count in study.sop_classes:
        ET.SubElement(description, "SOPClass", UID=sop_class, NumberOfInstances=str(count))
    patient = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=study.patient_id or "unknown",
        ParticipantObjectTypeCode="1",
        ParticipantObjectTypeCodeRole="1",
    )
    type_code = {"csd-code": "2", "codeSystemName": "RFC-3881", "originalText": "Patient Number"}
    ET.SubElement(patient, "ParticipantObjectIDTypeCode", type_code)
    if study.patient_name:
        ET.SubElement(patient, "ParticipantObjectName").text = study.patient_name


def _query(root: ET.Element, identifier: bytes) -> None:
    element = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID="1.2.840.10008.5.1.4.1.2.2.1",
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="3",
    )
    _code(element, "ParticipantObjectIDTypeCode", ("110181", "SOP Class UID"))
    ET.SubElement(element, "ParticipantObjectQuery").text = base64.b64encode(identifier).decode()


def _alert(root: ET.Element, alert: str) -> None:
    element = ET.SubElement(
        root, "ParticipantObjectIdentification", ParticipantObjectID="dicom-node", ParticipantObjectTypeCode="2"
    )
    _code(element, "ParticipantObjectIDTypeCode", ("110182", "Node ID"))
    ET.SubElement(
        element,
        "ParticipantObjectDetail",
        type="Alert Description",
        value=base64.b64encode(alert.encode()).decode(),
    )


def send_waiting(node: NodeContext) -> None:
    """Tick: send what the collector has not got yet, oldest first. Raises AuditError; the rows then wait."""
    settings = node.settings.audit
    if settings.host is None:
        return
    with node.database.read() as session:
        rows = session.execute(
            select(AuditEvent.id, AuditEvent.at, AuditEvent.message)
            .where(AuditEvent.sent_at.is_(None))
            .order_by(AuditEvent.id)
            .limit(BATCH)
        ).all()
    if not rows:
        return
    try:
        with _connect(settings) as connection:
            for row in rows:
                connection.sendall(frame(row.at, row.message))
            # An orderly end makes a collector that is gone show itself before the rows are marked.
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(CONNECT_SECONDS)
            connection.recv(1)
    except OSError as error:
        raise AuditError(
            f"the audit collector {settings.host}:{settings.port} did not take messages: {error}"
        ) from error
    with node.database.write() as session:
        now = node.clock()
        for event in session.scalars(select(AuditEvent).where(AuditEvent.id.in_([row.id for row in rows]))):
            event.sent_at = now


def frame(at: dt.datetime, message: str) -> bytes:
    """One RFC 5424 message with the octet count of RFC 5425 section 4.3 before it."""
    head = f"<{SYSLOG_PRIORITY}>1 {at.isoformat(timespec='milliseconds')} {socket.gethostname()} dicom-node"
    body = f"{head} {os.getpid()} DICOM - ".encode() + b"\xef\xbb\xbf" + message.encode()
    return f"{len(body)} ".encode() + body


def _connect(settings: AuditSection) -> socket.socket:
    assert settings.host is not None
    plain = socket.create_connection((settings.host, settings.port), timeout=CONNECT_SECONDS)
    if settings.transport == "tcp" or settings.tls is None:
        return plain
    try:
        context = ssl.create_default_context(cafile=str(settings.tls.ca))
        if settings.tls.certificate is not None:
            context.load_cert_chain(settings.tls.certificate, settings.tls.key)
        return context.wrap_socket(plain, server_hostname=settings.host)
    except OSError:
        plain.close()
        raise


def forget(session: Session, *, before: dt.datetime) -> int:
    """Remove messages older than the law asks for; returns how many."""
    gone = session.execute(delete(AuditEvent).where(AuditEvent.at < before).returning(AuditEvent.id))
    return len(gone.all())
