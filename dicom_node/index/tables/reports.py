"""The table of radiologists' reports that came in, and what became of each."""

import datetime as dt
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Index
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.index.tables.core import Base, Key, Long, Name, Short, Uid, Utc, states


class ReportKind(StrEnum):
    """By which way a report came."""

    SR = "sr"
    """A DICOM Structured Report by C-STORE or import."""
    HL7 = "hl7"
    """An HL7 v2 ORU^R01 over MLLP."""


class ReportState(StrEnum):
    """The state of a report.

    pending -A-> used, contradictory, unmatched, duplicate or refused; unmatched -B-> pending (a result came, or it is
    time for another look); used or contradictory -C-> pending (the study has a newer result); any -D-> superseded.
    """

    PENDING = "pending"
    """A job will read it."""
    USED = "used"
    """Its statements stand as feedback on the node's result."""
    CONTRADICTORY = "contradictory"
    """It says two things of a finding: those findings are not used, the others are."""
    UNMATCHED = "unmatched"
    """No result of ours belongs to it, or not for certain; looked at again for a while."""
    SUPERSEDED = "superseded"
    """A corrected or verified report stands in its place; its feedback is withdrawn."""
    DUPLICATE = "duplicate"
    """The same text of the same study came before."""
    REFUSED = "refused"
    """No radiologist's final word: preliminary, cancelled, written by a machine, or without readable text."""


class ReceivedReport(Base):
    """One report. Holds its own UIDs and text, so that it outlives the study's retention."""

    __tablename__ = "received_report"
    __table_args__ = (
        Index("ix_received_report_state", "state", "looked_at"),
        Index("ix_received_report_study", "matched_study_uid"),
        Index("ix_received_report_order", "order_key"),
    )

    id: Mapped[Key]
    kind: Mapped[ReportKind] = mapped_column(states(ReportKind))
    source_key: Mapped[Name] = mapped_column(unique=True)
    """SOPInstanceUID of an SR, the message's hash of an HL7 message: the same thing twice makes one row."""
    state: Mapped[ReportState] = mapped_column(states(ReportState), default=ReportState.PENDING)
    reason: Mapped[Long] = mapped_column(default="")
    """Why it stands where it stands, in a sentence."""
    study_instance_uid: Mapped[Uid] = mapped_column(default="")
    accession_numbers: Mapped[list[str]] = mapped_column(JSON, default=list)
    """Numbers that may be the study's: of an HL7 order several fields are looked at."""
    patient_ids: Mapped[list[list[str]]] = mapped_column(JSON, default=list)
    """[[ID, issuer], …]."""
    order_key: Mapped[Name] = mapped_column(default="")
    """HL7: sender and filler order number; a later final message of the same order corrects the earlier."""
    predecessors: Mapped[list[str]] = mapped_column(JSON, default=list)
    """SOPInstanceUIDs that the SR says it replaces."""
    text: Mapped[Long] = mapped_column(default="")
    text_sha256: Mapped[Uid] = mapped_column(default="")
    author: Mapped[Name] = mapped_column(default="")
    is_verified: Mapped[bool] = mapped_column(default=False)
    written: Mapped[Short] = mapped_column(default="")
    """The sender's own date and time, digits, to tell which of two messages is the later one."""
    sender: Mapped[Name] = mapped_column(default="")
    received_at: Mapped[Utc]
    looked_at: Mapped[Utc | None] = mapped_column(default=None)
    looks: Mapped[int] = mapped_column(default=0)
    matched_study_uid: Mapped[Uid] = mapped_column(default="")
    labeller: Mapped[Name] = mapped_column(default="")
    labels: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    """Every label with its sentence and rule: what the report was understood to say."""
    contradictions: Mapped[list[dict[str, str]]] = mapped_column(JSON, default=list)
    """[{"finding": …, "why": …}]."""


def new_report(kind: ReportKind, source_key: str, *, now: dt.datetime, **values: Any) -> dict[str, Any]:
    """The column values of a report that just came."""
    defaults: dict[str, Any] = {
        "state": ReportState.PENDING,
        "reason": "",
        "study_instance_uid": "",
        "accession_numbers": [],
        "patient_ids": [],
        "order_key": "",
        "predecessors": [],
        "text": "",
        "text_sha256": "",
        "author": "",
        "is_verified": False,
        "written": "",
        "sender": "",
        "looked_at": None,
        "looks": 0,
        "matched_study_uid": "",
        "labeller": "",
        "labels": [],
        "contradictions": [],
    }
    return {"kind": kind, "source_key": source_key, "received_at": now, **defaults, **values}
