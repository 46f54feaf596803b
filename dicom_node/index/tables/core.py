"""The tables of the index (SQLAlchemy 2 typed). Study state, jobs and results live here and commit together.

The schema's history is in `migrations/`; a test compares these tables with the migrated schema.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import DateTime, TypeDecorator


class UtcDateTime(TypeDecorator[dt.datetime]):
    """An aware UTC date and time. SQLite keeps no zone: naive values are refused going in, made aware coming out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime has no place in the index; pass aware UTC")
        return value.astimezone(dt.UTC)

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


Key = Annotated[int, mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)]
Uid = Annotated[str, mapped_column(String(64))]
Utc = Annotated[dt.datetime, mapped_column(UtcDateTime)]
Json = Annotated[dict[str, Any], mapped_column(JSON)]
Short = Annotated[str, mapped_column(String(64))]
Name = Annotated[str, mapped_column(String(255))]
Long = Annotated[str, mapped_column(Text)]


def _states(states: type[StrEnum]) -> Enum:
    """A column of one StrEnum, kept as its text: a new state then needs no migration of the column's type."""
    return Enum(
        states, native_enum=False, length=16, create_constraint=False, values_callable=lambda e: [m.value for m in e]
    )


class Base(DeclarativeBase):
    """Declarative base with stable constraint names, so that migrations can name what they drop."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class StudyState(StrEnum):
    """Where a study stands.

    open -A-> complete -B-> analysed; A quiet period, count or deadline; B the analyse job's result is stored.
    complete or analysed -C-> open; C a late image came: revision grows by one.
    """

    OPEN = "open"
    """Instances may still come."""
    COMPLETE = "complete"
    """Closed for now; an analyse job exists for this revision."""
    ANALYSED = "analysed"
    """The current revision has its result."""


class Study(Base):
    """One study as its first instance describes it, and how far the node has come with it."""

    __tablename__ = "study"
    __table_args__ = (
        # The prior look-up: everything of one patient, newest first.
        Index("ix_study_patient", "patient_id", "issuer_of_patient_id", "study_date", "study_time"),
        # The completion sweep: only open studies, oldest activity first.
        Index("ix_study_state_last_instance_at", "state", "last_instance_at"),
        Index("ix_study_accession_number", "accession_number"),
    )

    id: Mapped[Key]
    study_instance_uid: Mapped[Uid] = mapped_column(unique=True)
    patient_id: Mapped[Short] = mapped_column(default="")
    issuer_of_patient_id: Mapped[Short] = mapped_column(default="")
    patient_name: Mapped[Name] = mapped_column(default="")
    """Decoded to Unicode, groups joined by "=", components by "^"."""
    patient_birth_date: Mapped[Short] = mapped_column(default="")
    """DA as received, "" where missing or malformed."""
    patient_sex: Mapped[Short] = mapped_column(default="")
    other_patient_ids: Mapped[list[dict[str, str]]] = mapped_column(JSON, default=list)
    """[{"id": …, "issuer": …}] from OtherPatientIDsSequence."""
    accession_number: Mapped[Short] = mapped_column(default="")
    study_id: Mapped[Short] = mapped_column(default="")
    study_date: Mapped[Short] = mapped_column(default="")
    """DA, the modality's local date."""
    study_time: Mapped[Short] = mapped_column(default="")
    """TM, normalised to HHMMSS.FFFFFF, so that it sorts as text."""
    study_description: Mapped[Name] = mapped_column(default="")
    state: Mapped[StudyState] = mapped_column(_states(StudyState), default=StudyState.OPEN)
    revision: Mapped[int] = mapped_column(default=1)
    """Grows by one whenever a late instance re-opens the study."""
    opened_at: Mapped[Utc | None] = mapped_column(default=None)
    """When a late image re-opened it; None: at `first_instance_at`. The completion deadline runs from here."""
    first_instance_at: Mapped[Utc]
    last_instance_at: Mapped[Utc]
    completed_at: Mapped[Utc | None] = mapped_column(default=None)
    completed_by: Mapped[Short] = mapped_column(default="")
    """One of "quiet", "count", "deadline", "forced"."""
    calling_ae_title: Mapped[Short] = mapped_column(default="")
    purpose: Mapped[Short] = mapped_column(default="routed")
    """One of "routed" (sent to us for analysis), "prior" (fetched as comparison material, never analysed itself) and
    "report" (only a radiologist's report of it came so far)."""

    series: Mapped[list[Series]] = relationship(back_populates="study", cascade="all, delete-orphan")
    results: Mapped[list[Result]] = relationship(back_populates="study", cascade="all, delete-orphan")


class Series(Base):
    """One series."""

    __tablename__ = "series"

    id: Mapped[Key]
    study_pk: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), index=True)
    series_instance_uid: Mapped[Uid] = mapped_column(unique=True)
    modality: Mapped[Short] = mapped_column(default="")
    series_number: Mapped[int | None] = mapped_column(default=None)
    series_description: Mapped[Name] = mapped_column(default="")
    body_part_examined: Mapped[Short] = mapped_column(default="")

    study: Mapped[Study] = relationship(back_populates="series")
    instances: Mapped[list[Instance]] = relationship(back_populates="series", cascade="all, delete-orphan")


class Instance(Base):
    """One stored object. The row is committed after the file is on the disk, and before the peer is told Success."""

    __tablename__ = "instance"

    id: Mapped[Key]
    series_pk: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"), index=True)
    sop_instance_uid: Mapped[Uid] = mapped_column(unique=True)
    sop_class_uid: Mapped[Uid]
    transfer_syntax_uid: Mapped[Uid]
    path: Mapped[Name] = mapped_column(index=True)
    """Relative to the store; our own name, never the wire's."""
    sha256: Mapped[Uid]
    """Of the data set's bytes as received."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    received_at: Mapped[Utc]
    calling_ae_title: Mapped[Short] = mapped_column(default="")
    view_position: Mapped[Short] = mapped_column(default="")
    presentation_intent_type: Mapped[Short] = mapped_column(default="")
    image_type: Mapped[Name] = mapped_column(default="")
    rows: Mapped[int | None] = mapped_column(default=None)
    columns: Mapped[int | None] = mapped_column(default=None)
    instance_number: Mapped[int | None] = mapped_column(default=None)
    acquired_at: Mapped[Short] = mapped_column(default="")
    """Local YYYYMMDDHHMMSS.FFFFFF: the first valid of Acquisition-, Content-, Series- and StudyDate with its time."""
    pixel_sha256: Mapped[Uid] = mapped_column(default="")
    """Of the decoded grey values once they were decoded, to recognise the same film under another UID."""

    series: Mapped[Series] = relationship(back_populates="instances")


class JobKind(StrEnum):
    """What a job does."""

    ANALYSE = "analyse"
    """A complete study revision → result, documents, deliveries."""
    DELIVER = "deliver"
    """One document → one destination."""
    FETCH = "fetch"
    """Ask the query peers for priors of a study."""
    SHADOW = "shadow"
    """Have the challenger answer a pair that has its result."""
    REPORT = "report"
    """Read a radiologist's report that came in."""


class JobState(StrEnum):
    """State of a job.

    ready -A-> running -B-> done; running -C-> ready (retry with back-off, or lease lost); running -D-> dead.
    dead -E-> ready by an administrator's retry, or -F-> done where a dead delivery is abandoned.
    """

    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    """Out of attempts: needs a person. Counted, listed, notified."""


class Job(Base):
    """One durable piece of work. See `dicom_node.jobs.queue` for every transition."""

    __tablename__ = "job"
    __table_args__ = (
        Index("ix_job_claim", "state", "run_at", "priority", "id"),
        Index("ix_job_lease", "state", "lease_until"),
    )

    id: Mapped[Key]
    kind: Mapped[JobKind] = mapped_column(_states(JobKind))
    key: Mapped[Name] = mapped_column(unique=True)
    """Says what the job is for; enqueueing the same key twice makes one job."""
    payload: Mapped[Json]
    state: Mapped[JobState] = mapped_column(_states(JobState), default=JobState.READY)
    priority: Mapped[int] = mapped_column(default=100)
    """Lower runs first; waiting lowers it (anti-starvation)."""
    attempts: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int] = mapped_column(default=8)
    run_at: Mapped[Utc]
    lease_owner: Mapped[Name] = mapped_column(default="")
    lease_until: Mapped[Utc | None] = mapped_column(default=None)
    created_at: Mapped[Utc]
    finished_at: Mapped[Utc | None] = mapped_column(default=None)
    last_error: Mapped[Long] = mapped_column(default="")


class Outcome(StrEnum):
    """How the analysis of a study revision ended. Every one of them leads to documents."""

    COMPARED = "compared"
    """Findings and changes against a proven prior."""
    FINDINGS_ONLY = "findings only"
    """No prior: findings, and the reason why there is no comparison."""
    NOT_ANALYSED = "not analysed"
    """No answer from the model; the reason is stated (not a chest, no frontal image, unreadable, …)."""


class Result(Base):
    """What the node found in one revision of a study, with one checkpoint. At most one per study is current."""

    __tablename__ = "result"
    __table_args__ = (
        UniqueConstraint("study_pk", "revision", "device_uid", "sop_instance_uid", "generation"),
        # One current result per study and image: enforced by the database, not by care.
        Index(
            "uq_result_current",
            "study_pk",
            "sop_instance_uid",
            unique=True,
            sqlite_where=text("is_current"),
            postgresql_where=text("is_current"),
        ),
    )

    id: Mapped[Key]
    study_pk: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), index=True)
    revision: Mapped[int]
    generation: Mapped[int] = mapped_column(default=1)
    """Grows when an administrator asks for the same revision to be processed again."""
    sop_instance_uid: Mapped[Uid] = mapped_column(default="")
    """The analysed image; "" where none was fit."""
    outcome: Mapped[Outcome] = mapped_column(_states(Outcome))
    reason: Mapped[Long] = mapped_column(default="")
    prior_study_instance_uid: Mapped[Uid] = mapped_column(default="")
    prior_sop_instance_uid: Mapped[Uid] = mapped_column(default="")
    prior_reasons: Mapped[list[str]] = mapped_column(JSON, default=list)
    prediction: Mapped[Json] = mapped_column(default=dict)
    """The result.json content."""
    model_name: Mapped[Name] = mapped_column(default="")
    model_version: Mapped[Name] = mapped_column(default="")
    device_uid: Mapped[Uid] = mapped_column(default="")
    seconds: Mapped[Json] = mapped_column(default=dict)
    is_current: Mapped[bool] = mapped_column(default=True)
    supersedes_pk: Mapped[int | None] = mapped_column(ForeignKey("result.id", ondelete="SET NULL"), default=None)
    created_at: Mapped[Utc]

    study: Mapped[Study] = relationship(back_populates="results")
    documents: Mapped[list[Document]] = relationship(back_populates="result", cascade="all, delete-orphan")


class Document(Base):
    """One DICOM object that we made of a result."""

    __tablename__ = "document"

    id: Mapped[Key]
    result_pk: Mapped[int] = mapped_column(ForeignKey("result.id", ondelete="CASCADE"), index=True)
    kind: Mapped[Short]
    """One of "machine", "reading", "pdf", "capture"."""
    sop_instance_uid: Mapped[Uid] = mapped_column(unique=True)
    sop_class_uid: Mapped[Uid]
    series_instance_uid: Mapped[Uid]
    path: Mapped[Name]
    sha256: Mapped[Uid]

    result: Mapped[Result] = relationship(back_populates="documents")
    deliveries: Mapped[list[Delivery]] = relationship(back_populates="document", cascade="all, delete-orphan")


class PriorSearch(Base):
    """What came of asking one query peer for a study's priors; the newest asking replaces the one before."""

    __tablename__ = "prior_search"
    __table_args__ = (UniqueConstraint("study_pk", "peer"),)

    id: Mapped[Key]
    study_pk: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"))
    peer: Mapped[Name]
    outcome: Mapped[Short]
    """One of "fetched", "nothing" and "failed"."""
    detail: Mapped[Long] = mapped_column(default="")
    """A sentence for the report and the status page."""
    found: Mapped[int] = mapped_column(default=0)
    """How many earlier studies of this person the peer listed that may hold a frontal chest radiograph."""
    fetched: Mapped[list[str]] = mapped_column(JSON, default=list)
    """StudyInstanceUIDs of what arrived whole."""
    searched_at: Mapped[Utc]


class ExpectedRetrieval(Base):
    """A study that we fetch from a peer which does not name the move originator: what arrives of it is a prior."""

    __tablename__ = "expected_retrieval"

    study_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    calling_ae_title: Mapped[Short] = mapped_column(default="")
    until: Mapped[Utc]


class DeliveryState(StrEnum):
    """State of one document at one destination.

    pending -A-> stored -B-> confirmed; stored -C-> pending (proof failed: send again); pending or stored -D-> dead;
    pending or stored -E-> superseded; dead -B-> confirmed by a report that comes late;
    dead -F-> abandoned by an administrator.
    """

    PENDING = "pending"
    """Not yet accepted."""
    STORED = "stored"
    """C-STORE answered Success; proof is outstanding."""
    CONFIRMED = "confirmed"
    """Proven by the means that the destination is configured for."""
    DEAD = "dead"
    """Given up; needs a person."""
    SUPERSEDED = "superseded"
    """A newer result of the study exists and the destination has not this one, or lost it: it is no longer sent, since
    it would arrive as the newest document of the study."""
    ABANDONED = "abandoned"
    """A person decided that this destination does not get it; never counts as delivered."""


class Delivery(Base):
    """One document on its way to one destination."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("document_pk", "destination"),
        Index("ix_delivery_state", "state", "updated_at"),
    )

    id: Mapped[Key]
    document_pk: Mapped[int] = mapped_column(ForeignKey("document.id", ondelete="CASCADE"), index=True)
    destination: Mapped[Name]
    state: Mapped[DeliveryState] = mapped_column(_states(DeliveryState), default=DeliveryState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    accepted_sop_class_uid: Mapped[Uid] = mapped_column(default="")
    commitment_transaction_uid: Mapped[Uid] = mapped_column(default="", index=True)
    commitment_asked_at: Mapped[Utc | None] = mapped_column(default=None)
    """When the outstanding proof was asked for; a time-out counts from here."""
    proof_attempts: Mapped[int] = mapped_column(default=0)
    """How often proof was asked for since the object was last accepted."""
    proof: Mapped[Short] = mapped_column(default="")
    """How it was confirmed: "commitment", "find", "none" or "stow"."""
    created_at: Mapped[Utc]
    updated_at: Mapped[Utc]
    stored_at: Mapped[Utc | None] = mapped_column(default=None)
    confirmed_at: Mapped[Utc | None] = mapped_column(default=None)
    last_error: Mapped[Long] = mapped_column(default="")

    document: Mapped[Document] = relationship(back_populates="deliveries")


class Verdict(StrEnum):
    """What a radiologist says of one statement of a result."""

    AGREE = "agree"
    """It is right."""
    WRONG = "wrong"
    """It is wrong; what is right was not said."""
    CORRECT = "correct"
    """It is wrong, and `value` is right."""


class Feedback(Base):
    """One word of a radiologist on one statement. Rows are only added: the newest of one author and source counts.

    Holds its own UIDs, so that it outlives the study's retention and can label a training set.
    """

    __tablename__ = "feedback"
    __table_args__ = (Index("ix_feedback_study", "study_instance_uid", "finding"),)

    id: Mapped[Key]
    result_pk: Mapped[int | None] = mapped_column(ForeignKey("result.id", ondelete="SET NULL"), index=True)
    study_instance_uid: Mapped[Uid]
    sop_instance_uid: Mapped[Uid] = mapped_column(default="")
    """The image that the result speaks of."""
    device_uid: Mapped[Uid] = mapped_column(default="")
    finding: Mapped[Short] = mapped_column(default="")
    """Ontology key; "" where the word is on the whole result."""
    aspect: Mapped[Short] = mapped_column(default="presence")
    """"presence", "change", "location", "level" or "result"."""
    stated: Mapped[Short] = mapped_column(default="")
    """What the node had said."""
    verdict: Mapped[Verdict] = mapped_column(_states(Verdict))
    value: Mapped[Short] = mapped_column(default="")
    """The right value in the ontology's words, with verdict "correct"."""
    comment: Mapped[Long] = mapped_column(default="")
    author: Mapped[Name] = mapped_column(default="")
    role: Mapped[Short] = mapped_column(default="")
    source: Mapped[Short]
    """"web", "report" (a radiologist's SR or HL7 report) or "csv"."""
    created_at: Mapped[Utc]
    report_pk: Mapped[int | None] = mapped_column(BigInteger, default=None, index=True)
    """The ReceivedReport that says it; no foreign key, as its table comes later."""
    withdrawn_at: Mapped[Utc | None] = mapped_column(default=None)
    """When a corrected report took it back; such a row counts nowhere."""


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


class Quarantine(Base):
    """One received object that is not in the index; its file is kept until a person has decided."""

    __tablename__ = "quarantine"
    __table_args__ = (UniqueConstraint("sop_instance_uid", "sha256", "reason"),)

    id: Mapped[Key]
    reason: Mapped[QuarantineReason] = mapped_column(_states(QuarantineReason))
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
    """How often the same bytes came for the same reason: a peer that retries makes one row."""
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
    state: Mapped[CommitmentState] = mapped_column(_states(CommitmentState), default=CommitmentState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[Utc]
    created_at: Mapped[Utc]
    reported_at: Mapped[Utc | None] = mapped_column(default=None)
    last_error: Mapped[Long] = mapped_column(default="")
