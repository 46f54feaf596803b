"""The contents of the page of one study, read from the index as plain values; nothing here writes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.admin.formats import label
from dicom_node.admin.listings import DeliveryLine, DeliveryRow, delivery_line, delivery_rows
from dicom_node.admin.patient_course import CourseRow, patient_course
from dicom_node.index.tables.core import Instance, Result, Series, Study
from dicom_node.report.rules import Rank

MAX_FILMS = 40
"""Of a patient in the strip of the study page, the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One point of a study's time line."""

    at: dt.datetime
    what: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFilm:
    """One stored image of the patient."""

    sop_instance_uid: str
    study_instance_uid: str
    study_date: str
    study_time: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPage:
    """Everything that the page of one study shows."""

    study: Study
    result: Result | None
    results: tuple[Result, ...]
    current_sop: str
    prior_sop: str
    prior_date: str
    prior_time: str
    instances: int
    timeline: tuple[Moment, ...]
    deliveries: tuple[DeliveryLine, ...]
    findings: tuple[dict[str, Any], ...] = field(default=())
    outlined: frozenset[str] = frozenset()
    """Keys of the findings whose regions are drawn, as in the report."""
    films: tuple[StudyFilm, ...] = ()
    """Every stored image of the patient, the newest first."""
    course: tuple[CourseRow, ...] = ()
    """The patient's findings over the studies that the result's checkpoint has read."""
    prior_reading: tuple[str, ...] = ()
    """The opening lines of the prior's own current result; empty where it has none."""


def study_page(session: Session, study_instance_uid: str, *, result_id: int | None = None) -> StudyPage | None:
    """The page of a study, with its current result or the one asked for; None where there is no such study."""
    study = session.scalars(select(Study).where(Study.study_instance_uid == study_instance_uid)).one_or_none()
    if study is None:
        return None
    results = tuple(
        session.scalars(select(Result).where(Result.study_pk == study.id).order_by(Result.is_current.desc(), Result.id))
    )
    result = next((r for r in results if r.id == result_id), results[0] if results else None)
    rows = delivery_rows(session, Result.study_pk == study.id)
    count = session.scalar(
        select(func.count(Instance.id)).join(Series, Instance.series_pk == Series.id).where(Series.study_pk == study.id)
    )
    prior_study = session.execute(
        select(Study.study_date, Study.study_time).where(
            Study.study_instance_uid == (result.prior_study_instance_uid if result is not None else "")
        )
    ).one_or_none()
    current = result.sop_instance_uid if result is not None else ""
    page = StudyPage(
        study=study,
        result=result,
        results=results,
        current_sop=current or _any_image(session, study.id),
        prior_sop=result.prior_sop_instance_uid if result is not None else "",
        prior_date=prior_study.study_date if prior_study is not None else "",
        prior_time=prior_study.study_time if prior_study is not None else "",
        instances=count or 0,
        timeline=_timeline(study, results, rows),
        deliveries=tuple(delivery_line(delivery, document) for delivery, document, _ in rows),
        findings=_most_urgent_first(result.prediction.get("findings", ())) if result is not None else (),
        outlined=_keys_with_outline(result.prediction.get("findings", ())) if result is not None else frozenset(),
        films=_films(session, study),
        course=patient_course(session, study, result.device_uid if result is not None else ""),
        prior_reading=_prior_reading(session, result.prior_sop_instance_uid if result is not None else ""),
    )
    session.expunge_all()  # the values outlive the session
    return page


def _films(session: Session, study: Study) -> tuple[StudyFilm, ...]:
    """Stored images under the patient's ID and issuer; of a study without an ID its own alone."""
    of_patient = (
        (Study.patient_id == study.patient_id) & (Study.issuer_of_patient_id == study.issuer_of_patient_id)
        if study.patient_id
        else Study.id == study.id
    )
    rows = session.execute(
        select(Instance.sop_instance_uid, Study)
        .join(Series, Instance.series_pk == Series.id)
        .join(Study, Series.study_pk == Study.id)
        .where(of_patient, Instance.rows.is_not(None))
        .order_by(Study.study_date.desc(), Study.study_time.desc(), Instance.id)
        .limit(MAX_FILMS)
    )
    return tuple(
        StudyFilm(
            sop_instance_uid=uid,
            study_instance_uid=of.study_instance_uid,
            study_date=of.study_date,
            study_time=of.study_time,
            description=of.study_description,
        )
        for uid, of in rows
    )


def _prior_reading(session: Session, sop_instance_uid: str) -> tuple[str, ...]:
    """The opening lines of the current result of this image."""
    if not sop_instance_uid:
        return ()
    prediction = session.scalar(
        select(Result.prediction).where(Result.sop_instance_uid == sop_instance_uid, Result.is_current)
    )
    return tuple((prediction or {}).get("impressions", ()))


def _most_urgent_first(findings: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Order statements as the report does (`dicom_node.report.rules.Rank`), then by word; what was not judged last."""
    ranks = [rank.name.lower() for rank in Rank]
    words = ("seen", "possible", "no statement", "not seen")

    def rank(finding: dict[str, Any]) -> tuple[int, bool, int]:
        rank_name, seen = finding.get("rank", "none"), finding.get("seen")
        return (
            ranks.index(rank_name) if rank_name in ranks else len(ranks),
            not finding.get("judged", True),
            words.index(seen) if seen in words else len(words),
        )

    return tuple(sorted(findings, key=rank))


def _keys_with_outline(findings: Sequence[dict[str, Any]]) -> frozenset[str]:
    """The findings that `dicom_node.report.rules.select_outlined` draws: nothing that is possible or not seen.

    Results of before ranks were written have all that is present.
    """
    hidden = ("none", "vanished", "absent", "abstained")
    drawn = [finding for finding in findings if finding.get("rank", finding["presence"]) not in hidden]
    singled_out = [finding for finding in drawn if finding.get("rank") != "unchanged"]
    return frozenset(str(finding["key"]) for finding in singled_out or drawn)


def _any_image(session: Session, study_pk: int) -> str:
    uid = session.scalar(
        select(Instance.sop_instance_uid)
        .join(Series, Instance.series_pk == Series.id)
        .where(Series.study_pk == study_pk, Instance.rows.is_not(None))
        .order_by(Instance.id)
        .limit(1)
    )
    return uid or ""


def _timeline(study: Study, results: Sequence[Result], rows: Sequence[DeliveryRow]) -> tuple[Moment, ...]:
    """From the first instance to the last proof."""
    moments = [
        Moment(at=study.first_instance_at, what="first image received", detail=f"from {study.calling_ae_title}"),
        Moment(at=study.last_instance_at, what="last image received"),
    ]
    if study.completed_at is not None:
        moments.append(Moment(at=study.completed_at, what="study complete", detail=f"by {study.completed_by}"))
    for result in results:
        moments.append(
            Moment(
                at=result.created_at,
                what="result stored",
                detail=f"{label(result.outcome)}, version {result.revision}" + _times_analysed(result.generation),
            )
        )
    for delivery, document, _ in rows:
        where = f"{label(document.kind)} → {delivery.destination}"
        if delivery.stored_at is not None:
            moments.append(Moment(at=delivery.stored_at, what="accepted", detail=where))
        if delivery.confirmed_at is not None:
            moments.append(
                Moment(at=delivery.confirmed_at, what="proven delivered", detail=f"{where}, by {delivery.proof}")
            )
    return tuple(sorted(moments, key=lambda moment: moment.at))


def _times_analysed(generation: int) -> str:
    return f", analysis number {generation}" if generation > 1 else ""
