"""The statements of the queue's transitions that run for every job, built and compiled once.

To build and compile one takes many times as long as the database takes to execute it.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from typing import cast

from sqlalchemy import Integer, String, Table, bindparam, func, update
from sqlalchemy.sql.dml import Update

from dicom_node.index.prepared import PreparedStatement
from dicom_node.index.tables.core import Job, JobKind, JobState
from dicom_node.jobs.due import Priority, next_due, time_parameter

_job = cast(Table, Job.__table__)
_CLAIMED = (_job.c.id, _job.c.kind, _job.c.key, _job.c.payload, _job.c.attempts, _job.c.max_attempts)


@lru_cache(maxsize=32)
def claim_next(
    kinds: tuple[JobKind, ...], lease: dt.timedelta, is_postgresql: bool, on_server: bool
) -> PreparedStatement:
    """Build the claim of the next job of these kinds for `claimer`, due `by` then, held `until`."""
    candidates = [next_due(Job.id, kinds, urgency, by=time_parameter("by", on_server)) for urgency in Priority]
    if is_postgresql:
        # Rows that another claimer is just taking are passed over instead of waited for.
        candidates = [candidate.with_for_update(skip_locked=True) for candidate in candidates]
    # COALESCE looks for less urgent work only where there is none that is more urgent.
    chosen = func.coalesce(*(candidate.scalar_subquery() for candidate in candidates))
    # Choice and change are one statement, and the state is asked again where the row changes: if it has changed hands
    # in between, no row comes back and the lane looks again. Two owners of one job would send a document twice.
    taken = _take(lease, on_server).where(_job.c.id == chosen, _job.c.state == JobState.READY)
    return PreparedStatement(taken.returning(*_CLAIMED))


@lru_cache(maxsize=32)
def claim_new(lease: dt.timedelta, on_server: bool) -> PreparedStatement:
    """Build the claim of the job with a `wanted` key, if it is due `by` then and was never tried."""
    is_new = (_job.c.state == JobState.READY) & (_job.c.attempts == 0)
    is_due = _job.c.run_at <= time_parameter("by", on_server)
    taken = _take(lease, on_server).where(_job.c.key == bindparam("wanted", type_=String), is_new, is_due)
    return PreparedStatement(taken.returning(*_CLAIMED))


def _take(lease: dt.timedelta, on_server: bool) -> Update:
    return update(_job).values(
        state=JobState.RUNNING,
        attempts=_job.c.attempts + 1,
        lease_owner=bindparam("claimer", type_=String),
        lease_until=time_parameter("until", on_server, lease),
    )


@lru_cache(maxsize=64)
def change_held(
    columns: tuple[str, ...], times: tuple[tuple[str, dt.timedelta], ...], on_server: bool
) -> PreparedStatement:
    """Build the change of a job that its worker still holds, in the same attempt.

    Parameters
    ----------
    columns
        Given as `new_COLUMN`.
    times
        Columns that get the database's time and so long after; given as `new_COLUMN` where it has no clock of its own.
    """
    plain = {name: bindparam(f"new_{name}", type_=_job.c[name].type) for name in columns}
    timed = {name: time_parameter(f"new_{name}", on_server, after) for name, after in times}
    is_held = (
        (_job.c.id == bindparam("held_id", type_=Integer))
        & (_job.c.state == JobState.RUNNING)
        & (_job.c.lease_owner == bindparam("held_by", type_=String))
        & (_job.c.attempts == bindparam("held_attempt", type_=Integer))
    )
    return PreparedStatement(update(_job).where(is_held).values({**plain, **timed}).returning(_job.c.id))


@lru_cache(maxsize=2)
def finish_job(on_server: bool) -> PreparedStatement:
    """Build the end of the job with a `wanted` key that waits or is dead."""
    waits = (_job.c.state == JobState.READY) | (_job.c.state == JobState.DEAD)
    is_wanted = (_job.c.key == bindparam("wanted", type_=String)) & waits
    values = {"state": JobState.DONE, "finished_at": time_parameter("present", on_server), "last_error": ""}
    return PreparedStatement(update(_job).where(is_wanted).values(values))
