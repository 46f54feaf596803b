"""Following what a run has under way: analyses that have ended, and jobs that died or are gone."""

from __future__ import annotations

import datetime as dt
from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.backfill.keys import item_key, range_key
from dicom_node.index.tables.backfill import (
    BackfillItem,
    BackfillItemState,
    BackfillRange,
    BackfillRangeState,
    BackfillReason,
    BackfillRun,
)
from dicom_node.index.tables.core import Job, JobState, Outcome, Result, Study, StudyPurpose, StudyState
from dicom_node.studies.completion import analyse_key

END_STATES = (BackfillItemState.ANALYSED, BackfillItemState.SKIPPED, BackfillItemState.FAILED)


def settle(session: Session, run: BackfillRun, *, now: dt.datetime) -> None:
    """Bring the run's rows up to date, in the caller's transaction, which holds the run's lock."""
    _settle_analyses(session, run, now)
    _settle_dead_items(session, run, now)
    _settle_dead_ranges(session, run, now)


def end_item(
    item: BackfillItem, state: BackfillItemState, *, reason: str = "", detail: str = "", now: dt.datetime
) -> None:
    """Transitions C and E of an item."""
    item.state, item.reason, item.detail, item.ended_at = state, reason[:64], detail, now


def _settle_analyses(session: Session, run: BackfillRun, now: dt.datetime) -> None:
    """End the studies whose analysis has ended, whoever did it and whenever that was."""
    rows = session.execute(
        select(BackfillItem, Study)
        .outerjoin(Study, Study.study_instance_uid == BackfillItem.study_instance_uid)
        .where(BackfillItem.run_pk == run.id, BackfillItem.state == BackfillItemState.ANALYSING)
    ).all()
    for item, joined in rows:
        study = cast("Study | None", joined)  # of an outer join
        if study is None:
            detail = "it was removed from the node before its analysis"
            end_item(item, BackfillItemState.SKIPPED, reason=BackfillReason.GONE, detail=detail, now=now)
        elif study.state is StudyState.ANALYSED:
            _end_as_analysed(session, item, study, now)
        elif study.purpose is StudyPurpose.ROUTED:
            end_item(item, BackfillItemState.SKIPPED, reason=BackfillReason.ROUTED, now=now)
        elif study.state is StudyState.COMPLETE:
            job = _job(session, analyse_key(study.study_instance_uid, study.revision))
            if job is not None and job.state is JobState.DEAD:
                reason = BackfillReason.NOT_ANALYSED
                end_item(item, BackfillItemState.FAILED, reason=reason, detail=job.last_error, now=now)


def _end_as_analysed(session: Session, item: BackfillItem, study: Study, now: dt.datetime) -> None:
    """Say what the analysis said: of a study without any findings, why."""
    results = session.scalars(
        select(Result).where(Result.study_pk == study.id, Result.is_current).order_by(Result.id)
    ).all()
    answered = [result for result in results if result.outcome is not Outcome.NOT_ANALYSED]
    if answered or not results:
        outcomes = ", ".join(sorted({str(result.outcome) for result in answered}))
        end_item(item, BackfillItemState.ANALYSED, detail=outcomes, now=now)
        return
    refused = results[0]
    why = (refused.prediction or {}).get("abstained") or {}
    reason = str(why.get("reason", "") or Outcome.NOT_ANALYSED)
    end_item(item, BackfillItemState.SKIPPED, reason=reason, detail=refused.reason, now=now)


def _settle_dead_items(session: Session, run: BackfillRun, now: dt.datetime) -> None:
    fetching = BackfillItem.state == BackfillItemState.FETCHING
    for item in session.scalars(select(BackfillItem).where(BackfillItem.run_pk == run.id, fetching)).all():
        job = _job(session, item_key(item))
        if job is None:  # an index that was restored without it
            item.state = BackfillItemState.WAITING
        elif job.state is JobState.DEAD:
            end_item(item, BackfillItemState.FAILED, reason=BackfillReason.BROKEN, detail=job.last_error, now=now)


def _settle_dead_ranges(session: Session, run: BackfillRun, now: dt.datetime) -> None:
    asking = BackfillRange.state == BackfillRangeState.ASKING
    for part in session.scalars(select(BackfillRange).where(BackfillRange.run_pk == run.id, asking)).all():
        job = _job(session, range_key(part))
        if job is None:
            part.state = BackfillRangeState.WAITING
        elif job.state is JobState.DEAD:
            part.state, part.last_error = BackfillRangeState.FAILED, job.last_error


def _job(session: Session, key: str) -> Job | None:
    return session.scalars(select(Job).where(Job.key == key)).one_or_none()
