"""The studies that may be removed as far as delivery, holds, waiting work and priors are concerned.

A study may, when it is analysed (or was fetched as a prior), every delivery of it is confirmed or superseded, one is
confirmed where any destination wants documents of it, no job of it waits and nobody holds it. It is needed as a prior
while fewer than two newer usable studies of its patient have images, within `keep_as_prior_days`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, case, exists, func, or_, select
from sqlalchemy.orm import Session

from dicom_node.config import Destination, RetentionSection
from dicom_node.index.tables.core import (
    Delivery,
    DeliveryState,
    Document,
    Hold,
    Instance,
    Job,
    JobState,
    Outcome,
    Result,
    Series,
    Study,
    StudyPurpose,
    StudyState,
)

KEPT_PER_PATIENT = 2
"""So many of a patient's newest studies may be the next prior (the second, should the newest prove unfit)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionCandidate:
    """A study that may go as far as delivery and holds are concerned. size_bytes: of its images."""

    study_pk: int
    study_instance_uid: str
    patient: tuple[str, str]
    study_date: str
    last_instance_at: dt.datetime
    size_bytes: int
    needed_as_prior: bool


def candidates(
    session: Session,
    settings: RetentionSection,
    *,
    destinations: Sequence[Destination],
    now: dt.datetime,
    study_pk: int | None = None,
) -> list[RetentionCandidate]:
    """Studies with images that are done, proven and not held, with the mark whether they are needed as a prior.

    study_pk: look at this study only.
    """
    finished = (Study.state == StudyState.ANALYSED) & exists().where(Result.study_pk == Study.id)
    # A study that was fetched to compare with owes nobody a report.
    fetched = (Study.purpose != StudyPurpose.ROUTED) & (Study.state != StudyState.OPEN)
    chosen = [(finished & _is_delivered(destinations, study_pk)) | fetched, ~_has_open_delivery(study_pk)]
    # Asked again for one study just before it is removed: it may have been held, or have got a new image, since the
    # plan.
    chosen += [Study.id == study_pk] if study_pk is not None else []
    rows = _studies_with_sizes(session, chosen)
    waiting = _with_waiting_jobs(session)
    newest = _find_needed_priors(session, {study.patient_id for study, _ in rows} if study_pk is not None else None)
    # DICOM dates compare as text.
    keep_from = (now - dt.timedelta(days=settings.keep_as_prior_days)).strftime("%Y%m%d")
    return [
        RetentionCandidate(
            study_pk=study.id,
            study_instance_uid=study.study_instance_uid,
            patient=(study.patient_id, study.issuer_of_patient_id),
            study_date=study.study_date,
            last_instance_at=study.last_instance_at,
            size_bytes=size_bytes,
            needed_as_prior=study.id in newest and study.study_date >= keep_from,
        )
        for study, size_bytes in rows
        if study.study_instance_uid not in waiting
    ]


def _studies_with_sizes(session: Session, chosen: Sequence[ColumnElement[bool]]) -> list[tuple[Study, int]]:
    """Chosen studies that hold images and are not held, each with the bytes of its images."""
    size = (
        select(Series.study_pk, func.sum(Instance.size_bytes).label("size"))
        .join(Instance, Instance.series_pk == Series.id)
        .group_by(Series.study_pk)
        .subquery()
    )
    rows = session.execute(
        select(Study, size.c.size)
        .join(size, size.c.study_pk == Study.id)
        .where(*chosen)
        .where(~exists().where(Hold.study_instance_uid == Study.study_instance_uid))
    )
    return [(study, int(bytes_of_images)) for study, bytes_of_images in rows]


def _with_waiting_jobs(session: Session) -> set[str]:
    """Studies that a job will still read: to analyse them, fetch their priors or ask the challenger of their result."""
    payloads = session.scalars(select(Job.payload).where(Job.state.in_([JobState.READY, JobState.RUNNING]))).all()
    waiting = {str(payload["study_instance_uid"]) for payload in payloads if "study_instance_uid" in payload}
    results = [int(payload["result_pk"]) for payload in payloads if "result_pk" in payload]
    for start in range(0, len(results), 500):  # SQLite takes a limited number of parameters
        chosen = Result.id.in_(results[start : start + 500])
        waiting.update(session.scalars(select(Study.study_instance_uid).join(Study.results).where(chosen)))
    return waiting


def _is_delivered(destinations: Sequence[Destination], study_pk: int | None) -> ColumnElement[bool]:
    """True if a document of the study is proven somewhere, or no destination wants any by its rules.

    Without the second half, what the rules send nowhere would stay for ever; without the first, results that were made
    before a destination was configured would count as delivered. Without any destination nothing is proven.
    """
    proven = Study.id.in_(_with_deliveries(study_pk).where(Delivery.state == DeliveryState.CONFIRMED))
    # No rule, no proof: nothing is removed for having been delivered.
    if not destinations:
        return proven
    required = [
        Document.kind.in_(destination.documents) & Result.outcome.in_(destination.outcomes)
        for destination in destinations
    ]
    return proven | Study.id.not_in(_with_documents(study_pk).where(or_(*required)))


def _has_open_delivery(study_pk: int | None) -> ColumnElement[bool]:
    """True if a delivery of the study has not ended."""
    ends = (DeliveryState.CONFIRMED, DeliveryState.SUPERSEDED, DeliveryState.ABANDONED)
    return Study.id.in_(_with_deliveries(study_pk).where(Delivery.state.not_in(ends)))


def _with_documents(study_pk: int | None) -> Select[int]:
    """The studies of documents, to be narrowed. A list, and no EXISTS for each study: SQLite would go through all
    deliveries of a state for each."""
    documented = select(Result.study_pk).join(Document, Document.result_pk == Result.id)
    return documented if study_pk is None else documented.where(Result.study_pk == study_pk)


def _with_deliveries(study_pk: int | None) -> Select[int]:
    return _with_documents(study_pk).join(Delivery, Delivery.document_pk == Document.id)


def _find_needed_priors(session: Session, patient_ids: Collection[str] | None) -> set[int]:
    """Studies with images before which fewer than KEPT_PER_PATIENT newer usable ones of their patient have images.

    What could not be analysed (not a chest, unreadable) pushes nothing out. patient_ids: None for all patients.
    """
    has_images = exists().where(Series.study_pk == Study.id, Instance.series_pk == Series.id)
    unusable = exists().where(Result.study_pk == Study.id, Result.is_current, Result.outcome == Outcome.NOT_ANALYSED)
    newer = (
        func.sum(case((unusable, 0), else_=1))
        .over(
            partition_by=(Study.patient_id, Study.issuer_of_patient_id),
            order_by=(Study.study_date.desc(), Study.study_time.desc(), Study.id.desc()),
            rows=(None, -1),
        )
        .label("newer")
    )
    ranked = select(Study.id, newer).where(has_images)
    if patient_ids is not None:
        ranked = ranked.where(Study.patient_id.in_(list(patient_ids)))
    counted = ranked.subquery()
    chosen = select(counted.c.id).where(func.coalesce(counted.c.newer, 0) < KEPT_PER_PATIENT)
    return set(session.scalars(chosen))
