"""Changes of the job table that leave every job's state as it is: due times, and rows that are only weight."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from dicom_node.index.clock import database_time
from dicom_node.index.tables.core import Job, JobState
from dicom_node.jobs.queue import LEASE


def reschedule(session: Session, chosen: ColumnElement[bool], *, run_at: dt.datetime | None, **values: Any) -> None:
    """Move the due time of waiting jobs that match `chosen` (None: due at once), which counts no attempt."""
    due = database_time(session) if run_at is None else run_at
    session.execute(
        update(Job)
        .where(Job.state == JobState.READY, chosen)
        .values(run_at=due, **values)
        .execution_options(synchronize_session=False)
    )


def shift_times(session: Session, *, before: dt.datetime, now: dt.datetime) -> None:
    """Mend the times after the index's clock was set back from `before` to `now` (SQLite; a server's clock slews).

    What was due stays due, what was not waits as long as it would have, and no lease lies in the future.
    """
    ready = Job.state == JobState.READY
    # Read first and moved last: moved first they would lie between `now` and `before`, and the next statement would
    # take them for due.
    late = session.execute(select(Job.id, Job.run_at).where(ready, Job.run_at > before)).all()
    session.execute(update(Job).where(ready, Job.run_at > now, Job.run_at <= before).values(run_at=now))
    for job_id, run_at in late:
        session.execute(update(Job).where(Job.id == job_id).values(run_at=run_at - (before - now)))
    is_held = (Job.state == JobState.RUNNING) & (Job.lease_until > now + LEASE)
    session.execute(update(Job).where(is_held).values(lease_until=now + LEASE))


def forget_done(session: Session, *, age: dt.timedelta) -> int:
    """Delete the rows of jobs that were done longer ago than `age`: a finished job's effect is elsewhere."""
    deleted = session.execute(
        delete(Job)
        .where(Job.state == JobState.DONE, Job.finished_at < database_time(session, -age))
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return len(deleted.all())
