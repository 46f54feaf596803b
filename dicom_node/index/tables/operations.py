"""The tables of operation: audit, notices, holds, counters, quarantine, commitment requests of peers."""

from enum import StrEnum

from sqlalchemy import JSON, BigInteger, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.index.tables.base import Base, Key, Long, Name, Short, Uid, Utc, states


class AuditEvent(Base):
    """One audit message (DICOM PS3.15 section A.5), kept here and sent to the syslog collector where one is set."""

    __tablename__ = "audit_event"
    __table_args__ = (Index("ix_audit_event_unsent", "sent_at", "id"),)

    id: Mapped[Key]
    at: Mapped[Utc] = mapped_column(index=True)
    event_id: Mapped[Short]
    """Code value of the DCM event, for example "110104"."""
    event_type: Mapped[Short] = mapped_column(default="")
    outcome: Mapped[int] = mapped_column(default=0)
    """0 success, 4 minor, 8 serious, 12 major failure."""
    message: Mapped[Long]
    """The XML message."""
    sent_at: Mapped[Utc | None] = mapped_column(default=None)


class Notice(Base):
    """Something that a person was or will be told. One row per key: the same trouble is told once."""

    __tablename__ = "notice"

    id: Mapped[Key]
    key: Mapped[Name] = mapped_column(unique=True)
    kind: Mapped[Short]
    text: Mapped[Long]
    created_at: Mapped[Utc]
    sent_at: Mapped[Utc | None] = mapped_column(default=None)
    next_attempt_at: Mapped[Utc]
    attempts: Mapped[int] = mapped_column(default=0)
    last_error: Mapped[Long] = mapped_column(default="")


class Hold(Base):
    """A study that retention may not touch, and for whom: a training snapshot, a legal matter."""

    __tablename__ = "hold"
    __table_args__ = (UniqueConstraint("study_instance_uid", "holder"),)

    id: Mapped[Key]
    study_instance_uid: Mapped[Uid]
    holder: Mapped[Name]
    """For example "snapshot 2026-03-01"."""
    created_at: Mapped[Utc]


class Tally(Base):
    """A counter of what leaves no row of its own, such as refused instances; shared by all processes."""

    __tablename__ = "tally"

    name: Mapped[Short] = mapped_column(primary_key=True)
    label: Mapped[Name] = mapped_column(primary_key=True, default="")
    value: Mapped[int] = mapped_column(BigInteger, default=0)


class QuarantineReason(StrEnum):
    """Why a received object is kept apart."""

    CONFLICT = "conflict"
    """Its SOPInstanceUID already names an object with other content."""
    BAD_UID = "bad uid"
    """One of its UIDs is no UID (PS3.5 section 9.1)."""
    UNREADABLE = "unreadable"
    """Its bytes are no data set in the transfer syntax that was negotiated."""
    MISMATCH = "mismatch"
    """The data set is not what the C-STORE request or the index says it is."""
    NOT_ALLOWED = "not allowed"
    """A rejection note of a peer that may send none."""
    CLAIM = "claim"
    """As CONFLICT, for another patient, by a peer whose word does not put in doubt what is held."""


class Quarantine(Base):
    """One received object that is not in the index; its file is kept until a person has decided."""

    __tablename__ = "quarantine"
    __table_args__ = (UniqueConstraint("sop_instance_uid", "sha256", "reason"),)

    id: Mapped[Key]
    reason: Mapped[QuarantineReason] = mapped_column(states(QuarantineReason))
    detail: Mapped[Long] = mapped_column(default="")
    sop_instance_uid: Mapped[Name]
    """As on the wire, which may be anything; cut to the column's length."""
    sop_class_uid: Mapped[Name] = mapped_column(default="")
    path: Mapped[Name]
    """Relative to the store, under its quarantine folder."""
    sha256: Mapped[Uid]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    calling_ae_title: Mapped[Short] = mapped_column(default="")
    address: Mapped[Short] = mapped_column(default="")
    received_at: Mapped[Utc]
    times: Mapped[int] = mapped_column(default=1)
    """The number of times that the same bytes came for the same reason: a peer that retries makes one row."""
    resolved_at: Mapped[Utc | None] = mapped_column(default=None)


class CommitmentState(StrEnum):
    """State of a peer's storage commitment request.

    pending -A-> reported; pending -B-> dead.
    """

    PENDING = "pending"
    """The peer's answer to our N-EVENT-REPORT is outstanding."""
    REPORTED = "reported"
    """The peer took the report."""
    DEAD = "dead"
    """No way to the peer was found in time: it may ask again."""


class CommitmentRequest(Base):
    """A peer asked whether we hold its objects (PS3.4 annex J); kept until it has our report."""

    __tablename__ = "commitment_request"
    __table_args__ = (
        UniqueConstraint("calling_ae_title", "transaction_uid"),
        Index("ix_commitment_request_due", "state", "next_attempt_at"),
    )

    id: Mapped[Key]
    transaction_uid: Mapped[Uid]
    calling_ae_title: Mapped[Short]
    referenced_sops: Mapped[list[list[str]]] = mapped_column(JSON)
    """[[SOPClassUID, SOPInstanceUID], …] as asked."""
    state: Mapped[CommitmentState] = mapped_column(states(CommitmentState), default=CommitmentState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[Utc]
    created_at: Mapped[Utc]
    reported_at: Mapped[Utc | None] = mapped_column(default=None)
    last_error: Mapped[Long] = mapped_column(default="")
