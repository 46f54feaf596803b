"""An older study of a patient came after a later one was reported: the later one is analysed again, and so on.

So a patient's documents are the same in whatever order the studies came. Each commit asks for the next later study
only, whose own commit asks for the one behind it: they are made anew in the order of time, each from what the one
before it now says.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from dicom_node.config import PriorsSection
from dicom_node.index.tables.core import (
    Instance,
    Job,
    JobKind,
    JobState,
    Outcome,
    Result,
    Study,
    StudyPurpose,
    StudyState,
)
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.logs import get_logger
from dicom_node.report.stored import earlier_statements
from dicom_node.studies.backfilled import priority_of
from dicom_node.studies.completion import analyse_key

log = get_logger(__name__)

MOST_LATER_STUDIES = 12
"""So many later studies are made anew for one that came late."""
_STEPS = "steps_after_late_study"
"""In a job's payload: how many studies lie between it and the one that came late."""


def report_next_anew(
    session: Session,
    job: ClaimedJob,
    study: Study,
    *,
    before: Sequence[Result],
    after: Sequence[Result],
    settings: PriorsSection,
    now: dt.datetime,
) -> bool:
    """Enqueue the next later study where this one's new results matter to it; returns whether it was.

    before, after: the study's current results before and after this commit.
    """
    steps = int(job.payload.get(_STEPS, 0))
    # A chain: each report that is made anew may concern the next. The steps travel in the payload and end it.
    if steps >= MOST_LATER_STUDIES or not (steps or _statements(before) != _statements(after)):
        return False
    later = _next_later(session, study, since=now - dt.timedelta(days=settings.later_days))
    if later is None or not _has_to_be_made_anew(session, later):
        return False
    generation = _next_generation(session, later)
    uid = later.study_instance_uid
    payload = {"study_instance_uid": uid, "revision": later.revision, "generation": generation, _STEPS: steps + 1}
    key = analyse_key(uid, later.revision, generation)
    is_new = jobs.enqueue(session, JobKind.ANALYSE, key, payload, priority=priority_of(later.purpose))
    if is_new:
        later.state = StudyState.COMPLETE
        log.info("a later study is reported again", generation=generation, steps=steps + 1)
    return is_new


def _statements(results: Sequence[Result]) -> Mapping[tuple[str, str], object]:
    """The statements that later studies read; nothing of a result without findings."""
    stated = {(row.sop_instance_uid, row.device_uid): earlier_statements(row.prediction) for row in results}
    return {key: value for key, value in stated.items() if value}


def _next_later(session: Session, study: Study, *, since: dt.datetime) -> Study | None:
    """The patient's next study by date, time and UID that was sent for analysis and is not old news.

    One that ended as "not analysed" is passed over: the reason lies in its own images, and the same report again is
    noise in the archive.
    """
    says_something = exists().where(
        Result.study_pk == Study.id, Result.is_current, Result.outcome != Outcome.NOT_ANALYSED
    )
    if not study.patient_id or not study.study_date:
        return None
    # An issuer that one of the two leaves out does not make it another person.
    issuers = {study.issuer_of_patient_id, ""} if study.issuer_of_patient_id else None
    return session.scalars(
        select(Study)
        .where(
            Study.patient_id == study.patient_id,
            *([Study.issuer_of_patient_id.in_(sorted(issuers))] if issuers else []),
            Study.purpose.in_(_purposes_to_renew(study)),
            Study.state != StudyState.OPEN,
            Study.first_instance_at >= since,
            or_(Study.state == StudyState.COMPLETE, says_something),
            _is_after(study),
        )
        .order_by(Study.study_date, Study.study_time, Study.study_instance_uid)
        .limit(1)
    ).one_or_none()


def _purposes_to_renew(study: Study) -> tuple[StudyPurpose, ...]:
    """The later studies that this one may have made anew: of one that a backfill brought only those it brought too.

    A run over an archive's past would otherwise send tonight's reports once more.
    """
    both = (StudyPurpose.ROUTED, StudyPurpose.BACKFILL)
    return (StudyPurpose.BACKFILL,) if study.purpose is StudyPurpose.BACKFILL else both


def _is_after(study: Study) -> ColumnElement[bool]:
    same_day, same_time = Study.study_date == study.study_date, Study.study_time == study.study_time
    return or_(
        Study.study_date > study.study_date,
        and_(same_day, Study.study_time > study.study_time),
        and_(same_day, same_time, Study.study_instance_uid > study.study_instance_uid),
    )


def _has_to_be_made_anew(session: Session, later: Study) -> bool:
    """False where its analysis is still to come, and where what its report rests on is no longer stored."""
    if later.state is StudyState.COMPLETE:
        return _running(session, later) is not None
    priors = session.scalars(
        select(Result.prior_sop_instance_uid).where(
            Result.study_pk == later.id, Result.is_current, Result.prior_sop_instance_uid != ""
        )
    ).all()
    return all(session.scalar(select(exists().where(Instance.sop_instance_uid == uid))) for uid in priors)


def _running(session: Session, study: Study) -> int | None:
    """The generation of the study's analysis that runs now: it may have read what is being replaced."""
    prefix = analyse_key(study.study_instance_uid, study.revision)[: -len("1")]
    running = session.scalars(
        select(Job.payload).where(
            Job.key.startswith(prefix, autoescape=True), Job.kind == JobKind.ANALYSE, Job.state == JobState.RUNNING
        )
    ).all()
    return max((int(payload.get("generation", 1)) for payload in running), default=None)


def _next_generation(session: Session, study: Study) -> int:
    newest = session.scalar(
        select(func.max(Result.generation)).where(Result.study_pk == study.id, Result.revision == study.revision)
    )
    return max(newest or 0, _running(session, study) or 0, 1) + 1
