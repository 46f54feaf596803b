"""The job queue's table."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.index.tables.base import Base, Json, Key, Long, Name, Utc, states


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
    kind: Mapped[JobKind] = mapped_column(states(JobKind))
    key: Mapped[Name] = mapped_column(unique=True)
    """Says what the job is for; enqueueing the same key twice makes one job."""
    payload: Mapped[Json]
    state: Mapped[JobState] = mapped_column(states(JobState), default=JobState.READY)
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
