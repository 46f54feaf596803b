"""When priors are fetched: from a study's first instance on, so that they are here when it is complete."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import exists, func, literal, select
from sqlalchemy.orm import Session

from dicom_node.config import Settings
from dicom_node.index.tables.core import Job, JobKind, JobState, Result, Study, StudyPurpose, StudyState
from dicom_node.jobs import queue as jobs
from dicom_node.studies.completion import analyse_key

POLL = dt.timedelta(seconds=1)
"""The interval at which an analysis that waits for its priors looks again."""


def fetch_key(study_instance_uid: str, attempt: int = 1) -> str:
    """The key of a study's fetch job; attempts above 1 are the later retries of [priors] retry_seconds."""
    return f"fetch:{study_instance_uid}:{attempt}"


def is_configured(settings: Settings) -> bool:
    """Tell whether there is any peer to fetch from."""
    return bool(settings.query) and settings.priors.fetch_studies > 0


def enqueue_for_open(session: Session, settings: Settings, *, now: dt.datetime) -> list[str]:
    """Enqueue a fetch for every open study that has had none; returns their UIDs.

    Asked of the index every second instead of at each instance: the receiver stays free of it, and any number of
    receivers leads to one fetch. Runs before `completion.sweep` in one transaction, so that no study is closed unasked.
    """
    if not is_configured(settings):
        return []
    key = literal("fetch:").concat(Study.study_instance_uid).concat(":1")
    uids = session.scalars(
        select(Study.study_instance_uid)
        .where(
            Study.state == StudyState.OPEN,
            Study.purpose == StudyPurpose.ROUTED,
            Study.patient_id != "",
            ~exists(select(Job.id).where(Job.key == key)),
        )
        .order_by(Study.id)  # two that enqueue the same keys in different orders would wait for each other
    ).all()
    for uid in uids:
        enqueue(session, uid, now=now)
    return list(uids)


def enqueue(
    session: Session, study_instance_uid: str, *, now: dt.datetime, attempt: int = 1, run_at: dt.datetime | None = None
) -> bool:
    """Enqueue one fetch in the caller's transaction; returns whether it is new."""
    payload = {"study_instance_uid": study_instance_uid, "attempt": attempt}
    key = fetch_key(study_instance_uid, attempt)
    return jobs.enqueue(session, JobKind.FETCH, key, payload, run_at=run_at)


def wait_for_priors(session: Session, study: Study, settings: Settings, *, now: dt.datetime) -> dt.datetime | None:
    """When the analysis of a complete study should look again; None: now is the time, with whatever is here."""
    if not is_configured(settings) or now >= _patience_ends(study, settings, now):
        return None
    outstanding = session.scalar(
        select(Job.id).where(
            Job.key == fetch_key(study.study_instance_uid), Job.state.in_([JobState.READY, JobState.RUNNING])
        )
    )
    return None if outstanding is None else now + POLL


def report_anew_if_late(session: Session, study: Study, settings: Settings, *, now: dt.datetime) -> bool:
    """A prior came after the analysis had stopped waiting for it: analyse once more; returns whether it was so."""
    if study.state is StudyState.OPEN or now < _patience_ends(study, settings, now):
        return False
    newest = session.scalar(
        select(func.max(Result.generation)).where(Result.study_pk == study.id, Result.revision == study.revision)
    )
    generation = max(newest or 0, 1) + 1
    uid = study.study_instance_uid
    payload = {"study_instance_uid": uid, "revision": study.revision, "generation": generation}
    key = analyse_key(uid, study.revision, generation)
    if jobs.enqueue(session, JobKind.ANALYSE, key, payload):
        study.state = StudyState.COMPLETE
        return True
    return False


def _patience_ends(study: Study, settings: Settings, now: dt.datetime) -> dt.datetime:
    return (study.completed_at or now) + dt.timedelta(seconds=settings.priors.wait_seconds)
