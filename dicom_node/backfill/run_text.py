"""Text of a backfill run, the same in `dicom-node backfill status`, in `dicom-node status` and on the Jobs page."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.backfill.limits import obstacle
from dicom_node.backfill.progress import RunProgress, progress_of
from dicom_node.context import NodeContext
from dicom_node.index.tables.backfill import ENDED_RUN_STATES, BackfillRun, BackfillRunState

SHOWN_AFTER_END = dt.timedelta(days=7)
"""The Jobs page shows a run so long after its end."""


def run_lines(run: BackfillRun, counted: RunProgress, waits_for: str) -> Iterator[str]:
    """A run for people: what it is, how far, what holds it up."""
    what = f"{_day(run.first_date)} to {_day(run.last_date)}" if run.first_date else "a list of studies"
    yield f"{run.name}  {run.state}: {what} from {run.archive}"
    ended = counted.total - counted.left
    yield f"  {ended} of {counted.total} studies ended" + (
        f", some {counted.expected} expected in all" if counted.expected > counted.total else ""
    )
    if counted.days:
        yield f"  {counted.days_asked} of {counted.days} days asked for their studies"
    for title, counts in (("studies", counted.studies), ("why", counted.reasons), ("date ranges", counted.ranges)):
        listed = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()) if count)
        yield from [f"  {title}: {listed}"] if listed else []
    yield "  reports: " + ("sent to the destinations" if run.sends_reports else "not sent; results in the index only")
    hours = f"in the hours {run.hours} ({run.timezone or 'local time'})" if run.hours else "at any hour"
    yield f"  at most {run.per_minute:g} studies a minute, {run.at_once} at once, {hours}"
    if waits_for and run.state is BackfillRunState.RUNNING:
        yield f"  waits: {waits_for}"
    if counted.left and counted.time_left is not None:
        yield f"  time left: about {duration(counted.time_left)}"


def run_values(run: BackfillRun, node: NodeContext) -> dict[str, Any]:
    """A run for programs."""
    now = node.clock()
    with node.database.read() as session:
        counted = progress_of(session, run, now=now)
    return {
        "name": run.name,
        "archive": run.archive,
        "state": run.state.value,
        "from": run.first_date,
        "to": run.last_date,
        "reports": run.sends_reports,
        "limits": {
            "per_minute": run.per_minute,
            "at_once": run.at_once,
            "hours": run.hours,
            "timezone": run.timezone,
        },
        "studies": counted.studies,
        "reasons": counted.reasons,
        "ranges": counted.ranges,
        "found": counted.total,
        "expected": counted.expected,
        "left": counted.left,
        "fetched": counted.fetched,
        "per_minute": counted.per_minute,
        "seconds_left": counted.time_left.total_seconds() if counted.time_left is not None else None,
        "waits_for": obstacle(run, node),
        "started_at": run.created_at.isoformat(),
        "ended_at": run.ended_at.isoformat() if run.ended_at else "",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run in few words, for the Jobs page and `dicom-node status`."""

    name: str
    archive: str
    state: str
    ended: int
    """Studies that have their end."""
    expected: int
    """Studies that there may be in all."""
    studies: dict[str, int]
    """Studies by state."""
    waits_for: str
    """The obstacle that holds a running run up; "" where there is none."""
    left: str
    """The time that it may still take, "" where it cannot be told."""


def run_summary(session: Session, run: BackfillRun, node: NodeContext) -> RunSummary:
    """Count what there is of a run, and say what it waits for."""
    counted = progress_of(session, run, now=node.clock())
    can_tell = counted.left and counted.time_left is not None and run.state not in ENDED_RUN_STATES
    return RunSummary(
        name=run.name,
        archive=run.archive,
        state=run.state.value,
        ended=counted.total - counted.left,
        expected=counted.expected,
        studies={state: count for state, count in sorted(counted.studies.items()) if count},
        waits_for=obstacle(run, node) if run.state is BackfillRunState.RUNNING else "",
        left=duration(counted.time_left) if can_tell and counted.time_left is not None else "",
    )


def unfinished_runs(session: Session) -> list[BackfillRun]:
    """The runs that are running or paused, oldest first."""
    return list(
        session.scalars(select(BackfillRun).where(~BackfillRun.state.in_(ENDED_RUN_STATES)).order_by(BackfillRun.id))
    )


def recent_runs(session: Session, *, now: dt.datetime) -> list[BackfillRun]:
    """The unfinished runs, and those that ended within SHOWN_AFTER_END, newest first."""
    is_recent = ~BackfillRun.state.in_(ENDED_RUN_STATES) | (BackfillRun.ended_at > now - SHOWN_AFTER_END)
    return list(session.scalars(select(BackfillRun).where(is_recent).order_by(BackfillRun.id.desc())))


def summary_line(session: Session, run: BackfillRun, node: NodeContext) -> str:
    """One line on a run for `dicom-node status`."""
    summary = run_summary(session, run, node)
    left = f", about {summary.left} left" if summary.left else ""
    waits = f"; {summary.waits_for}" if summary.waits_for else ""
    return f"{summary.name} {summary.state}: {summary.ended} of {summary.expected} studies{left}{waits}"


def duration(span: dt.timedelta) -> str:
    """A time span in minutes, hours or days."""
    hours = span.total_seconds() / 3600
    if hours < 2:
        return f"{max(1, round(hours * 60))} min"
    return f"{round(hours)} hours" if hours < 48 else f"{round(hours / 24)} days"


def _day(date: str) -> str:
    """A DA as people write it."""
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"
