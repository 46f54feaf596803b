"""When a study is complete: the sweep that closes quiet studies and enqueues their analyses.

Rules (transition letters of `tables.StudyState`):
  B quiet     no instance of any of its series came, and no receiver was busy with it, for `quiet_seconds`
  B count     a query peer holds exactly as many instances as this node (`priors.retrieval.instance_count` asks)
  B deadline  open for `deadline_seconds`: processed with what is there, and flagged; never discarded
Transition C, a late image, is the receiver's (`studies.register`): it opens the study again in the image's transaction.
The state is in the database only, so any number of receivers and sweeps on any number of machines agree: a study is
locked by a SELECT whose WHERE is the rule, closed under that lock, and the analyse job commits with it.
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import ColumnElement, case, func, literal, or_, select, update
from sqlalchemy.orm import Session

from dicom_node.config import CompletionSection
from dicom_node.index.database import CLOCK_TOLERANCE
from dicom_node.index.row_locks import lock_rows
from dicom_node.index.tables.core import CompletedBy, Instance, JobKind, Series, Study, StudyPurpose, StudyState
from dicom_node.jobs import queue as jobs
from dicom_node.studies.backfilled import priority_of

NEVER_ANALYSED = (StudyPurpose.PRIOR, StudyPurpose.REPORT)
"""Comparison material, and studies of which no image came."""


def sweep(session: Session, *, completion: CompletionSection, now: dt.datetime) -> list[str]:
    """Close what is quiet or past its deadline and enqueue the analyses; returns the StudyInstanceUIDs closed.

    Safe to run in several processes at once. A study of purpose "prior" is closed and never analysed by itself.
    """
    quiet_since = now - dt.timedelta(seconds=completion.quiet_seconds)
    bring_open_studies_to_now(session, now)
    opened_before = now - dt.timedelta(seconds=completion.deadline_seconds)
    opened_at = func.coalesce(Study.opened_at, Study.first_instance_at)
    due = (
        (Study.last_instance_at <= quiet_since, CompletedBy.QUIET),
        (opened_at <= opened_before, CompletedBy.DEADLINE),
    )
    # A study whose row is locked has an instance coming in or is being closed by another sweep: the next sweep looks.
    return [uid for chosen, by in due for uid in _close(session, chosen, by=by, now=now, skip_locked=True)]


def close_counted(session: Session, *, study_instance_uid: str, count: int, now: dt.datetime) -> bool:
    """Close one open study because a query peer holds `count` instances of it and so do we; returns whether it was."""
    held = (
        select(func.count(Instance.id))
        .join(Series, Instance.series_pk == Series.id)
        .where(Series.study_pk == Study.id)
        .scalar_subquery()
    )
    chosen = (Study.study_instance_uid == study_instance_uid) & (held == count)
    return bool(count > 0 and _close(session, chosen, by=CompletedBy.COUNT, now=now))


def force(session: Session, *, study_instance_uid: str, now: dt.datetime) -> bool:
    """Close one open study because an administrator says so; returns whether it was open."""
    return bool(_close(session, Study.study_instance_uid == study_instance_uid, by=CompletedBy.FORCED, now=now))


def analyse_key(study_instance_uid: str, revision: int, generation: int = 1) -> str:
    """The key of an analyse job: one for each revision of a study and each time that an administrator asks again."""
    return f"analyse:{study_instance_uid}:{revision}:{generation}"


def bring_open_studies_to_now(session: Session, now: dt.datetime) -> None:
    """Have the open studies that a clock was ahead of count from `now`: they would wait until that time comes again.

    Every sweep does it, because nobody notices a clock that was set forward and back within a second, and an image that
    came in between carries its time. A study whose row is locked is left to the next sweep.
    """
    columns = (Study.last_instance_at, Study.first_instance_at, Study.opened_at)
    is_ahead = or_(*(column > now + CLOCK_TOLERANCE for column in columns))
    locked = lock_rows(session, Study, (Study.state == StudyState.OPEN) & is_ahead, skip_locked=True)
    # All three together, the first with the last: a study never ends before it began.
    no_later = {column: case((column > now, literal(now, column.type)), else_=column) for column in columns}
    session.execute(update(Study).where(locked).values(no_later).execution_options(synchronize_session=False))


def _close(
    session: Session, chosen: ColumnElement[bool], *, by: CompletedBy, now: dt.datetime, skip_locked: bool = False
) -> list[str]:
    """Transition B for the open studies that `chosen` holds of, with their jobs, in the caller's transaction."""
    locked = lock_rows(session, Study, (Study.state == StudyState.OPEN) & chosen, skip_locked=skip_locked)
    rows = session.execute(
        update(Study)
        .where(locked)
        .values(state=StudyState.COMPLETE, completed_at=now, completed_by=by)
        .returning(Study.study_instance_uid, Study.revision, Study.purpose, Study.study_date, Study.study_time)
        .execution_options(synchronize_session=False)
    ).all()
    # Of studies that close together the older come first: a later one's report rests on what is said of them.
    for uid, revision, purpose, _, _ in sorted(rows, key=lambda row: (row.study_date, row.study_time, row[0])):
        if purpose not in NEVER_ANALYSED:
            payload = {"study_instance_uid": uid, "revision": revision, "generation": 1}
            jobs.enqueue(session, JobKind.ANALYSE, analyse_key(uid, revision), payload, priority=priority_of(purpose))
    return [row.study_instance_uid for row in rows]
