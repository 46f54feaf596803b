"""The durable job queue: every transition of a job's state stands here. One row owns each job's state.

    ready   -A-> running   claim: the most urgent due job, oldest first, with a lease
    running -B-> done      complete, in the transaction that writes the job's effect
    running -C-> ready     fail with back-off, postpone, or a lease that was lost
    running -D-> dead      out of attempts, or a permanent failure
    dead    -E-> ready     an administrator's retry
    dead    -F-> done      an administrator abandons a dead delivery
    ready or dead -G-> done   what the job was for has come about without it (a late commitment report)
    any but running -H-> ready   restart: an administrator's resend

Two rules make this safe on many machines. Times are the database's (`dicom_node.index.clock`), so no function takes
one: a machine whose clock is wrong writes and judges the same leases as all others. And a worker's change is fenced:
it applies only while the row has the worker's own lease owner *and* attempt, so that the late result of a lost lease
is refused even where the job is back with the same worker.

SQLite claims by UPDATE … RETURNING under BEGIN IMMEDIATE, PostgreSQL by FOR UPDATE SKIP LOCKED. Of one person's
analyses only one runs at a time, on whatever worker (`dicom_node.jobs.due`).
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, case, update
from sqlalchemy.orm import Session

from dicom_node.index.clock import database_time, given_clock
from dicom_node.index.row_locks import lock_rows
from dicom_node.index.tables.core import Job, JobKind, JobState
from dicom_node.index.upsert import insert_if_absent
from dicom_node.jobs import statements
from dicom_node.jobs.bell import ring_after_commit
from dicom_node.jobs.due import Priority, claim_analyses_alone, given_times
from dicom_node.system.backoff import pause_after

LEASE = dt.timedelta(seconds=60)
"""A worker that has not renewed its lease for so long is taken for dead. Renewed every LEASE / 4."""
_NOW = dt.timedelta(0)
FIRST_RETRY = dt.timedelta(seconds=5)
LONGEST_RETRY = dt.timedelta(hours=1)
LOST_AT_EVERY_ATTEMPT = "the worker was lost at every attempt"


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
    companions: tuple[ClaimedJob, ...] = ()
    """Jobs of the same kind and owner that its handler does and ends together with it."""


class LeaseLostError(Exception):
    """The lease ran out and another worker has the job: drop the work, change nothing."""


def enqueue(
    session: Session,
    kind: JobKind,
    key: str,
    payload: Mapping[str, Any],
    *,
    run_at: dt.datetime | None = None,
    priority: Priority = Priority.ROUTINE,
    max_attempts: int = 8,
) -> bool:
    """Add a job in the caller's transaction, due at `run_at` (None: at once).

    The same key twice makes one job; returns whether this call made it.
    """
    clock = given_clock(session)
    now = database_time(session) if clock is None else clock()
    values = {
        "kind": kind,
        "key": key,
        "payload": dict(payload),
        "state": JobState.READY,
        "priority": priority,
        "attempts": 0,
        "max_attempts": max_attempts,
        "run_at": now if run_at is None else run_at,
        "created_at": now,
        "lease_owner": "",
        "lease_until": None,
        "finished_at": None,
        "last_error": "",
    }
    is_new = insert_if_absent(session, Job, values, unique=["key"]) is not None
    if is_new:
        ring_after_commit(session)
    return is_new


def claim(
    session: Session, *, kinds: Collection[JobKind], owner: str, lease: dt.timedelta | None = None
) -> ClaimedJob | None:
    """Transition A: take the next due job of one of `kinds`, or None. `owner` must be unique to the claiming thread."""
    # Analyses of one patient build on each other, so two of them must not be claimed at the same moment.
    if JobKind.ANALYSE in kinds:
        claim_analyses_alone(session)
    is_postgresql = session.get_bind().dialect.name == "postgresql"
    held = lease or LEASE
    statement = statements.claim_next(tuple(kinds), held, is_postgresql, given_clock(session) is None)
    given = {"claimer": owner, **given_times(session, by=dt.timedelta(0), until=held)}
    return next((ClaimedJob(**row._asdict(), lease_owner=owner) for row in statement.execute(session, given)), None)


def claim_companions(
    session: Session, job: ClaimedJob, keys: Collection[str], *, lease: dt.timedelta | None = None
) -> ClaimedJob:
    """Transition A for those of these jobs that are due and new, for the owner of `job`, which returns with them."""
    held = lease or LEASE
    statement = statements.claim_new(held, given_clock(session) is None)
    given = {"claimer": job.lease_owner, **given_times(session, by=dt.timedelta(0), until=held)}
    rows = [row for key in sorted(keys) for row in statement.execute(session, {**given, "wanted": key})]
    return replace(job, companions=tuple(ClaimedJob(**row._asdict(), lease_owner=job.lease_owner) for row in rows))


def heartbeat(session: Session, job: ClaimedJob, *, lease: dt.timedelta | None = None) -> None:
    """Renew the lease. Raises LeaseLostError where the job is no longer this worker's."""
    _change(session, job, {"lease_until": lease or LEASE})


def complete(session: Session, job: ClaimedJob) -> None:
    """Transition B, in the same transaction as the job's effect. Raises LeaseLostError: then roll the effect back."""
    _leave(session, job, JobState.DONE, {"finished_at": _NOW}, last_error="")


def fail(
    session: Session,
    job: ClaimedJob,
    error: str,
    *,
    permanent: bool = False,
    payload: Mapping[str, Any] | None = None,
) -> JobState:
    """Transition C or D: ready again with back-off, or dead where attempts are used up or a retry cannot help.

    payload: what the next attempt is to find instead of the present one.
    """
    changes: dict[str, Any] = {"last_error": error} | ({} if payload is None else {"payload": dict(payload)})
    # The claim counted this attempt already.
    if permanent or job.attempts >= job.max_attempts:
        _leave(session, job, JobState.DEAD, {"finished_at": _NOW}, **changes)
        return JobState.DEAD
    _leave(session, job, JobState.READY, {"run_at": back_off(job.attempts)}, **changes)
    return JobState.READY


def postpone(session: Session, job: ClaimedJob, *, until: dt.datetime | None = None) -> None:
    """Give the job back without counting the attempt: what it waits for is not its own failure (shutdown, proof).

    until: when it is due again; None: at once, in the place that it had.
    """
    due = {} if until is None else {"run_at": until}
    _leave(session, job, JobState.READY, {}, attempts=max(job.attempts - 1, 0), **due)


def refund_attempts(session: Session, ids: Collection[int]) -> None:
    """Uncount one attempt of each of these jobs, which failed because of the machine that tried them.

    A job that went dead by that attempt is ready again (E).
    """
    now = database_time(session)
    session.execute(
        update(Job)
        .where(Job.id.in_(list(ids)), Job.state.in_([JobState.READY, JobState.DEAD]), Job.attempts > 0)
        .values(
            attempts=Job.attempts - 1,
            state=JobState.READY,
            # One that waits keeps its back-off: the lane is paused anyway, and other machines need no rush of retries.
            # A dead one has only the due time of long ago.
            run_at=case((Job.state == JobState.DEAD, now), else_=Job.run_at),
            finished_at=None,
        )
        .execution_options(synchronize_session=False)
    )


def rescue(session: Session) -> list[str]:
    """Transition C for every running job whose lease ran out; returns their keys."""
    return _take_from_lost(session, Job.lease_until < database_time(session))


def release(session: Session, *, owner_prefix: str) -> int:
    """Give back at once all running jobs of workers that are known to be gone (start of the same node again)."""
    return len(_take_from_lost(session, Job.lease_owner.startswith(owner_prefix, autoescape=True)))


def _take_from_lost(session: Session, is_lost: ColumnElement[bool]) -> list[str]:
    """Transition C for running jobs that their worker will not end; returns their keys.

    A job that was lost with its worker as often as it may be tried goes dead (D): it may be what kills the worker, and
    a node that starts again and again would otherwise die of it for ever.
    """
    now = database_time(session)
    is_spent = Job.attempts >= Job.max_attempts
    # Lost once, it keeps its place: a later film of the same patient, which rests on this one, does not go before it.
    # Lost again, it may be what kills the worker, and goes behind all that wait.
    keeps_its_place = is_spent | (Job.attempts <= 1)
    # A row that is locked is one that its owner is changing, so its worker is not lost.
    lost = lock_rows(session, Job, (Job.state == JobState.RUNNING) & is_lost, skip_locked=True)
    changed = session.execute(
        update(Job)
        .where(lost)
        .values(
            state=case((is_spent, JobState.DEAD), else_=JobState.READY),
            run_at=case((keeps_its_place, Job.run_at), else_=now),
            finished_at=case((is_spent, now), else_=None),
            last_error=case((is_spent, LOST_AT_EVERY_ATTEMPT), else_="the worker was lost"),
            lease_until=None,
            lease_owner="",
        )
        .returning(Job.key)
        .execution_options(synchronize_session=False)
    )
    return list(changed.scalars())


def retry_dead(session: Session, *, keys: Collection[str] | None = None) -> list[str]:
    """Transition E for the dead jobs with these keys (None: all of them); returns the keys that were revived."""
    chosen = Job.state == JobState.DEAD
    if keys is not None:
        chosen &= Job.key.in_(list(keys))
    return _make_ready(session, chosen)


def restart(session: Session, key: str) -> None:
    """Transition H: begin again from the first attempt. A running job is left alone and sees the change at its end."""
    _make_ready(session, (Job.key == key) & (Job.state != JobState.RUNNING), last_error="")


def finish(session: Session, key: str) -> None:
    """Transition G: end a waiting or dead job whose purpose was reached without it. A running one ends itself."""
    statement = statements.finish_job(given_clock(session) is None)
    statement.execute(session, {"wanted": key, **given_times(session, present=_NOW)})


def abandon(session: Session, ids: Collection[int]) -> None:
    """Transition F: end dead jobs for good by a person's decision; their last error stays."""
    _end(session, Job.id.in_(list(ids)) & (Job.state == JobState.DEAD), JobState.DONE)


def give_up(session: Session, key: str, error: str) -> None:
    """Transition D for a waiting job: its effect was refused as often as it may be tried."""
    _end(session, (Job.key == key) & (Job.state == JobState.READY), JobState.DEAD, last_error=error)


def back_off(attempts: int) -> dt.timedelta:
    """FIRST_RETRY doubled for each failed attempt, at most LONGEST_RETRY, with ±20 % jitter against a herd."""
    return pause_after(attempts, first=FIRST_RETRY, longest=LONGEST_RETRY) * random.uniform(0.8, 1.2)


def _make_ready(session: Session, chosen: ColumnElement[bool], **values: Any) -> list[str]:
    revived = session.execute(
        update(Job)
        .where(lock_rows(session, Job, chosen))
        .values(state=JobState.READY, run_at=database_time(session), attempts=0, finished_at=None, **values)
        .returning(Job.key)
        .execution_options(synchronize_session=False)
    )
    return list(revived.scalars())


def _end(session: Session, chosen: ColumnElement[bool], state: JobState, **values: Any) -> None:
    session.execute(
        update(Job)
        .where(lock_rows(session, Job, chosen))
        .values(state=state, finished_at=database_time(session), **values)
        .execution_options(synchronize_session=False)
    )


def _leave(
    session: Session, job: ClaimedJob, state: JobState, times: Mapping[str, dt.timedelta], **values: Any
) -> None:
    _change(session, job, times, state=state, lease_until=None, lease_owner="", **values)


def _change(session: Session, job: ClaimedJob, times: Mapping[str, dt.timedelta], **values: Any) -> None:
    """Change the row only while it is still this worker's, in this attempt. times: how long from now, by column."""
    statement = statements.change_held(tuple(values), tuple(times.items()), given_clock(session) is None)
    given = {"held_id": job.id, "held_by": job.lease_owner, "held_attempt": job.attempts}
    given |= {f"new_{name}": value for name, value in values.items()}
    given |= given_times(session, **{f"new_{name}": after for name, after in times.items()})
    if not statement.execute(session, given):
        raise LeaseLostError(f"job {job.key} is no longer held by {job.lease_owner} in attempt {job.attempts}")
