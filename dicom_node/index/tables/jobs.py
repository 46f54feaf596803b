"""The job queue's table."""

from enum import StrEnum

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.index.tables.base import Base, Json, Key, Long, Name, Short, Utc, states


class JobKind(StrEnum):
    """The kind of work that a job does."""

    ANALYSE = "analyse"
    """A complete study revision → result, documents, deliveries."""
    DELIVER = "deliver"
    """One document → one destination."""
    BACKFILL = "backfill"
    """List a date range of an archive, or bring one of its past studies and have it analysed."""
    FETCH = "fetch"
    """Ask the query peers for priors of a study."""
    SHADOW = "shadow"
    """Have the challenger answer a pair that has its result."""
    REPORT = "report"
    """Read a radiologist's report that came in."""


class JobState(StrEnum):
    """State of a job; `dicom_node.jobs.queue` has every transition and their diagram."""

    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    """Out of attempts: needs a person. Counted, listed, notified."""


class Job(Base):
    """One durable piece of work. See `dicom_node.jobs.queue` for every transition."""

    __tablename__ = "job"
    __table_args__ = (
        # The order of a claim for one kind: one index entry is read however long the queue is. Not partial: a bound
        # parameter for the state would keep PostgreSQL from using a partial index.
        Index("ix_job_next", "kind", "state", "priority", "run_at", "id"),
        Index("ix_job_lease", "state", "lease_until"),
    )

    id: Mapped[Key]
    kind: Mapped[JobKind] = mapped_column(states(JobKind))
    key: Mapped[Name] = mapped_column(unique=True)
    """Says what the job is for; enqueueing the same key twice makes one job."""
    payload: Mapped[Json]
    state: Mapped[JobState] = mapped_column(states(JobState), default=JobState.READY)
    priority: Mapped[int] = mapped_column(default=100)
    """Lower runs first."""
    attempts: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int] = mapped_column(default=8)
    run_at: Mapped[Utc]
    lease_owner: Mapped[Name] = mapped_column(default="")
    lease_until: Mapped[Utc | None] = mapped_column(default=None)
    created_at: Mapped[Utc]
    finished_at: Mapped[Utc | None] = mapped_column(default=None)
    last_error: Mapped[Long] = mapped_column(default="")


class LaneState(StrEnum):
    """The state of a worker's lane."""

    IDLE = "idle"
    """It waits for work."""
    WORKING = "working"
    """It has a job in hand."""
    PAUSED = "paused"
    """It claims nothing: its machine is broken, or its jobs failed one after the other; `reason` says why."""


class WorkerLane(Base):
    """The current work of one lane of one worker process, which the lane renews every few seconds.

    A row that is not renewed is of a worker that is gone; it is deleted after a day.
    """

    __tablename__ = "worker_lane"

    worker: Mapped[Name] = mapped_column(primary_key=True)
    """The process (`dicom_node.system.process_identity`)."""
    lane: Mapped[Short] = mapped_column(primary_key=True)
    kind: Mapped[JobKind] = mapped_column(states(JobKind))
    host: Mapped[Name] = mapped_column(default="")
    """The machine's name, for people; containers repeat it."""
    state: Mapped[LaneState] = mapped_column(states(LaneState), default=LaneState.IDLE)
    reason: Mapped[Long] = mapped_column(default="")
    job_key: Mapped[Name] = mapped_column(default="")
    since: Mapped[Utc]
    """When it came into this state."""
    seen_at: Mapped[Utc]
