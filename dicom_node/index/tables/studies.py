"""Received studies, series and instances."""

from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dicom_node.index.tables.base import Base, Key, Long, Name, Short, Uid, Utc, states

if TYPE_CHECKING:
    from dicom_node.index.tables.results import Result


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


class StudyPurpose(StrEnum):
    """Why the node holds a study."""

    ROUTED = "routed"
    """Sent to this node for analysis."""
    PRIOR = "prior"
    """Fetched or imported as comparison material; never analysed itself."""
    BACKFILL = "backfill"
    """Fetched by a backfill and analysed as bulk work; one that is sent to this node afterwards becomes ROUTED."""
    REPORT = "report"
    """Only a radiologist's report of it has come so far."""


class CompletedBy(StrEnum):
    """The rule that closed a study."""

    NOTHING = ""
    """It is open."""
    QUIET = "quiet"
    """No instance came for the quiet period."""
    COUNT = "count"
    """The archive lists as many instances as are here."""
    DEADLINE = "deadline"
    """It was open for as long as a study may be."""
    BACKFILL = "backfill"
    """A backfill brought it whole."""
    FORCED = "forced"
    """A person asked for it."""


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
    state: Mapped[StudyState] = mapped_column(states(StudyState), default=StudyState.OPEN)
    revision: Mapped[int] = mapped_column(default=1)
    """Grows by one whenever a late instance re-opens the study."""
    opened_at: Mapped[Utc | None] = mapped_column(default=None)
    """When a late image re-opened it; None: at `first_instance_at`. The completion deadline runs from here."""
    first_instance_at: Mapped[Utc]
    last_instance_at: Mapped[Utc]
    completed_at: Mapped[Utc | None] = mapped_column(default=None)
    completed_by: Mapped[CompletedBy] = mapped_column(states(CompletedBy, length=64), default=CompletedBy.NOTHING)
    calling_ae_title: Mapped[Short] = mapped_column(default="")
    purpose: Mapped[StudyPurpose] = mapped_column(states(StudyPurpose, length=64), default=StudyPurpose.ROUTED)

    series: Mapped[list["Series"]] = relationship(back_populates="study", cascade="all, delete-orphan")
    results: Mapped[list["Result"]] = relationship(back_populates="study", cascade="all, delete-orphan")


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

    study: Mapped["Study"] = relationship(back_populates="series")
    instances: Mapped[list["Instance"]] = relationship(back_populates="series", cascade="all, delete-orphan")


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

    series: Mapped["Series"] = relationship(back_populates="instances")


class SearchOutcome(StrEnum):
    """The outcome of asking one query peer for a study's priors."""

    FETCHED = "fetched"
    """At least one earlier study arrived whole."""
    NOTHING = "nothing"
    """The peer lists no earlier chest radiograph of this person."""
    FAILED = "failed"
    """The peer did not answer, or sent less than it listed."""


class PriorSearch(Base):
    """The answer of one query peer on a study's priors; the newest answer replaces the one before."""

    __tablename__ = "prior_search"
    __table_args__ = (UniqueConstraint("study_pk", "peer"),)

    id: Mapped[Key]
    study_pk: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"))
    peer: Mapped[Name]
    outcome: Mapped[SearchOutcome] = mapped_column(states(SearchOutcome, length=64))
    detail: Mapped[Long] = mapped_column(default="")
    """A sentence for the report and the status page."""
    found: Mapped[int] = mapped_column(default=0)
    """The number of earlier studies of this person listed by the peer that may hold a frontal chest radiograph."""
    fetched: Mapped[list[str]] = mapped_column(JSON, default=list)
    """StudyInstanceUIDs of what arrived whole."""
    searched_at: Mapped[Utc]


class ExpectedRetrieval(Base):
    """A study that is being fetched from a peer by C-MOVE: what arrives of it from there is a prior."""

    __tablename__ = "expected_retrieval"

    study_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)
    calling_ae_title: Mapped[Short] = mapped_column(default="")
    until: Mapped[Utc]
