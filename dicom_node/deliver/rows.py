"""Rows written by the steps of a delivery, each in one transaction with its job."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.audit import messages as audit
from dicom_node.config import Destination
from dicom_node.deliver import peer, transitions
from dicom_node.deliver.queue import UNREACHABLE, hold_back, let_go
from dicom_node.deliver.task import Task, give_up_as_superseded
from dicom_node.errors import DeliveryError
from dicom_node.index.tables.core import Delivery, DeliveryState, Job, JobState
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.logs import get_logger

log = get_logger(__name__)

REFUSED = "refused"
"""In a job's payload: how often in a row it was refused. Tries while the destination was down do not count."""


def mark_stored(*tasks: Task, transaction_uid: str = "") -> None:
    """Transition A of what one destination has just accepted in the classes of the tasks' references; whoever waits for
    it is let go.

    transaction_uid: under which commitment is asked for next, as `note_proof_request`.
    """
    node, destination = tasks[0].node, tasks[0].destination
    with node.database.write() as session:
        now = node.clock()
        for task in tasks:
            jobs.heartbeat(session, task.job)
            delivery = session.get_one(Delivery, task.delivery_id)
            transitions.mark_stored(delivery, task.reference.sop_class_uid, now)
            if transaction_uid:
                transitions.ask_for_commitment(delivery, transaction_uid, now)
            _audit_transfer(session, task, now)
        let_go(session, destination.name)


def _audit_transfer(session: Session, task: Task, now: dt.datetime) -> None:
    """PS3.15 section A.5.3.7, written by the sender."""
    settings, destination = task.node.settings, task.destination
    audit.record(
        session,
        audit.AuditedEvent.INSTANCES_TRANSFERRED,
        now=now,
        participants=(
            audit.this_node(settings.node.ae_title, requestor=True, role="source"),
            _audit_participant(destination),
        ),
        study=replace(task.study, sop_classes=((task.reference.sop_class_uid, 1),)),
        site=settings.audit.site,
    )


def _audit_participant(destination: Destination) -> audit.Participant:
    """A web service is known by its address, a DICOM peer by AE title and host."""
    if destination.url:
        return audit.Participant(user_id=destination.url, role="destination", address=destination.url)
    return audit.Participant(
        user_id=destination.ae_title, ae_title=destination.ae_title, role="destination", address=destination.host
    )


def note_proof_request(task: Task, transaction_uid: str = "") -> None:
    """Committed before the request leaves: the report may be faster than the answer."""
    with task.node.database.write() as session:
        jobs.heartbeat(session, task.job)
        delivery = session.get_one(Delivery, task.delivery_id)
        if transaction_uid:
            transitions.ask_for_commitment(delivery, transaction_uid, task.node.clock())
        else:
            transitions.ask_for_proof(delivery, task.node.clock())


def is_superseded(task: Task) -> bool:
    """Tell whether the lost document is outdated meanwhile; then its delivery has been ended."""
    with task.node.database.write() as session:
        delivery = session.get_one(Delivery, task.delivery_id, with_for_update=True)
        if delivery.document.result.is_current:
            return False
        give_up_as_superseded(session, task.job, delivery, task.node.clock())
    return True


def end(*tasks: Task, proof: str = "") -> None:
    """End or postpone the jobs by what the rows say now; with `proof`, confirm them first (transition B)."""
    with tasks[0].node.database.write() as session:
        for task in sorted(tasks, key=lambda task: task.delivery_id):  # the order of a report's locks
            _end(session, task, proof)


def _end(session: Session, task: Task, proof: str) -> None:
    now = task.node.clock()
    delivery = session.get_one(Delivery, task.delivery_id, with_for_update=True)
    if proof and delivery.state is not DeliveryState.CONFIRMED:
        transitions.confirm(delivery, proof, now)
        log.info("delivery confirmed", delivery=delivery.id, destination=delivery.destination, proof=proof)
    if delivery.state is DeliveryState.CONFIRMED:
        jobs.complete(session, task.job)
    elif delivery.state is DeliveryState.STORED:
        jobs.postpone(session, task.job, until=_look_again_at(task, delivery, now))
    else:  # the report came while we waited, and said no
        _record_failure(session, task, delivery, delivery.last_error or "to be sent again", permanent=False)


def _look_again_at(task: Task, delivery: Delivery, now: dt.datetime) -> dt.datetime:
    """A commitment report wakes the job itself; until its time-out there is nothing to do. C-FIND must ask again."""
    if delivery.commitment_asked_at is not None:
        return delivery.commitment_asked_at + dt.timedelta(seconds=task.node.settings.delivery.proof_timeout_seconds)
    return now + jobs.back_off(max(delivery.proof_attempts, 1))


def fail(task: Task, error: DeliveryError, *, untried: Sequence[Task] = ()) -> None:
    """The job's failure and the row's in one transaction.

    untried: those behind it, each due again by itself as it was; where the destination is down, when this one is.
    """
    refused = _refusals(task.job) + 1 if isinstance(error, peer.RefusedError) else 0
    refused_often = refused >= task.node.settings.delivery.refused_attempts
    unreachable = isinstance(error, peer.DestinationUnreachableError)
    with task.node.database.write() as session:
        delivery = session.get_one(Delivery, task.delivery_id, with_for_update=True)
        if delivery.state is DeliveryState.CONFIRMED:  # the report came before the request failed
            jobs.complete(session, task.job)
            return
        for each in untried:
            jobs.postpone(session, each.job)
        text = f"{UNREACHABLE}: {error}" if unreachable else str(error)
        if delivery.state is DeliveryState.STORED:
            delivery.commitment_asked_at = None  # the request itself failed: the next run asks at once
        has_refusals = bool(refused or _refusals(task.job))
        payload = {**task.job.payload, REFUSED: refused} if has_refusals else None
        _record_failure(session, task, delivery, text, permanent=error.permanent or refused_often, payload=payload)
        if error.comment:
            delivery.last_error += f" ({error.comment})"
        if unreachable:
            # All that wait for this destination come due when this job does: one of them finds out for all, and none
            # burns its attempts meanwhile.
            run_at = session.scalars(select(Job.run_at).where(Job.id == task.job.id)).one()
            hold_back(session, task.destination.name, until=run_at)


def _refusals(job: ClaimedJob) -> int:
    """A retry or resend begins to count attempts anew, and with them the refusals."""
    return min(int(job.payload.get(REFUSED, 0)), job.attempts - 1)


def send_from_the_beginning(task: Task) -> None:
    """Accepted and lost: pending again, and due with the back-off of its sends."""
    log.warning("accepted and lost: sending again", delivery=task.delivery_id)
    with task.node.database.write() as session:
        delivery = session.get_one(Delivery, task.delivery_id, with_for_update=True)
        text = "accepted, but not listed in time"
        transitions.send_again(delivery, text, task.node.clock())
        _record_failure(session, task, delivery, text, permanent=False)


def _record_failure(
    session: Session,
    task: Task,
    delivery: Delivery,
    text: str,
    *,
    permanent: bool,
    payload: Mapping[str, Any] | None = None,
) -> None:
    now = task.node.clock()
    if delivery.state is DeliveryState.PENDING and delivery.attempts >= task.job.max_attempts:
        permanent = True  # accepted and lost as often as it may be tried
    state = jobs.fail(session, task.job, text, permanent=permanent, payload=payload)
    delivery.last_error, delivery.updated_at = text, now
    if state is JobState.DEAD:
        transitions.give_up(delivery, text, now)
    log.warning("delivery failed", delivery=delivery.id, destination=delivery.destination, error=text, job_state=state)
