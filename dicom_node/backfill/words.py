"""A run in lines for people, the same in `dicom-node backfill status` and `dicom-node status`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.backfill.limits import obstacle
from dicom_node.backfill.progress import RunProgress, progress_of
from dicom_node.context import NodeContext
from dicom_node.index.tables.backfill import BackfillRun, BackfillRunState


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


def unfinished_runs(session: Session) -> list[BackfillRun]:
    """The runs that are running or paused, oldest first."""
    states = (BackfillRunState.RUNNING, BackfillRunState.PAUSED)
    return list(session.scalars(select(BackfillRun).where(BackfillRun.state.in_(states)).order_by(BackfillRun.id)))


def summary_lines(session: Session, run: BackfillRun, node: NodeContext) -> Iterator[str]:
    """One line on a run for `dicom-node status`."""
    counted = progress_of(session, run, now=node.clock())
    left = f", about {duration(counted.time_left)} left" if counted.left and counted.time_left is not None else ""
    waits = f"; {why}" if (why := obstacle(run, node)) and run.state is BackfillRunState.RUNNING else ""
    yield f"{run.name} {run.state}: {counted.total - counted.left} of {counted.expected} studies{left}{waits}"


def duration(span: dt.timedelta) -> str:
    """A time span in minutes, hours or days."""
    hours = span.total_seconds() / 3600
    if hours < 2:
        return f"{max(1, round(hours * 60))} min"
    return f"{round(hours)} hours" if hours < 48 else f"{round(hours / 24)} days"


def _day(date: str) -> str:
    """A DA as people write it."""
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"
