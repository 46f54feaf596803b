"""The durable job queue: enqueue, claim, heartbeat, finish, retry, rescue. One row owns each job's state.

Transitions (PENDING work is never only in memory):
  A  ready   → running   claim: one statement, oldest due and most urgent first, lease for `lease`
  B  running → done      complete, in the transaction that writes the job's effect
  C  running → ready     retry with back-off, or rescue of a lost lease
  D  running → dead      out of attempts, or a permanent failure
  E  dead    → ready     an administrator's retry
SQLite claims by UPDATE … RETURNING under BEGIN IMMEDIATE, PostgreSQL by FOR UPDATE SKIP LOCKED.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from dicom_node.index.tables.core import Job, JobKind, JobState
from dicom_node.index.upsert import insert_if_absent

LEASE = dt.timedelta(seconds=60)
"""A worker that has not renewed its lease for so long is taken for dead. Renewed every LEASE / 4."""
FIRST_RETRY = dt.timedelta(seconds=5)
LONGEST_RETRY = dt.timedelta(hours=1)
STARVATION = dt.timedelta(minutes=10)
"""Waiting so long past its time makes a job as urgent as the most urgent one."""


class Priority:
    """Lower runs first."""

    ROUTINE = 100
    BULK = 200
    """Reprocessing and resending of many studies: never before what came from the modality tonight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedJob:
    """A job as its worker sees it; the row may change behind it only by rescue."""

    id: int
    kind: JobKind
    key: str
    payload: Mapping[str, Any]
    attempts: int
    max_attempts: int
    lease_owner: str


class LeaseLostError(Exception):
    """The lease ran out and another worker has the job: drop the work, change nothing."""


def enqueue(
    session: Session,
    kind: JobKind,
    key: str,
    payload: Mapping[str, Any],
    *,
    now: dt.datetime,
    run_at: dt.datetime | None = None,
    priority: int = Priority.ROUTINE,
    max_attempts: int = 8,
) -> bool:
    """Add a job in the caller's transaction. The same key twice makes one job; returns whether this call made it."""
    values = {
        "kind": kind,
        "key": key,
        "payload": dict(payload),
        "state": JobState.READY,
        "priority": priority,
        "attempts": 0,
        "max_attempts": max_attempts,
        "run_at": run_at or now,
        "created_at": now,
        "lease_owner": "",
        "last_error": "",
    }
    return insert_if_absent(session, Job, values, unique=["key"]) is not None


def claim(
    session: Session, *, kinds: Collection[JobKind], owner: str, now: dt.datetime, lease: dt.timedelta = LEASE
) -> ClaimedJob | None:
    """Transition A: take the next due job of one of `kinds`, or None. `owner` must be unique to the claiming worker."""
    due = (Job.state == JobState.READY) & (Job.run_at <= now) & Job.kind.in_(list(kinds))
    # A job that has waited past STARVATION goes before every priority, oldest first.
    starving = select(Job.id).where(due, Job.run_at <= now - STARVATION).order_by(Job.run_at, Job.id).limit(1)
    urgent = select(Job.id).where(due).order_by(Job.priority, Job.run_at, Job.id).limit(1)
    for candidate in (starving, urgent):
        if session.get_bind().dialect.name == "postgresql":
            candidate = candidate.with_for_update(skip_locked=True)
        row = session.execute(
            update(Job)
            .where(Job.id == candidate.scalar_subquery(), Job.state == JobState.READY)
            .values(state=JobState.RUNNING, attempts=Job.attempts + 1, lease_owner=owner, lease_until=now + lease)
            .returning(Job.id, Job.kind, Job.key, Job.payload, Job.attempts, Job.max_attempts)
            .execution_options(synchronize_session=False)
        ).one_or_none()
        if row is not None:
            return ClaimedJob(
                id=row.id,
                kind=row.kind,
                key=row.key,
                payload=row.payload,
                attempts=row.attempts,
                max_attempts=row.max_attempts,
                lease_owner=owner,
            )
    return None


def heartbeat(session: Session, job: ClaimedJob, *, now: dt.datetime, lease: dt.timedelta = LEASE) -> None:
    """Renew the lease. Raises LeaseLostError where the job is no longer this worker's."""
    _change(session, job, lease_until=now + lease)


def complete(session: Session, job: ClaimedJob, *, now: dt.datetime) -> None:
    """Transition B, in the same transaction as the job's effect. Raises LeaseLostError: then roll the effect back."""
    _change(session, job, state=JobState.DONE, finished_at=now, lease_until=None, lease_owner="", last_error="")


def fail(session: Session, job: ClaimedJob, error: str, *, now: dt.datetime, permanent: bool = False) -> JobState:
    """Transition C or D: ready again with back-off, or dead where attempts are used up or a retry cannot help."""
    if permanent or job.attempts >= job.max_attempts:
        _change(session, job, state=JobState.DEAD, finished_at=now, lease_until=None, lease_owner="", last_error=error)
        return JobState.DEAD
    _change(
        session,
        job,
        state=JobState.READY,
        run_at=now + back_off(job.attempts),
        lease_until=None,
        lease_owner="",
        last_error=error,
    )
    return JobState.READY


def postpone(session: Session, job: ClaimedJob, *, now: dt.datetime, until: dt.datetime) -> None:
    """Give the job back without counting the attempt: what it waits for is not its own failure (shutdown, proof)."""
    _change(
        session,
        job,
        state=JobState.READY,
        run_at=until,
        attempts=max(job.attempts - 1, 0),
        lease_until=None,
        lease_owner="",
    )


def rescue(session: Session, *, now: dt.datetime) -> list[str]:
    """Transition C for every running job whose lease ran out; returns their keys."""
    return _take_from_lost(session, Job.lease_until < now, now=now)


def release(session: Session, *, owner_prefix: str, now: dt.datetime) -> int:
    """Give back at once all running jobs of workers that are known to be gone (start of the same node again)."""
    return len(_take_from_lost(session, Job.lease_owner.startswith(owner_prefix, autoescape=True), now=now))


def _take_from_lost(session: Session, lost: ColumnElement[bool], *, now: dt.datetime) -> list[str]:
    """Transition C for running jobs that their worker will not end; returns their keys.

    A job that was lost with its worker as often as it may be tried goes dead (D): it may be what kills the worker, and
    a node that starts again and again would otherwise die of it for ever.
    """
    lost = (Job.state == JobState.RUNNING) & lost
    keys: list[str] = []
    for spent, values in (
        (
            Job.attempts >= Job.max_attempts,
            {"state": JobState.DEAD, "finished_at": now, "last_error": "the worker was lost at every attempt"},
        ),
        (
            Job.attempts < Job.max_attempts,
            {"state": JobState.READY, "run_at": now, "last_error": "the worker was lost"},
        ),
    ):
        changed = session.execute(
            update(Job)
            .where(lost, spent)
            .values(lease_until=None, lease_owner="", **values)
            .returning(Job.key)
            .execution_options(synchronize_session=False)
        )
        keys.extend(changed.scalars())
    return keys


def retry_dead(session: Session, *, now: dt.datetime, keys: Collection[str] | None = None) -> list[str]:
    """Transition E for the dead jobs with these keys (None: all of them); returns the keys that were revived."""
    chosen = Job.state == JobState.DEAD
    if keys is not None:
        chosen &= Job.key.in_(list(keys))
    revived = session.execute(
        update(Job)
        .where(chosen)
        .values(state=JobState.READY, run_at=now, attempts=0, finished_at=None)
        .returning(Job.key)
        .execution_options(synchronize_session=False)
    )
    return list(revived.scalars())


def forget_done(session: Session, *, before: dt.datetime) -> int:
    """Delete the rows of jobs that were done before `before`: a finished job's effect is elsewhere."""
    gone = session.execute(
        delete(Job)
        .where(Job.state == JobState.DONE, Job.finished_at < before)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return len(gone.all())


def depth(session: Session) -> dict[tuple[JobKind, JobState], int]:
    """How many jobs there are by kind and state."""
    rows = session.execute(select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state))
    return {(kind, state): count for kind, state, count in rows}


def back_off(attempts: int) -> dt.timedelta:
    """FIRST_RETRY doubled for each failed attempt, at most LONGEST_RETRY, with ±20 % jitter against a herd."""
    doublings = min(attempts - 1, 12)
    return min(FIRST_RETRY * float(2**doublings), LONGEST_RETRY) * random.uniform(0.8, 1.2)


def _change(session: Session, job: ClaimedJob, **values: Any) -> None:
    """Change the row only while it is still this worker's."""
    changed = session.execute(
        update(Job)
        .where(Job.id == job.id, Job.state == JobState.RUNNING, Job.lease_owner == job.lease_owner)
        .values(**values)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    if changed.scalar_one_or_none() is None:
        raise LeaseLostError(f"job {job.key} is no longer held by {job.lease_owner}")
