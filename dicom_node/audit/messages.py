"""Audit messages by DICOM PS3.15 section A.5: who did what to whose data, kept as rows (`syslog` sends them on).

An audit message names the patient, as the Standard wants; so it goes to the database and to the audit collector only,
never into the ordinary log. `record` writes in the caller's transaction: what is rolled back was not done.
"""

from __future__ import annotations

import base64
import datetime as dt
import os
import socket
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from enum import Enum, IntEnum

from sqlalchemy import delete
from sqlalchemy.orm import Session

from dicom_node.audit.xml_parts import access_point_type, add_code, add_detail, writable
from dicom_node.index.tables.core import AuditEvent


class AuditedEvent(Enum):
    """Event identification: DCM code value and meaning (PS3.16 CID 400)."""

    APPLICATION_ACTIVITY = ("110100", "Application Activity")
    AUDIT_LOG_USED = ("110101", "Audit Log Used")
    BEGIN_TRANSFERRING = ("110102", "Begin Transferring DICOM Instances")
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


class EventOutcome(IntEnum):
    """EventOutcomeIndicator (PS3.15 section A.5.1)."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8
    MAJOR_FAILURE = 12


ACTIONS = {
    AuditedEvent.APPLICATION_ACTIVITY: "E",
    AuditedEvent.AUDIT_LOG_USED: "R",
    AuditedEvent.BEGIN_TRANSFERRING: "E",
    AuditedEvent.INSTANCES_ACCESSED: "R",
    AuditedEvent.INSTANCES_TRANSFERRED: "C",
    AuditedEvent.STUDY_DELETED: "D",
    AuditedEvent.EXPORT: "R",
    AuditedEvent.PATIENT_RECORD: "R",
    AuditedEvent.QUERY: "E",
    AuditedEvent.SECURITY_ALERT: "E",
    AuditedEvent.USER_AUTHENTICATION: "E",
}
"""EventActionCode: create, read, update, delete, execute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """Somebody or something that took part: a person, an application entity, this process.

    role: "source" (110153), "destination" (110152), "application" (110150) or "" for a person. ae_title: of a DICOM
    application, which section A.5.2.2 wants named. address: an IP address, a host's name or a URL.
    """

    user_id: str
    ae_title: str = ""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedQuery:
    """The object of a Query message (PS3.15 table A.5.3.10-1): what was asked, byte by byte, and in which syntax."""

    sop_class_uid: str
    transfer_syntax_uid: str
    identifier: bytes


ROLES = {
    "source": ("110153", "Source Role ID"),
    "destination": ("110152", "Destination Role ID"),
    "application": ("110150", "Application"),
}


def this_node(ae_title: str, *, requestor: bool = False, role: str = "application") -> Participant:
    """This process as a participant."""
    return Participant(
        user_id=f"{ae_title}:{os.getpid()}", ae_title=ae_title, requestor=requestor, role=role, name="dicom-node"
    )


def record(
    session: Session,
    event: AuditedEvent,
    *,
    now: dt.datetime,
    participants: tuple[Participant, ...],
    event_type: EventType | None = None,
    outcome: EventOutcome = EventOutcome.SUCCESS,
    study: AboutStudy | None = None,
    patient_id: str = "",
    query: AskedQuery | None = None,
    audit_log: str = "",
    alert: str = "",
    about_node: str = "",
    action: str = "",
    site: str = "",
) -> None:
    """Keep one message, in the caller's transaction.

    audit_log: URI of the audit log that was read. patient_id: the patient of a message about no study. alert: the text
    of a Security Alert; about_node: its node. action: instead of the event's own action code ("R" for instances that
    were held already, PS3.15 table A.5.3.7-1).
    """
    root = ET.Element("AuditMessage")
    # The order of PS3.15 section A.5.1: the event, who took part, the source, then the objects.
    _event(root, event, event_type, action=action or ACTIONS[event], outcome=outcome, now=now)
    for participant in participants:
        _add_participant(root, participant)
    _add_source(root, site)
    _add_objects(root, study, patient_id, query, audit_log)
    if alert:
        _add_alert(root, alert, about_node or "dicom-node")
    message, type_code = writable(ET.tostring(root, encoding="unicode")), event_type.value[0] if event_type else ""
    session.add(
        AuditEvent(at=now, event_id=event.value[0], event_type=type_code, outcome=int(outcome), message=message)
    )


def _add_objects(
    root: ET.Element, study: AboutStudy | None, patient_id: str, query: AskedQuery | None, audit_log: str
) -> None:
    if study is not None:
        _add_study(root, study)
    elif patient_id:
        _add_patient(root, patient_id, "")
    if query is not None:
        _query(root, query)
    if audit_log:
        _audit_log(root, audit_log)


def _event(
    root: ET.Element,
    event: AuditedEvent,
    event_type: EventType | None,
    *,
    action: str,
    outcome: EventOutcome,
    now: dt.datetime,
) -> None:
    identification = ET.SubElement(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=now.isoformat(timespec="milliseconds"),
        EventOutcomeIndicator=str(int(outcome)),
    )
    add_code(identification, "EventID", event.value)
    if event_type is not None:
        add_code(identification, "EventTypeCode", event_type.value)


def _add_source(root: ET.Element, site: str) -> None:
    source = ET.SubElement(root, "AuditSourceIdentification", AuditSourceID=f"dicom-node@{socket.gethostname()}")
    if site:
        source.set("AuditEnterpriseSiteID", site)
    ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # application server process


def _add_participant(root: ET.Element, participant: Participant) -> None:
    element = ET.SubElement(
        root, "ActiveParticipant", UserID=participant.user_id, UserIsRequestor=str(participant.requestor).lower()
    )
    if participant.ae_title:
        element.set("AlternativeUserID", f"AETITLES={participant.ae_title}")
    if participant.name:
        element.set("UserName", participant.name)
    if participant.address:
        element.set("NetworkAccessPointID", participant.address)
        element.set("NetworkAccessPointTypeCode", access_point_type(participant.address))
    if participant.role:
        add_code(element, "RoleIDCode", ROLES[participant.role])


def _add_study(root: ET.Element, study: AboutStudy) -> None:
    """The study and patient objects of PS3.15 table A.5.3.7-1 and its kin."""
    element = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=study.study_instance_uid,
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="3",
    )
    add_code(element, "ParticipantObjectIDTypeCode", ("110180", "Study Instance UID"))
    # The schema of section A.5.1 wants a name or a query in every object, also where there is none to give.
    ET.SubElement(element, "ParticipantObjectName")
    description = ET.SubElement(element, "ParticipantObjectDescription")
    if study.accession_number:
        ET.SubElement(description, "Accession", Number=study.accession_number)
    for sop_class, count in study.sop_classes:
        ET.SubElement(description, "SOPClass", UID=sop_class, NumberOfInstances=str(count))
    _add_patient(root, study.patient_id or "unknown", study.patient_name)


def _add_patient(root: ET.Element, patient_id: str, name: str) -> None:
    patient = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=patient_id,
        ParticipantObjectTypeCode="1",
        ParticipantObjectTypeCodeRole="1",
    )
    type_code = {"csd-code": "2", "codeSystemName": "RFC-3881", "originalText": "Patient Number"}
    ET.SubElement(patient, "ParticipantObjectIDTypeCode", type_code)
    ET.SubElement(patient, "ParticipantObjectName").text = name


def _query(root: ET.Element, query: AskedQuery) -> None:
    element = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=query.sop_class_uid,
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="3",
    )
    add_code(element, "ParticipantObjectIDTypeCode", ("110181", "SOP Class UID"))
    ET.SubElement(element, "ParticipantObjectQuery").text = base64.b64encode(query.identifier).decode()
    add_detail(element, "TransferSyntax", query.transfer_syntax_uid)


def _audit_log(root: ET.Element, uri: str) -> None:
    """The object of an Audit Log Used message (PS3.15 table A.5.3.2-1)."""
    element = ET.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=uri,
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="13",
    )
    uri_code = {"csd-code": "12", "codeSystemName": "RFC-3881", "originalText": "URI"}
    ET.SubElement(element, "ParticipantObjectIDTypeCode", uri_code)
    ET.SubElement(element, "ParticipantObjectName").text = "Security Audit Log"


def _add_alert(root: ET.Element, alert: str, about_node: str) -> None:
    element = ET.SubElement(
        root, "ParticipantObjectIdentification", ParticipantObjectID=about_node, ParticipantObjectTypeCode="2"
    )
    add_code(element, "ParticipantObjectIDTypeCode", ("110182", "Node ID"))
    ET.SubElement(element, "ParticipantObjectName").text = about_node
    add_detail(element, "Alert Description", alert)


def forget(session: Session, *, before: dt.datetime) -> int:
    """Remove messages older than the law asks for; returns how many."""
    deleted = session.execute(delete(AuditEvent).where(AuditEvent.at < before).returning(AuditEvent.id))
    return len(deleted.all())
