"""The choice of documents for each destination: the rows and jobs that are made in the result's transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import cast

from sqlalchemy import ColumnElement, Table, literal, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from dicom_node.config import DeliverySection, Destination
from dicom_node.deliver import transitions
from dicom_node.index.clock import given_clock
from dicom_node.index.prepared import PreparedStatement
from dicom_node.index.tables.core import Delivery, Document, Job, JobKind, JobState, Result
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.due import Priority, given_times, time_parameter
from dicom_node.jobs.upkeep import reschedule
from dicom_node.report.sr.fallback_classes import variant_uid


def is_job_of(destination: str | InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """Tell whether a Job delivers a Document to that destination: `job_key` in SQL."""
    return Job.key == literal("deliver:") + Document.sop_instance_uid + ":" + destination


def job_key(sop_instance_uid: str, destination: str) -> str:
    """The key of the job that delivers one document to one destination."""
    return f"deliver:{sop_instance_uid}:{destination}"


def sent_uid(delivery: Delivery, document: Document) -> str:
    """The SOP Instance UID under which the destination has the document: each SR class has one of its own."""
    accepted = delivery.accepted_sop_class_uid
    if accepted in ("", document.sop_class_uid):
        return document.sop_instance_uid
    return variant_uid(document.sop_instance_uid, accepted)


def enqueue_deliveries(
    session: Session,
    document_rows: Sequence[Document],
    destinations: Sequence[Destination],
    now: dt.datetime,
    *,
    delivery: DeliverySection | None = None,
    priority: Priority = Priority.ROUTINE,
) -> int:
    """Make a Delivery row and a job for each document and each destination that wants it; returns how many are new.

    The documents must be flushed (they need their primary keys). Running it twice makes nothing twice.
    """
    settings = delivery or DeliverySection()
    enqueued = 0
    for document in document_rows:
        for destination in destinations:
            if not wants(destination, document):
                continue
            row = session.scalars(
                select(Delivery).where(Delivery.document_pk == document.id, Delivery.destination == destination.name)
            ).one_or_none()
            if row is None:
                row = Delivery(document_pk=document.id, destination=destination.name, created_at=now, updated_at=now)
                session.add(row)
                session.flush()
            enqueued += jobs.enqueue(
                session,
                JobKind.DELIVER,
                job_key(document.sop_instance_uid, destination.name),
                {"delivery_id": row.id},
                priority=priority,
                max_attempts=settings.max_attempts,
            )
    return enqueued


def wants(destination: Destination, document: Document) -> bool:
    """Tell whether the destination's rules take this document of this outcome."""
    return document.kind in destination.documents and document.result.outcome.value in destination.outcomes


def resend(session: Session, delivery_ids: Collection[int], *, now: dt.datetime, settings: DeliverySection) -> int:
    """An administrator's resend: these deliveries start again from the beginning; returns how many there were."""
    rows = session.execute(
        select(Delivery, Document)
        .join(Document, Delivery.document_pk == Document.id)
        .where(Delivery.id.in_(list(delivery_ids)))
    ).all()
    for delivery, document in rows:
        transitions.restart(delivery, now)
        key = job_key(document.sop_instance_uid, delivery.destination)
        is_new = jobs.enqueue(
            session,
            JobKind.DELIVER,
            key,
            {"delivery_id": delivery.id},
            priority=Priority.BULK,
            max_attempts=settings.max_attempts,
        )
        if not is_new:
            jobs.restart(session, key)
    return len(rows)


def has_predecessor_on_its_way(session: Session, result: Result, destination: str) -> bool:
    """Tell whether a document of an earlier result of this study is being sent there just now.

    Two threads deliver. Without this a slow old document could arrive after the new one, as the newest of the study.
    """
    older = (
        select(Job.id)
        .join(Document, is_job_of(destination))
        .join(Result, Document.result_pk == Result.id)
        .where(Result.study_pk == result.study_pk, Result.id < result.id, Job.state == JobState.RUNNING)
    )
    return session.scalars(older.limit(1)).first() is not None


def hold_back(session: Session, destination: str, *, until: dt.datetime) -> None:
    """The destination is down: what waits for it does not each try in vain. Counts no attempt of theirs."""
    reschedule(session, _goes_to(destination) & (Job.run_at < until), run_at=until, last_error=UNREACHABLE)


def let_go(session: Session, destination: str) -> None:
    """Make due what was held back, or had failed, because the destination did not answer: it answers again."""
    _let_go(destination, given_clock(session) is None).execute(session, given_times(session, present=dt.timedelta(0)))


@lru_cache(maxsize=64)
def _let_go(destination: str, on_server: bool) -> PreparedStatement:
    present = time_parameter("present", on_server)
    held_back = Job.last_error.startswith(UNREACHABLE, autoescape=True) & (Job.run_at > present)
    waiting = (Job.state == JobState.READY) & _goes_to(destination) & held_back
    return PreparedStatement(update(cast(Table, Job.__table__)).where(waiting).values(run_at=present))


UNREACHABLE = "destination down"
"""Begins `last_error` of what waits for a destination that cannot be reached."""


def _goes_to(destination: str) -> ColumnElement[bool]:
    return (Job.kind == JobKind.DELIVER) & Job.key.endswith(f":{destination}", autoescape=True)
