"""The tables of backfill: a run over an archive's past, the date ranges it asks for, and the studies of the run."""

from enum import StrEnum

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.index.tables.base import Base, Key, Long, Name, Short, Uid, Utc, states


class BackfillRunState(StrEnum):
    """State of a run.

    running -A-> paused -B-> running, by a person; running -C-> done, when nothing of it is left; running or paused -D->
    cancelled, by a person; done or cancelled -E-> running, by a person's retry.
    """

    RUNNING = "running"
    """The leader dispatches its work, within its hours and limits."""
    PAUSED = "paused"
    """Nothing new is asked or fetched; what was fetched is still analysed."""
    DONE = "done"
    """Every range was listed and every study has its end."""
    CANCELLED = "cancelled"
    """A person ended it; what was not begun stays undone."""


ENDED_RUN_STATES = (BackfillRunState.DONE, BackfillRunState.CANCELLED)


class BackfillRun(Base):
    """One backfill by its name, with its limits towards the archive."""

    __tablename__ = "backfill_run"
    __table_args__ = (Index("ix_backfill_run_state", "state"),)

    id: Mapped[Key]
    name: Mapped[Name] = mapped_column(unique=True)
    archive: Mapped[Name]
    """Name of the [[query]] peer."""
    state: Mapped[BackfillRunState] = mapped_column(states(BackfillRunState), default=BackfillRunState.RUNNING)
    first_date: Mapped[Short] = mapped_column(default="")
    """DA; "" for a run over a list."""
    last_date: Mapped[Short] = mapped_column(default="")
    sends_reports: Mapped[bool] = mapped_column(default=False)
    """False: results stay in the index, and no document of them is sent."""
    per_minute: Mapped[float]
    """Studies fetched in a minute, priors included."""
    at_once: Mapped[int]
    """Studies being fetched at the same time."""
    hours: Mapped[Name] = mapped_column(default="")
    """Windows of the week in which the archive may be asked (`dicom_node.weekly_window`), joined by ";"; "": always."""
    timezone: Mapped[Short] = mapped_column(default="")
    """IANA name of the zone of `hours`; "": the machine's own."""
    most_answers: Mapped[int]
    """A query with so many answers is taken for one that the archive cut short, and is asked again in halves."""
    started_by: Mapped[Name] = mapped_column(default="")
    created_at: Mapped[Utc]
    updated_at: Mapped[Utc]
    ended_at: Mapped[Utc | None] = mapped_column(default=None)
    next_fetch_at: Mapped[Utc]
    """When the rate allows the next study to be fetched."""
    held_until: Mapped[Utc | None] = mapped_column(default=None)
    """The archive could not be reached: nothing is asked of it before this."""
    held_reason: Mapped[Long] = mapped_column(default="")
    unreachable_times: Mapped[int] = mapped_column(default=0)
    """Failed connections in a row."""


class BackfillRangeState(StrEnum):
    """State of a date range.

    waiting -A-> asking (a job has it) -B-> listed; asking -C-> split, into two halves that wait; asking -D-> waiting
    (run paused, out of hours, or to be tried again); asking -E-> failed; failed -F-> waiting, by a person's retry.
    """

    WAITING = "waiting"
    ASKING = "asking"
    LISTED = "listed"
    """Every study that the archive listed in it is an item."""
    SPLIT = "split"
    """The archive limits its answers: the two halves are ranges of their own."""
    FAILED = "failed"
    """Tried as often as it may be, or too many studies in its last part; `last_error` says which."""


class BackfillRange(Base):
    """Some days of a run, or some hours of one day."""

    __tablename__ = "backfill_range"
    __table_args__ = (
        UniqueConstraint("run_pk", "first_date", "last_date", "first_time", "last_time"),
        Index("ix_backfill_range_next", "run_pk", "state", "first_date", "first_time"),
    )

    id: Mapped[Key]
    run_pk: Mapped[int] = mapped_column(ForeignKey("backfill_run.id", ondelete="CASCADE"))
    first_date: Mapped[Short]
    last_date: Mapped[Short]
    first_time: Mapped[Short] = mapped_column(default="")
    """HHMMSS; "": from midnight."""
    last_time: Mapped[Short] = mapped_column(default="")
    """HHMMSS; "": to the end of the day."""
    state: Mapped[BackfillRangeState] = mapped_column(states(BackfillRangeState), default=BackfillRangeState.WAITING)
    due_at: Mapped[Utc]
    attempts: Mapped[int] = mapped_column(default=0)
    dispatches: Mapped[int] = mapped_column(default=0)
    """The number of jobs it has had; part of the job's key."""
    listed: Mapped[int] = mapped_column(default=0)
    """Radiographs among its answers."""
    others: Mapped[int] = mapped_column(default=0)
    """Answers of other modalities, which are no items."""
    last_error: Mapped[Long] = mapped_column(default="")


class BackfillItemState(StrEnum):
    """State of a study in a run.

    waiting -A-> fetching (a job has it) -B-> analysing (it and its priors are here, its analysis is enqueued) -C->
    analysed; fetching -D-> waiting (paused, out of hours, archive away, or to be tried again); fetching or analysing
    -E-> skipped or failed; failed -F-> waiting, by a person's retry. C to E give `reason` and `detail`.
    """

    WAITING = "waiting"
    FETCHING = "fetching"
    ANALYSING = "analysing"
    ANALYSED = "analysed"
    """It has a result with findings."""
    SKIPPED = "skipped"
    """It has none and will not have one; `reason` says why."""
    FAILED = "failed"
    """Tried as often as it may be; `dicom-node backfill retry` tries again."""


class BackfillReason(StrEnum):
    """Why a study of a run was skipped or failed; a refusal of the analysis gives its own words instead."""

    KNOWN = "already analysed"
    """The node had its result, or was at it, before this run came to it."""
    ROUTED = "routed meanwhile"
    """It was sent to the node during the run, and is reported as any study that is sent."""
    GONE = "gone"
    """The archive lists no such study any more, or it was removed here before its analysis."""
    NOT_RADIOGRAPH = "not a projection radiograph"
    NOT_CHEST = "not a chest radiograph"
    TOO_MANY = "too many images"
    """More than priors.fetch_instances."""
    REFUSED = "refused"
    """The archive refused, broke off, or sent less than it listed, at every attempt."""
    UNREACHABLE = "unreachable"
    """The archive could not be reached; the study waits until it can."""
    UNREADABLE = "unreadable"
    """No object of it can be read."""
    NOT_ANALYSED = "analysis failed"
    """Its analysis is a dead job; `dicom-node jobs` shows it."""
    BROKEN = "fetching failed here"
    """Its job died on this node's side; `detail` has the error."""


class BackfillItem(Base):
    """One study of a run."""

    __tablename__ = "backfill_item"
    __table_args__ = (
        UniqueConstraint("run_pk", "study_instance_uid"),
        # The next to fetch, oldest study first: a later report rests on the results of earlier ones.
        Index("ix_backfill_item_next", "run_pk", "state", "study_date", "study_time", "id"),
        Index("ix_backfill_item_study", "study_instance_uid"),
        Index("ix_backfill_item_ended", "run_pk", "ended_at"),
    )

    id: Mapped[Key]
    run_pk: Mapped[int] = mapped_column(ForeignKey("backfill_run.id", ondelete="CASCADE"))
    study_instance_uid: Mapped[Uid]
    study_date: Mapped[Short] = mapped_column(default="")
    study_time: Mapped[Short] = mapped_column(default="")
    state: Mapped[BackfillItemState] = mapped_column(states(BackfillItemState), default=BackfillItemState.WAITING)
    reason: Mapped[Short] = mapped_column(default="")
    detail: Mapped[Long] = mapped_column(default="")
    due_at: Mapped[Utc]
    attempts: Mapped[int] = mapped_column(default=0)
    dispatches: Mapped[int] = mapped_column(default=0)
    fetched: Mapped[int] = mapped_column(default=0)
    """Studies fetched for it: itself, unless it was here, and its priors."""
    found_at: Mapped[Utc]
    ended_at: Mapped[Utc | None] = mapped_column(default=None)
