"""Looks at the queue: how much waits, what is due next, and whether due work waits without being claimed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.index.clock import database_time, given_clock
from dicom_node.index.tables.core import Job, JobKind, JobState, LaneState, WorkerLane
from dicom_node.jobs import due
from dicom_node.jobs.due import Priority

UNCLAIMED = dt.timedelta(minutes=5)
"""Due work that has waited for so long while no lane of its kind works is told of."""
LANE_IS_GONE = dt.timedelta(minutes=2)
"""A lane that has not reported for so long does not work: it reports every 15 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnclaimedWork:
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
    running = select(Job.id).where(Job.kind == JobKind.ANALYSE, Job.state == JobState.RUNNING)
    if machine is not None:
        running = running.where(Job.lease_owner.startswith(f"{machine}/", autoescape=True))
    # In the order of the index, as `next_due` says.
    if session.scalar(running.order_by(Job.priority, Job.run_at, Job.id).limit(1)) is not None:
        return True
    return seconds_to_next(session, (JobKind.ANALYSE,), within=dt.timedelta(0)) is not None


def seconds_to_next(session: Session, kinds: Collection[JobKind], *, within: dt.timedelta) -> float | None:
    """Return in how many seconds the next job of these kinds is due (0: now), or None where none is due `within`."""
    times, present = _soonest(session, kinds, within=within)
    return max(0.0, (min(times.values()) - present).total_seconds()) if times else None


def next_times(
    session: Session, kinds: Collection[JobKind], *, within: dt.timedelta
) -> dict[JobKind, tuple[dt.datetime, bool]]:
    """Return for each kind of which a job is due `within` when the first is, and whether that is now or past."""
    times, present = _soonest(session, kinds, within=within)
    return {kind: (run_at, run_at <= present) for kind, run_at in times.items()}


def count_due(session: Session, kind: JobKind, *, most: int) -> int:
    """Count the jobs of a kind that are due and wait, but not further than `most`."""
    on_server, counted = given_clock(session) is None, 0
    given = due.given_times(session, by=dt.timedelta(0))
    for urgency in Priority:
        looked_at = due.first_due(kind, urgency, on_server)
        counted += len(looked_at.execute(session, {**given, "most": most - counted}))
        if counted == most:
            break
    return counted


def _soonest(
    session: Session, kinds: Collection[JobKind], *, within: dt.timedelta
) -> tuple[dict[JobKind, dt.datetime], dt.datetime]:
    """When the first ready job of each kind was or is due, of those due `within`, and the database's time.

    One round trip.
    """
    asked = [(kind, urgency) for kind in kinds for urgency in Priority]
    given = due.given_times(session, by=within, present=dt.timedelta(0))
    ((*first, present),) = due.looks(tuple(kinds), within, given_clock(session) is None).execute(session, given)
    times: dict[JobKind, dt.datetime] = {}
    for (kind, _), run_at in zip(asked, first, strict=True):
        if run_at is not None:
            # Each kind was asked once for each urgency, because the index is ordered within one.
            times[kind] = min(run_at, times.get(kind, run_at))
    return times, present


def depth(session: Session) -> dict[tuple[JobKind, JobState], int]:
    """Count the jobs by kind and state."""
    rows = session.execute(select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state))
    return {(kind, state): count for kind, state, count in rows}


def find_unclaimed_work(session: Session) -> list[UnclaimedWork]:
    """Return the kinds of which due work waits although no lane works on them, each with the reason."""
    times, _ = _soonest(session, tuple(JobKind), within=-UNCLAIMED)
    unclaimed = []
    for kind, due_since in times.items():
        reason = _why_nobody_works(session, kind)
        if reason:
            unclaimed.append(UnclaimedWork(kind=kind, due_since=due_since, reason=reason))
    return unclaimed


def find_lost_workers(session: Session) -> dt.datetime | None:
    """Return when a worker last reported, where every one that is listed ended without stopping; else None.

    One that stops withdraws its lanes. A node that was killed while nothing waited shows by this alone.
    """
    newest = func.max(WorkerLane.seen_at)
    # An aggregate without GROUP BY has one row always; HAVING drops it where the newest report is recent, and also
    # where there is none at all (NULL is not smaller).
    return session.scalar(select(newest).having(newest < database_time(session, -LANE_IS_GONE)))


def worker_troubles(session: Session) -> list[str]:
    """Say for `dicom-node status` what is wrong with the workers; empty where nothing is."""
    unclaimed = [waiting.sentence() for waiting in find_unclaimed_work(session)]
    lost_since = find_lost_workers(session)
    if unclaimed or lost_since is None:
        return unclaimed
    ended = f"a worker that last reported at {lost_since:%Y-%m-%d %H:%M} UTC did not stop in order"
    return [f"{ended}, and none works now: is `dicom-node serve` running?"]


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
