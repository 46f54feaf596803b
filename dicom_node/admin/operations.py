"""Operations on studies and jobs, the same from the command line and from the pages."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.audit import messages as audit
from dicom_node.config import Settings
from dicom_node.deliver import transitions
from dicom_node.deliver.queue import is_job_of, resend
from dicom_node.errors import UsageError
from dicom_node.index.tables.core import (
    Delivery,
    DeliveryState,
    Document,
    Job,
    JobKind,
    JobState,
    Result,
    Study,
    StudyPurpose,
    StudyState,
)
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.due import Priority
from dicom_node.logs import get_logger
from dicom_node.studies.completion import analyse_key, force

log = get_logger(__name__)


def reprocess(session: Session, study_instance_uid: str, *, settings: Settings, now: dt.datetime, who: str) -> int:
    """Analyse a study's revision again; the new result supersedes the old one. Returns the new generation.

    An open study is closed as it is. Raises UsageError for an unknown study or a fetched prior.
    """
    study = _study(session, study_instance_uid)
    if study.purpose is StudyPurpose.PRIOR:
        raise UsageError("the study was fetched as comparison material and is not analysed itself")
    if study.purpose is StudyPurpose.REPORT:
        raise UsageError("only a report of this study came, and no image: there is nothing to analyse")
    # It was still open: closed now, its first analysis is what was asked for.
    if force(session, study_instance_uid=study_instance_uid, now=now):
        session.refresh(study)
        record_change(session, settings, study, now=now, who=who)
        return 1
    newest = select(func.max(Result.generation)).where(Result.study_pk == study.id, Result.revision == study.revision)
    generation = (session.scalar(newest) or 0) + 1
    key = analyse_key(study_instance_uid, study.revision, generation)
    payload = {"study_instance_uid": study_instance_uid, "revision": study.revision, "generation": generation}
    # The job of this generation is there already; perhaps it is dead, and then it is tried again.
    if not jobs.enqueue(session, JobKind.ANALYSE, key, payload, priority=Priority.BULK):
        jobs.retry_dead(session, keys=[key])
    study.state = StudyState.COMPLETE
    record_change(session, settings, study, now=now, who=who)
    return generation


def resend_study(session: Session, study_instance_uid: str, *, settings: Settings, now: dt.datetime, who: str) -> int:
    """Send the current documents of a study to their destinations again; returns how many deliveries that is."""
    study = _study(session, study_instance_uid)
    ids = session.scalars(
        select(Delivery.id)
        .join(Document, Delivery.document_pk == Document.id)
        .join(Result, Document.result_pk == Result.id)
        .where(Result.study_pk == study.id, Result.is_current)
    ).all()
    count = resend(session, ids, now=now, settings=settings.delivery)
    record_change(session, settings, study, now=now, who=who)
    return count


def retry(session: Session, *, now: dt.datetime, keys: Collection[str] | None = None) -> list[str]:
    """Revive dead jobs (None: all) with their deliveries; returns their keys."""
    revived = jobs.retry_dead(session, keys=keys)
    dead = session.execute(
        select(Delivery, Job.key)
        .join(Document, Delivery.document_pk == Document.id)
        .join(Job, is_job_of(Delivery.destination))
        .where(Delivery.state == DeliveryState.DEAD, Job.state == JobState.READY)
    ).all()
    for delivery, key in dead:
        if key in revived:
            transitions.revive(delivery, now)
    log.info("dead jobs revived", count=len(revived))
    return revived


def abandon(
    session: Session, ids: Collection[int], *, reason: str, settings: Settings, now: dt.datetime, who: str
) -> list[str]:
    """End dead deliveries for good, by a person's word: the document is not sent, and is not called delivered.

    Returns the jobs' keys. Raises UsageError where one is no dead delivery, and then changes none.
    """
    rows = session.execute(
        select(Job, Delivery, Study)
        .select_from(Delivery)
        .join(Document, Delivery.document_pk == Document.id)
        .join(Job, is_job_of(Delivery.destination))
        .join(Result, Document.result_pk == Result.id)
        .join(Study, Result.study_pk == Study.id)
        .where(Job.id.in_(ids), Job.state == JobState.DEAD, Delivery.state == DeliveryState.DEAD)
    ).all()
    # All or none: a person who named a wrong number should look again.
    others = sorted(set(ids) - {row.Job.id for row in rows})
    if others:
        raise UsageError(
            f"no failed delivery: job {', '.join(map(str, others))}; `dicom-node jobs --state dead` lists the failed"
            " jobs, and a failed analysis is ended by `dicom-node reprocess`"
        )
    jobs.abandon(session, [row.Job.id for row in rows])
    for row in rows:
        transitions.abandon(row.Delivery, f"{who}: {reason}", now)
    for study in {row.Study.id: row.Study for row in rows}.values():
        record_change(session, settings, study, now=now, who=who)
    log.info("dead deliveries abandoned", count=len(rows))
    return [row.Job.key for row in rows]


def _study(session: Session, study_instance_uid: str) -> Study:
    study = session.scalars(select(Study).where(Study.study_instance_uid == study_instance_uid)).one_or_none()
    if study is None:
        raise UsageError(f"no study {study_instance_uid} in the index")
    return study


def record_change(session: Session, settings: Settings, study: Study, *, now: dt.datetime, who: str) -> None:
    """A person changed what becomes of this study (PS3.15 section A.5.3.9, Patient Record)."""
    audit.record(
        session,
        audit.AuditedEvent.PATIENT_RECORD,
        action="U",
        now=now,
        participants=(audit.Participant(user_id=who, requestor=True), audit.this_node(settings.node.ae_title)),
        study=audit.AboutStudy(
            study_instance_uid=study.study_instance_uid,
            patient_id=study.patient_id,
            patient_name=study.patient_name,
            accession_number=study.accession_number,
        ),
        site=settings.audit.site,
    )
