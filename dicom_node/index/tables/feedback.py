"""Feedback of radiologists on results."""

from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.index.tables.base import Base, Key, Long, Name, Short, Uid, Utc, states


class Verdict(StrEnum):
    """The verdict of a radiologist on one statement of a result."""

    AGREE = "agree"
    """It is right."""
    WRONG = "wrong"
    """It is wrong; what is right was not said."""
    CORRECT = "correct"
    """It is wrong, and `value` is right."""


class Aspect(StrEnum):
    """The aspect of a finding that the feedback is about."""

    PRESENCE = "presence"
    """Presence of the finding."""
    CHANGE = "change"
    """Change since the prior."""
    LOCATION = "location"
    """Where it is."""
    LEVEL = "level"
    """Severity."""
    RESULT = "result"
    """The whole result; free text."""


class FeedbackSource(StrEnum):
    """By which way the word came."""

    WEB = "web"
    """The pages of this node."""
    REPORT = "report"
    """The radiologist's own report of the study, read by rules."""
    CSV = "csv"
    """A table that somebody filled in."""


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
    aspect: Mapped[Aspect] = mapped_column(states(Aspect, length=64), default=Aspect.PRESENCE)
    stated: Mapped[Short] = mapped_column(default="")
    """The node's statement at the time."""
    verdict: Mapped[Verdict] = mapped_column(states(Verdict))
    value: Mapped[Short] = mapped_column(default="")
    """The right value in the ontology's words, with verdict "correct"."""
    comment: Mapped[Long] = mapped_column(default="")
    author: Mapped[Name] = mapped_column(default="")
    role: Mapped[Short] = mapped_column(default="")
    source: Mapped[FeedbackSource] = mapped_column(states(FeedbackSource, length=64))
    created_at: Mapped[Utc]
    report_pk: Mapped[int | None] = mapped_column(BigInteger, default=None, index=True)
    """The ReceivedReport that says it; no foreign key, as its table comes later."""
    withdrawn_at: Mapped[Utc | None] = mapped_column(default=None)
    """When a corrected report took it back; such a row counts nowhere."""
