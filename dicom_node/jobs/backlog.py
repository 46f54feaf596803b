"""Looks at the queue: how much waits, what is due next, and whether due work waits without being claimed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import case, exists, func, or_, select
from sqlalchemy.orm import Session

from dicom_node.index.clock import database_time
from dicom_node.index.tables.core import Job, JobKind, JobState, LaneState, WorkerLane

UNCLAIMED = dt.timedelta(minutes=5)
"""Due work that has waited for so long while no lane of its kind works is told of."""
LANE_IS_GONE = dt.timedelta(minutes=2)
"""A lane that has not reported for so long does not work: it reports every 15 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclaimed:
    """Due work of one kind that nobody takes, and why."""

    kind: JobKind
    due_since: dt.datetime
    reason: str

    def sentence(self) -> str:
        """Say it for a notice, `dicom-node status` and /health/ready."""
        since = f"{self.due_since:%Y-%m-%d %H:%M} UTC"
        return f"{self.kind} jobs have waited since {since} without being claimed: {self.reason}"


def analyses_have_work(session: Session, *, machine: str | None = None) -> bool:
    """Return whether an analysis is due and waits, or runs.

    machine: only those count that run there (`dicom_node.system.process_identity`); a waiting one may come here.
    """
    is_running = Job.state == JobState.RUNNING
    if machine is not None:
        is_running &= Job.lease_owner.startswith(f"{machine}/", autoescape=True)
    is_waiting = (Job.state == JobState.READY) & (Job.run_at <= database_time(session))
    return bool(session.scalar(select(exists().where(Job.kind == JobKind.ANALYSE, or_(is_running, is_waiting)))))


def seconds_to_next(session: Session, kinds: Collection[JobKind], *, within: dt.timedelta) -> float | None:
    """Return in how many seconds the next job of these kinds is due (0: now), or None where none is due `within`."""
    now = database_time(session)
    waiting = Job.kind.in_(list(kinds)) & (Job.state == JobState.READY)
    is_due = exists().where(waiting, Job.run_at <= now)
    soon = select(func.min(Job.run_at)).where(waiting, Job.run_at <= database_time(session, within)).scalar_subquery()
    # One round trip. CASE looks for the soonest, which reads all that are due by then, only where none is due now.
    run_at, present = session.execute(select(case((is_due, now), else_=soon), now)).one()
    return None if run_at is None else max(0.0, (run_at - present).total_seconds())


def depth(session: Session) -> dict[tuple[JobKind, JobState], int]:
    """Count the jobs by kind and state."""
    rows = session.execute(select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state))
    return {(kind, state): count for kind, state, count in rows}


def find_unclaimed_work(session: Session) -> list[Unclaimed]:
    """Return the kinds of which due work waits although no lane works on them, each with the reason."""
    old = database_time(session, -UNCLAIMED)
    found = []
    for kind in JobKind:
        waiting = (Job.kind == kind) & (Job.state == JobState.READY) & (Job.run_at <= old)
        due_since = session.scalar(select(Job.run_at).where(waiting).order_by(Job.priority, Job.run_at).limit(1))
        if due_since is None:
            continue
        reason = _why_nobody_works(session, kind)
        if reason:
            found.append(Unclaimed(kind=kind, due_since=due_since, reason=reason))
    return found


def _why_nobody_works(session: Session, kind: JobKind) -> str:
    """Return "" where a lane of this kind reported lately and is not paused."""
    alive = select(WorkerLane).where(
        WorkerLane.kind == kind, WorkerLane.seen_at > database_time(session, -LANE_IS_GONE)
    )
    lanes = list(session.scalars(alive))
    if any(lane.state is not LaneState.PAUSED for lane in lanes):
        return ""
    if not lanes:
        return "no worker reports; is `dicom-node serve` running with role all or work?"
    return "; ".join(f"{lane.lane} on {lane.host} is paused: {lane.reason}" for lane in lanes)
