"""Analyses: results, their documents, and the deliveries of these."""

from enum import StrEnum

from sqlalchemy import JSON, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dicom_node.index.tables.base import Base, Json, Key, Long, Name, Short, Uid, Utc, states
from dicom_node.index.tables.studies import Study


class Outcome(StrEnum):
    """The outcome of the analysis of a study revision. Each of them leads to documents."""

    COMPARED = "compared"
    """Findings and changes against a proven prior."""
    FINDINGS_ONLY = "findings only"
    """No prior: findings, and the reason why there is no comparison."""
    NOT_ANALYSED = "not analysed"
    """No answer from the model; the reason is stated (not a chest, no frontal image, unreadable, …)."""


class Result(Base):
    """The findings in one revision of a study, by one checkpoint. At most one per study is current."""

    __tablename__ = "result"
    __table_args__ = (
        UniqueConstraint("study_pk", "revision", "device_uid", "sop_instance_uid", "generation"),
        # One current result per study and image: its partial index stands in `whole_schema`.
    )

    id: Mapped[Key]
    study_pk: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"), index=True)
    revision: Mapped[int]
    generation: Mapped[int] = mapped_column(default=1)
    """Grows when an administrator asks for the same revision to be processed again."""
    sop_instance_uid: Mapped[Uid] = mapped_column(default="")
    """The analysed image; "" where none was fit."""
    outcome: Mapped[Outcome] = mapped_column(states(Outcome))
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

    study: Mapped["Study"] = relationship(back_populates="results")
    documents: Mapped[list["Document"]] = relationship(back_populates="result", cascade="all, delete-orphan")


class DocumentKind(StrEnum):
    """The kind of a result's document."""

    MACHINE = "machine"
    """Comprehensive 3D SR, TID 1500: coded, for software."""
    READING = "reading"
    """Text report in the manner of TID 2000: for the radiologist."""
    PDF = "pdf"
    """Encapsulated PDF of the reading report."""
    CAPTURE = "capture"
    """Secondary Capture: prior and current side by side."""


class Document(Base):
    """One DICOM object that we made of a result."""

    __tablename__ = "document"

    id: Mapped[Key]
    result_pk: Mapped[int] = mapped_column(ForeignKey("result.id", ondelete="CASCADE"), index=True)
    kind: Mapped[DocumentKind] = mapped_column(states(DocumentKind, length=64))
    sop_instance_uid: Mapped[Uid] = mapped_column(unique=True)
    sop_class_uid: Mapped[Uid]
    series_instance_uid: Mapped[Uid]
    path: Mapped[Name]
    sha256: Mapped[Uid]

    result: Mapped["Result"] = relationship(back_populates="documents")
    deliveries: Mapped[list["Delivery"]] = relationship(back_populates="document", cascade="all, delete-orphan")


class DeliveryState(StrEnum):
    """State of one document at one destination; `dicom_node.deliver.transitions` has its diagram."""

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
    state: Mapped[DeliveryState] = mapped_column(states(DeliveryState), default=DeliveryState.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    accepted_sop_class_uid: Mapped[Uid] = mapped_column(default="")
    commitment_transaction_uid: Mapped[Uid] = mapped_column(default="", index=True)
    commitment_asked_at: Mapped[Utc | None] = mapped_column(default=None)
    """When the outstanding proof was asked for; a time-out counts from here."""
    proof_attempts: Mapped[int] = mapped_column(default=0)
    """The number of times proof was asked for since the object was last accepted."""
    proof: Mapped[Short] = mapped_column(default="")
    """The kind of proof: "commitment", "find", "none" or "stow"."""
    created_at: Mapped[Utc]
    updated_at: Mapped[Utc]
    stored_at: Mapped[Utc | None] = mapped_column(default=None)
    confirmed_at: Mapped[Utc | None] = mapped_column(default=None)
    last_error: Mapped[Long] = mapped_column(default="")

    document: Mapped["Document"] = relationship(back_populates="deliveries")
