"""The contents of the pages, read from the index as plain values; nothing here writes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, exists, func, or_, select
from sqlalchemy.orm import Session

from dicom_node.index.tables.core import (
    Delivery,
    DeliveryState,
    Document,
    Job,
    JobState,
    Outcome,
    Result,
    Study,
    StudyPurpose,
    StudyState,
)
from dicom_node.studies.completion import analyse_key

PAGE = 50
URGENCY = ("new", "worsening", "resolved", "improving", "not comparable", "stable")
"""Changes, the one to look at first first."""


class Urgency(StrEnum):
    """The urgency of a look, by the report's own ranks (`dicom_node.report.rules`)."""

    CRITICAL = "critical"
    """A finding that may need action within the hour."""
    CHANGED = "new or worse"
    """Critical, new, or larger or worse."""


RANKS = {Urgency.CRITICAL: ("critical",), Urgency.CHANGED: ("critical", "new", "worse")}
"""The ranks of a finding in result.json that each urgency takes in."""


class Order(StrEnum):
    """The order of the work list, newest first within each key."""

    STUDY_TIME = "study time"
    RECEIVED = "received"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """The filter of the work list; "" and None filter nothing."""

    words: str = ""
    state: StudyState | None = None
    outcome: Outcome | None = None
    delivery: DeliveryState | None = None
    urgency: Urgency | None = None
    order: Order = Order.STUDY_TIME
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
    critical: tuple[str, ...]
    present: tuple[str, ...]
    """Seen, neither critical nor with a change stated."""
    possible: int
    """Findings that are possible, or neither seen nor excluded."""
    deliveries: Mapping[str, int]
    """Delivery state → documents."""
    failed: bool
    """A dead job or delivery: somebody must look."""
    reason: str = ""
    """Why no finding is stated; "" where findings are."""
    is_dated_ahead: bool = False
    """The study's date lies after the day on which it was received."""


def work_list(session: Session, wanted: Filter) -> tuple[list[Line], int]:
    """The studies sent for analysis, the newest first, and how many the filter leaves in all."""
    chosen = _conditions(wanted)
    total = session.scalar(select(func.count(Study.id)).where(*chosen)) or 0
    studies = session.scalars(
        select(Study)
        .where(*chosen)
        .order_by(*_ORDERS[wanted.order], Study.id.desc())
        .offset(wanted.offset)
        .limit(wanted.limit)
    ).all()
    results = _current_results(session, [study.id for study in studies])
    delivered = _delivery_counts(session, [study.id for study in studies])
    dead = _with_dead_jobs(session, studies)
    return [
        _line(study, results.get(study.id), delivered.get(study.id, {}), dead=study.id in dead) for study in studies
    ], total


_ORDERS: Mapping[Order, tuple[ColumnElement[Any], ...]] = {
    Order.STUDY_TIME: (Study.study_date.desc(), Study.study_time.desc()),
    Order.RECEIVED: (Study.last_instance_at.desc(),),
}


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    chosen: list[ColumnElement[bool]] = [Study.purpose == StudyPurpose.ROUTED]
    if wanted.state is not None:
        chosen.append(Study.state == wanted.state)
    if wanted.study_date:
        chosen.append(Study.study_date == wanted.study_date.replace("-", ""))
    if wanted.outcome is not None:
        chosen.append(exists().where(Result.study_pk == Study.id, Result.is_current, Result.outcome == wanted.outcome))
    if wanted.urgency is not None:
        # The rank of each finding stands in the stored JSON text, on both databases as Python wrote it.
        text = cast(Result.prediction, Text)
        ranks = or_(*(text.contains(f'"rank": "{rank}"') for rank in RANKS[wanted.urgency]))
        chosen.append(exists().where(Result.study_pk == Study.id, Result.is_current, ranks))
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
        ((f["change"], f["name"]) for f in findings if _has_tag(f)),
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
        critical=tuple(f["name"] for f in findings if _is_critical(f)),
        present=tuple(
            f["name"] for f in findings if f.get("presence") == "present" and not _has_tag(f) and not _is_critical(f)
        ),
        possible=sum(f.get("seen") in ("possible", "no statement") and f.get("judged", True) for f in findings),
        deliveries=deliveries,
        failed=dead or DeliveryState.DEAD.value in deliveries,
        reason=result.reason if result is not None and not findings else "",
        # A day's grace: the modality may stand in a time zone that is ahead.
        is_dated_ahead=study.study_date.isdigit()
        and study.study_date > f"{study.last_instance_at + dt.timedelta(days=1):%Y%m%d}",
    )


def _is_critical(finding: Mapping[str, Any]) -> bool:
    return finding.get("rank") in RANKS[Urgency.CRITICAL]


def _has_tag(finding: Mapping[str, Any]) -> bool:
    """Tell whether the work list has a tag for the finding's change; one that lacks certainty alone has none."""
    return finding.get("change") not in (None, "stable") and finding.get("doubt") != "low certainty"


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
    patient_name: str = ""
    patient_id: str = ""
    study_date: str = ""
    accession_number: str = ""


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
    rows = delivery_rows(session, chosen, limit)
    uids = {uid for _, _, uid in rows}
    studies = {
        study.study_instance_uid: study
        for study in session.scalars(select(Study).where(Study.study_instance_uid.in_(uids)))
    }
    return [
        replace(
            delivery_line(delivery, document, uid),
            patient_name=studies[uid].patient_name,
            patient_id=studies[uid].patient_id,
            study_date=studies[uid].study_date,
            accession_number=studies[uid].accession_number,
        )
        for delivery, document, uid in rows
    ]


def delivery_line(delivery: Delivery, document: Document, study_instance_uid: str = "") -> DeliveryLine:
    """One document at one destination, as the pages show it."""
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


def delivery_counts(session: Session) -> list[tuple[str, DeliveryState, int]]:
    """(destination, state, how many)."""
    rows = session.execute(
        select(Delivery.destination, Delivery.state, func.count())
        .group_by(Delivery.destination, Delivery.state)
        .order_by(Delivery.destination, Delivery.state)
    )
    return [(destination, state, count) for destination, state, count in rows]
