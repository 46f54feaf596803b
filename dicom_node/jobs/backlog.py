"""Whether analyses have work just now: whatever is less urgent asks here, and gives way."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from dicom_node.index.tables.core import Job, JobKind, JobState


def analyses_have_work(session: Session, now: dt.datetime, *, host: str | None = None) -> bool:
    """An analysis is due and waits, or one runs. host: only those count that run there; a waiting one may come here."""
    running = Job.state == JobState.RUNNING
    if host is not None:
        running &= Job.lease_owner.startswith(f"{host}:", autoescape=True)
    waiting = (Job.state == JobState.READY) & (Job.run_at <= now)
    return bool(session.scalar(select(exists().where(Job.kind == JobKind.ANALYSE, or_(running, waiting)))))
