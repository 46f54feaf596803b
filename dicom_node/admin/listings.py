"""What the pages show, read from the index as plain values; nothing here writes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session

from dicom_node.index.tables.core import (
    Delivery,
    DeliveryState,
    Document,
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
from dicom_node.studies.completion import analyse_key

PAGE = 50
URGENCY = ("new", "worsening", "resolved", "improving", "not comparable", "stable")
"""Changes, the one to look at first first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What the work list is narrowed to; "" and None: not at all."""

    words: str = ""
    state: StudyState | None = None
    outcome: Outcome | None = None
    delivery: DeliveryState | None = None
    study_date: str = ""
    offset: int = 0
    limit: int = PAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One study of the work list."""

    study_instance_uid: str
    patient_name: str
    patient_id: str
    accession_number: str
    study_date: str
    study_time: str
    description: str
    state: str
    received_at: dt.datetime
    outcome: str
    changes: tuple[tuple[str, str], ...]
    """(change, finding), most urgent first."""
    present: tuple[str, ...]
    deliveries: Mapping[str, int]
    """Delivery state → documents."""
    failed: bool
    """A dead job or delivery: somebody must look."""


def work_list(session: Session, wanted: Filter) -> tuple[list[Line], int]:
    """The studies sent to us, newest activity first, and how many the filter leaves in all."""
    chosen = _chosen(wanted)
    total = session.scalar(select(func.count(Study.id)).where(*chosen)) or 0
    studies = session.scalars(
        select(Study)
        .where(*chosen)
        .order_by(Study.last_instance_at.desc(), Study.id.desc())
        .offset(wanted.offset)
        .limit(wanted.limit)
    ).all()
    results = _current_results(session, [study.id for study in studies])
    delivered = _delivery_counts(session, [study.id for study in studies])
    dead = _with_dead_jobs(session, studies)
    return [
        _line(study, results.get(study.id), delivered.get(study.id, {}), dead=study.id in dead) for study in studies
    ], total


def _chosen(wanted: Filter) -> list[ColumnElement[bool]]:
    chosen: list[ColumnElement[bool]] = [Study.purpose == StudyPurpose.ROUTED]
    if wanted.state is not None:
        chosen.append(Study.state == wanted.state)
    if wanted.study_date:
        chosen.append(Study.study_date == wanted.study_date.replace("-", ""))
    if wanted.outcome is not None:
        chosen.append(exists().where(Result.study_pk == Study.id, Result.is_current, Result.outcome == wanted.outcome))
    if wanted.delivery is not None:
        # A list, and no EXISTS for each study: SQLite would go through all deliveries of the state for each.
        in_state = (
            select(Result.study_pk)
            .join(Document, Document.result_pk == Result.id)
            .join(Delivery, Delivery.document_pk == Document.id)
            .where(Result.is_current, Delivery.state == wanted.delivery)
        )
        chosen.append(Study.id.in_(in_state))
    for word in wanted.words.split():
        chosen.append(
            or_(
                Study.patient_name.icontains(word, autoescape=True),
                Study.patient_id.icontains(word, autoescape=True),
                Study.accession_number.icontains(word, autoescape=True),
                Study.study_instance_uid == word,
            )
        )
    return chosen


def _current_results(session: Session, study_pks: Sequence[int]) -> dict[int, Result]:
    rows = session.scalars(select(Result).where(Result.study_pk.in_(study_pks), Result.is_current).order_by(Result.id))
    return {row.study_pk: row for row in rows}


def _delivery_counts(session: Session, study_pks: Sequence[int]) -> dict[int, dict[str, int]]:
    rows = session.execute(
        select(Result.study_pk, Delivery.state, func.count())
        .join(Document, Document.result_pk == Result.id)
        .join(Delivery, Delivery.document_pk == Document.id)
        .where(Result.study_pk.in_(study_pks), Result.is_current)
        .group_by(Result.study_pk, Delivery.state)
    )
    counts: dict[int, dict[str, int]] = {}
    for study_pk, state, count in rows:
        counts.setdefault(study_pk, {})[state.value] = count
    return counts


def _with_dead_jobs(session: Session, studies: Sequence[Study]) -> set[int]:
    keys = {analyse_key(study.study_instance_uid, study.revision): study.id for study in studies}
    dead = session.scalars(select(Job.key).where(Job.key.in_(list(keys)), Job.state == JobState.DEAD))
    return {keys[key] for key in dead}


def _line(study: Study, result: Result | None, deliveries: Mapping[str, int], *, dead: bool) -> Line:
    findings = result.prediction.get("findings", []) if result is not None else []
    changes = sorted(
        ((f["change"], f["name"]) for f in findings if f.get("change") not in (None, "stable")),
        key=lambda pair: URGENCY.index(pair[0]) if pair[0] in URGENCY else len(URGENCY),
    )
    return Line(
        study_instance_uid=study.study_instance_uid,
        patient_name=study.patient_name,
        patient_id=study.patient_id,
        accession_number=study.accession_number,
        study_date=study.study_date,
        study_time=study.study_time[:6],
        description=study.study_description,
        state=study.state.value,
        received_at=study.last_instance_at,
        outcome=result.outcome.value if result is not None else "",
        changes=tuple(changes),
        present=tuple(f["name"] for f in findings if f.get("presence") == "present"),
        deliveries=deliveries,
        failed=dead or DeliveryState.DEAD.value in deliveries,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One point of a study's time line."""

    at: dt.datetime
    what: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLine:
    """One document at one destination."""

    id: int
    document: str
    destination: str
    state: str
    proof: str
    attempts: int
    last_error: str
    updated_at: dt.datetime
    study_instance_uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPage:
    """Everything that the page of one study shows."""

    study: Study
    result: Result | None
    results: tuple[Result, ...]
    current_sop: str
    prior_sop: str
    prior_date: str
    instances: int
    timeline: tuple[Moment, ...]
    deliveries: tuple[DeliveryLine, ...]
    findings: tuple[dict[str, Any], ...] = field(default=())


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
    prior_date = session.scalar(
        select(Study.study_date).where(
            Study.study_instance_uid == (result.prior_study_instance_uid if result is not None else "")
        )
    )
    current = result.sop_instance_uid if result is not None else ""
    page = StudyPage(
        study=study,
        result=result,
        results=results,
        current_sop=current or _any_image(session, study.id),
        prior_sop=result.prior_sop_instance_uid if result is not None else "",
        prior_date=prior_date or "",
        instances=count or 0,
        timeline=_timeline(study, results, rows),
        deliveries=tuple(_delivery_line(delivery, document) for delivery, document, _ in rows),
        findings=_most_urgent_first(result.prediction.get("findings", ())) if result is not None else (),
    )
    session.expunge_all()  # the values outlive the session
    return page


def _most_urgent_first(findings: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """What changed, then what is there, then what is not known, then what is absent; else as the model has it."""
    presences = ("present", "abstained", "absent")

    def rank(finding: dict[str, Any]) -> tuple[int, int]:
        change, presence = finding.get("change"), finding.get("presence")
        return (
            URGENCY.index(change) if change in URGENCY else len(URGENCY),
            presences.index(presence) if presence in presences else len(presences),
        )

    return tuple(sorted(findings, key=rank))


def _any_image(session: Session, study_pk: int) -> str:
    uid = session.scalar(
        select(Instance.sop_instance_uid)
        .join(Series, Instance.series_pk == Series.id)
        .where(Series.study_pk == study_pk, Instance.rows.is_not(None))
        .order_by(Instance.id)
        .limit(1)
    )
    return uid or ""


DeliveryRow = tuple[Delivery, Document, str]


def delivery_rows(session: Session, chosen: ColumnElement[bool], limit: int = 500) -> list[DeliveryRow]:
    """Deliveries with their documents and the StudyInstanceUIDs, the latest first."""
    rows = session.execute(
        select(Delivery, Document, Study.study_instance_uid)
        .join(Document, Delivery.document_pk == Document.id)
        .join(Result, Document.result_pk == Result.id)
        .join(Study, Result.study_pk == Study.id)
        .where(chosen)
        .order_by(Delivery.updated_at.desc(), Delivery.id)
        .limit(limit)
    )
    return [(delivery, document, uid) for delivery, document, uid in rows]


def deliveries(session: Session, state: DeliveryState | None, limit: int = 200) -> list[DeliveryLine]:
    """The latest deliveries, of one state or of all."""
    chosen = Delivery.state == state if state is not None else Delivery.id > 0
    return [
        _delivery_line(delivery, document, uid) for delivery, document, uid in delivery_rows(session, chosen, limit)
    ]


def _delivery_line(delivery: Delivery, document: Document, study_instance_uid: str = "") -> DeliveryLine:
    return DeliveryLine(
        id=delivery.id,
        document=document.kind,
        destination=delivery.destination,
        state=delivery.state.value,
        proof=delivery.proof,
        attempts=delivery.attempts,
        last_error=delivery.last_error,
        updated_at=delivery.updated_at,
        study_instance_uid=study_instance_uid,
    )


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
                detail=f"{result.outcome}, revision {result.revision}, generation {result.generation}",
            )
        )
    for delivery, document, _ in rows:
        where = f"{document.kind} report → {delivery.destination}"
        if delivery.stored_at is not None:
            moments.append(Moment(at=delivery.stored_at, what="accepted", detail=where))
        if delivery.confirmed_at is not None:
            moments.append(
                Moment(at=delivery.confirmed_at, what="proven delivered", detail=f"{where}, by {delivery.proof}")
            )
    return tuple(sorted(moments, key=lambda moment: moment.at))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """One checkpoint as its results show it."""

    name: str
    version: str
    device_uid: str
    results: int
    first_at: dt.datetime
    last_at: dt.datetime
    outcomes: Mapping[str, int]


def models(session: Session) -> list[ModelLine]:
    """The checkpoints that made results, the latest first."""
    rows = session.execute(
        select(
            Result.model_name,
            Result.model_version,
            Result.device_uid,
            Result.outcome,
            func.count(),
            func.min(Result.created_at),
            func.max(Result.created_at),
        ).group_by(Result.model_name, Result.model_version, Result.device_uid, Result.outcome)
    ).all()
    lines: dict[str, list[Any]] = {}
    for row in rows:
        lines.setdefault(row[2], []).append(row)
    found = [
        ModelLine(
            name=group[0][0],
            version=group[0][1],
            device_uid=uid,
            results=sum(row[4] for row in group),
            first_at=min(row[5] for row in group),
            last_at=max(row[6] for row in group),
            outcomes={row[3].value: row[4] for row in group},
        )
        for uid, group in lines.items()
    ]
    return sorted(found, key=lambda line: line.last_at, reverse=True)


def delivery_counts(session: Session) -> list[tuple[str, DeliveryState, int]]:
    """(destination, state, how many)."""
    rows = session.execute(
        select(Delivery.destination, Delivery.state, func.count())
        .group_by(Delivery.destination, Delivery.state)
        .order_by(Delivery.destination, Delivery.state)
    )
    return [(destination, state, count) for destination, state, count in rows]
