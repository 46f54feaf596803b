"""The story of one delivery: send, prove, end. Every step that must survive a crash is a committed row first.

    pending  ── C-STORE ──▶ stored ── proof ──▶ confirmed, job done
    stored   ── the proof says no, or time-out and not found ──▶ pending, sent again
A run that finds `stored` asks for the proof only; a run that finds `confirmed` only ends its job.
"""

from __future__ import annotations

import datetime as dt
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import generate_uid
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import audit, jobs
from dicom_node.config import Destination, Verify
from dicom_node.context import NodeContext
from dicom_node.deliver import peer, stow
from dicom_node.deliver.commitment import ReportReceiver, request_commitment
from dicom_node.deliver.queue import UNREACHABLE, hold_back, let_go, sent_uid
from dicom_node.errors import DeliveryError
from dicom_node.index.tables import Delivery, DeliveryState, Document, Job, JobState, Result, Study
from dicom_node.jobs import ClaimedJob
from dicom_node.logs import bound, get_logger
from dicom_node.report import ladder

log = get_logger(__name__)

MOST_PROOF_REQUESTS = 3
"""So often is commitment asked for one accepted object. Then C-FIND decides, and is recorded as the proof."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One claimed delivery with what its run needs."""

    job: ClaimedJob
    node: NodeContext
    destination: Destination
    delivery_id: int
    state: DeliveryState
    sends: int
    proof_attempts: int
    stored_at: dt.datetime | None
    asked_at: dt.datetime | None
    reference: peer.InstanceReference
    """The document as this destination has or will get it: in the class that it accepted before, else its own."""
    document_uid: str
    document_class: str
    path: str

    def proof_is_late(self) -> bool:
        """Whether the time for the proof has run out."""
        since = self.asked_at or self.stored_at
        timeout = dt.timedelta(seconds=self.node.settings.delivery.proof_timeout_seconds)
        return since is None or self.node.clock() >= since + timeout


def handle(job: ClaimedJob, node: NodeContext) -> None:
    """Deliver one document to one destination, or take the next step towards it. Ends or postpones its job itself."""
    with bound(job=job.key):
        task = _begin(job, node)
        if task is None:
            return
        try:
            if task.destination.url:
                _to_web_service(task)
            elif task.state is DeliveryState.STORED:
                _continue(task)
            else:
                _send_and_prove(task)
        except DeliveryError as error:
            _fail(task, error)


def _begin(job: ClaimedJob, node: NodeContext) -> Task | None:
    """The task, or None where there is nothing to do any more and the job has been ended."""
    with node.database.write() as session:
        now = node.clock()
        row = session.execute(
            select(Delivery, Document, Result, Study)
            .join(Document, Delivery.document_pk == Document.id)
            .join(Result, Document.result_pk == Result.id)
            .join(Study, Result.study_pk == Study.id)
            .where(Delivery.id == job.payload["delivery_id"])
        ).one_or_none()
        if row is None or row.Delivery.state is DeliveryState.CONFIRMED:
            jobs.complete(session, job, now=now)
            return None
        delivery, document = row.Delivery, row.Document
        never_left = delivery.attempts == 0 and delivery.state is not DeliveryState.STORED
        if not row.Result.is_current and never_left:
            delivery.state, delivery.updated_at = DeliveryState.SUPERSEDED, now
            jobs.complete(session, job, now=now)
            return None
        destination = next((d for d in node.settings.destinations if d.name == delivery.destination), None)
        if destination is None:
            error = f"no destination {delivery.destination!r} is configured any more"
            jobs.fail(session, job, error, now=now, permanent=True)
            delivery.state, delivery.last_error, delivery.updated_at = DeliveryState.DEAD, error, now
            return None
        return Task(
            job=job,
            node=node,
            destination=destination,
            delivery_id=delivery.id,
            state=delivery.state,
            sends=delivery.attempts,
            proof_attempts=delivery.proof_attempts,
            stored_at=delivery.stored_at,
            asked_at=delivery.commitment_asked_at,
            reference=peer.InstanceReference(
                study_instance_uid=row.Study.study_instance_uid,
                series_instance_uid=document.series_instance_uid,
                sop_class_uid=delivery.accepted_sop_class_uid or document.sop_class_uid,
                sop_instance_uid=sent_uid(delivery, document),
            ),
            document_uid=document.sop_instance_uid,
            document_class=document.sop_class_uid,
            path=document.path,
        )


def read_document(task: Task) -> Dataset:
    """The document from the disk. Raises DeliveryError, permanent where the file is gone or damaged."""
    try:
        return dcmread(task.node.documents_dir / task.path)
    except (FileNotFoundError, InvalidDicomError) as error:
        raise DeliveryError(f"the document's file cannot be read: {error}", permanent=True) from error
    except OSError as error:
        raise DeliveryError(f"the document's file cannot be read: {error}") from error


def _send_and_prove(task: Task) -> None:
    dataset = read_document(task)
    reports = ReportReceiver(task.node.database, task.node.clock)
    with _association(task, reports) as association:
        sent = _send(task, association, dataset)
        _prove(sent, association, reports, proof_attempts=0)


def _continue(task: Task) -> None:
    """The object is there, the proof is not."""
    if task.destination.verify is Verify.COMMITMENT and task.asked_at is not None and not task.proof_is_late():
        end(task)
        return
    reports = ReportReceiver(task.node.database, task.node.clock)
    with _association(task, reports) as association:
        if task.proof_is_late() and _found(task, association) is False:
            log.warning("accepted and lost: sending again", delivery=task.delivery_id)
            if task.sends >= task.job.max_attempts:
                raise DeliveryError("accepted and lost as often as it may be tried", permanent=True)
            sent = _send(task, association, read_document(task))
            _prove(sent, association, reports, proof_attempts=0)
        else:
            _prove(task, association, reports, proof_attempts=task.proof_attempts)


def _to_web_service(task: Task) -> None:
    """The same steps by STOW-RS and QIDO-RS."""
    client = stow.open_client(task.destination, task.node.settings.delivery)
    if task.state is not DeliveryState.STORED:
        dataset = read_document(task)
        stow.store(client, dataset, task.reference)
        mark_stored(task, dataset.SOPClassUID)
    if task.destination.verify is Verify.NONE:
        end(task, proof="stow")
    elif stow.found(client, task.reference):
        end(task, proof="find")
    elif task.state is DeliveryState.STORED and task.proof_is_late():
        _send_from_the_beginning(task)
    else:
        _note_proof_request(task)
        end(task)


def _association(task: Task, reports: ReportReceiver) -> AbstractContextManager[Association]:
    return peer.associated(
        task.destination,
        task.node.settings.delivery,
        calling_ae_title=task.node.settings.node.ae_title,
        sop_classes=[
            *ladder_of(task.document_class),
            StorageCommitmentPushModel,
            StudyRootQueryRetrieveInformationModelFind,
        ],
        on_event_report=reports,
    )


def ladder_of(sop_class_uid: str) -> list[str]:
    """The class itself and every poorer SR class that the document can be turned into, richest first."""
    steps = [str(step) for step in ladder.STEPS]
    return steps[steps.index(sop_class_uid) :] if sop_class_uid in steps else [sop_class_uid]


def _send(task: Task, association: Association, dataset: Dataset) -> Task:
    """C-STORE in the richest class that the peer takes, then transition A; returns the task with what was sent.

    A class that took it before comes first: a second send must not leave a second object. Raises DeliveryError.
    """
    steps = [step for step in ladder_of(task.document_class) if peer.accepts(association, step)]
    if task.reference.sop_class_uid in steps:
        steps.remove(task.reference.sop_class_uid)
        steps.insert(0, task.reference.sop_class_uid)
    if not steps:
        raise peer.NotSupportedError(f"none of the SOP classes {', '.join(ladder_of(task.document_class))} is accepted")
    for step in steps:
        version = dataset if step == task.document_class else ladder.converted(dataset, step)
        try:
            status = peer.store(association, version)
        except peer.NotSupportedError:
            # Negotiated, and refused all the same (0122H): the next poorer class may do.
            if step == steps[-1]:
                raise
            continue
        break
    log.info("document accepted", delivery=task.delivery_id, status=f"{status:04X}H", sop_class=step)
    mark_stored(task, step)
    reference = replace(task.reference, sop_class_uid=step, sop_instance_uid=str(version.SOPInstanceUID))
    return replace(task, reference=reference)


def mark_stored(task: Task, sop_class_uid: str) -> None:
    """Transition A, committed before the proof is asked for; whoever waits for this destination is let go."""
    with task.node.database.write() as session:
        now = task.node.clock()
        jobs.heartbeat(session, task.job, now=now)
        delivery = session.get_one(Delivery, task.delivery_id)
        delivery.state = DeliveryState.STORED
        delivery.attempts += 1
        delivery.accepted_sop_class_uid = sop_class_uid
        delivery.stored_at = delivery.updated_at = now
        delivery.commitment_transaction_uid, delivery.commitment_asked_at = "", None
        delivery.proof_attempts, delivery.last_error = 0, ""
        let_go(session, task.destination.name, now=now)
        _audit_transfer(session, task, delivery, now)


def _audit_transfer(session: Session, task: Task, delivery: Delivery, now: dt.datetime) -> None:
    """PS3.15 section A.5.3.7, written by the sender."""
    study, settings, destination = delivery.document.result.study, task.node.settings, task.destination
    audit.record(
        session,
        audit.Event.INSTANCES_TRANSFERRED,
        now=now,
        participants=(
            audit.this_node(settings.node.ae_title, requestor=True, role="source"),
            audit.Participant(user_id=destination.ae_title, role="destination", address=destination.host),
        ),
        study=audit.AboutStudy(
            study_instance_uid=study.study_instance_uid,
            patient_id=study.patient_id,
            patient_name=study.patient_name,
            accession_number=study.accession_number,
            sop_classes=((delivery.accepted_sop_class_uid, 1),),
        ),
        site=settings.audit.site,
    )


def _prove(task: Task, association: Association, reports: ReportReceiver, *, proof_attempts: int) -> None:
    """Get the proof that the destination is configured for, or arrange to look again."""
    if task.destination.verify is Verify.NONE:
        end(task, proof="none")
    elif not _asks_commitment(task, association):
        # Configured for C-FIND, or commitment is not offered: the query is the proof, and recorded as such.
        if not peer.find(association, task.reference):
            _note_proof_request(task)
            end(task)
        else:
            end(task, proof="find")
    elif proof_attempts < MOST_PROOF_REQUESTS:
        transaction_uid = str(generate_uid(prefix=None))
        _note_proof_request(task, transaction_uid)
        request_commitment(
            association,
            transaction_uid=transaction_uid,
            sop_class=task.reference.sop_class_uid,
            sop_instance=task.reference.sop_instance_uid,
        )
        reports.came.wait(task.destination.same_association_seconds)
        end(task)
    elif _found(task, association):
        log.warning("commitment never came: C-FIND is taken as proof", delivery=task.delivery_id)
        end(task, proof="find")
    else:
        raise DeliveryError(
            "accepted, but the peer neither reports commitment nor lists the object: no proof to be had", permanent=True
        )


def _asks_commitment(task: Task, association: Association) -> bool:
    return task.destination.verify is Verify.COMMITMENT and peer.accepts(association, StorageCommitmentPushModel)


def _found(task: Task, association: Association) -> bool | None:
    """Whether the peer lists the object; None where it answers no queries."""
    if task.destination.verify is Verify.NONE:
        return None
    try:
        return peer.find(association, task.reference)
    except peer.NotSupportedError:
        return None


def _note_proof_request(task: Task, transaction_uid: str = "") -> None:
    """Committed before the request leaves: the report may be faster than the answer."""
    with task.node.database.write() as session:
        jobs.heartbeat(session, task.job, now=task.node.clock())
        delivery = session.get_one(Delivery, task.delivery_id)
        delivery.proof_attempts += 1
        if transaction_uid:
            delivery.commitment_transaction_uid = transaction_uid
            delivery.commitment_asked_at = task.node.clock()
        delivery.updated_at = task.node.clock()


def end(task: Task, *, proof: str = "") -> None:
    """End or postpone the job by what the row says now; with `proof`, confirm it first (transition B)."""
    with task.node.database.write() as session:
        now = task.node.clock()
        delivery = session.get_one(Delivery, task.delivery_id, with_for_update=True)
        if proof and delivery.state is not DeliveryState.CONFIRMED:
            delivery.state, delivery.proof, delivery.last_error = DeliveryState.CONFIRMED, proof, ""
            delivery.confirmed_at = delivery.updated_at = now
            log.info("delivery confirmed", delivery=delivery.id, destination=delivery.destination, proof=proof)
        if delivery.state is DeliveryState.CONFIRMED:
            jobs.complete(session, task.job, now=now)
        elif delivery.state is DeliveryState.STORED:
            jobs.postpone(session, task.job, now=now, until=_look_again_at(task, delivery, now))
        else:  # the report came while we waited, and said no
            _record_failure(session, task, delivery, delivery.last_error or "to be sent again", permanent=False)


def _look_again_at(task: Task, delivery: Delivery, now: dt.datetime) -> dt.datetime:
    """A commitment report wakes the job itself; until its time-out there is nothing to do. C-FIND must ask again."""
    if delivery.commitment_asked_at is not None:
        return delivery.commitment_asked_at + dt.timedelta(seconds=task.node.settings.delivery.proof_timeout_seconds)
    return now + jobs.back_off(max(delivery.proof_attempts, 1))


def _fail(task: Task, error: DeliveryError) -> None:
    """The job's failure and the row's in one transaction."""
    settings = task.node.settings.delivery
    refused_often = isinstance(error, peer.RefusedError) and task.job.attempts >= settings.refused_attempts
    unreachable = isinstance(error, peer.DestinationUnreachableError)
    with task.node.database.write() as session:
        delivery = session.get_one(Delivery, task.delivery_id, with_for_update=True)
        text = f"{UNREACHABLE}: {error}" if unreachable else str(error)
        if delivery.state is DeliveryState.STORED:
            delivery.commitment_asked_at = None  # the request itself failed: the next run asks at once
        _record_failure(session, task, delivery, text, permanent=error.permanent or refused_often)
        if unreachable:
            run_at = session.scalars(select(Job.run_at).where(Job.id == task.job.id)).one()
            hold_back(session, task.destination.name, until=run_at)


def _send_from_the_beginning(task: Task) -> None:
    """Accepted and lost: pending again, and due with the back-off of its sends."""
    log.warning("accepted and lost: sending again", delivery=task.delivery_id)
    with task.node.database.write() as session:
        delivery = session.get_one(Delivery, task.delivery_id, with_for_update=True)
        delivery.state = DeliveryState.PENDING
        _record_failure(session, task, delivery, "accepted, but not listed in time", permanent=False)


def _record_failure(session: Session, task: Task, delivery: Delivery, text: str, *, permanent: bool) -> None:
    now = task.node.clock()
    if delivery.state is DeliveryState.PENDING and delivery.attempts >= task.job.max_attempts:
        permanent = True  # accepted and lost as often as it may be tried
    state = jobs.fail(session, task.job, text, now=now, permanent=permanent)
    delivery.last_error, delivery.updated_at = text, now
    if state is JobState.DEAD:
        delivery.state = DeliveryState.DEAD
    log.warning("delivery failed", delivery=delivery.id, destination=delivery.destination, error=text, job_state=state)
