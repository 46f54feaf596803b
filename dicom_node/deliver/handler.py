"""The story of one delivery: send, prove, end. Every step that must survive a crash is a committed row first.

    pending  ── C-STORE ──▶ stored ── proof ──▶ confirmed, job done
    stored   ── the proof says no, or time-out and not found ──▶ pending, sent again
A run that finds `stored` asks for the proof only; a run that finds `confirmed` only ends its job.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace

from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind

from dicom_node.config import Verify
from dicom_node.context import NodeContext
from dicom_node.deliver import peer, stow
from dicom_node.deliver.commitment import ReportReceiver, request_commitment
from dicom_node.deliver.rows import end, fail, is_superseded, mark_stored, note_proof_request, send_from_the_beginning
from dicom_node.deliver.task import Task, begin, read_document
from dicom_node.errors import DeliveryError
from dicom_node.index.tables.core import DeliveryState
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.logs import bound, get_logger
from dicom_node.report.sr import fallback_classes as ladder

log = get_logger(__name__)

MOST_PROOF_REQUESTS = 3
"""So often is commitment asked for one accepted object. Then C-FIND decides, and is recorded as the proof."""


def handle(job: ClaimedJob, node: NodeContext) -> None:
    """Deliver one document to one destination, or take the next step towards it. Ends or postpones its job itself."""
    with bound(job=job.key):
        task = begin(job, node)
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
            fail(task, error)


def _send_and_prove(task: Task) -> None:
    dataset = read_document(task)
    reports = ReportReceiver(task.node.database, task.node.clock)
    with _association(task, reports) as association:
        sent = _send(task, association, dataset)
        _prove(sent, association, reports, proof_attempts=0)


def _continue(task: Task) -> None:
    """The object is there, the proof is not."""
    # Asked already, and there is still time: the report comes on its own, on another association.
    if task.destination.verify is Verify.COMMITMENT and task.asked_at is not None and not task.is_proof_late():
        end(task)
        return
    reports = ReportReceiver(task.node.database, task.node.clock)
    with _association(task, reports) as association:
        # "Not listed" only, not "cannot be told": what cannot be looked up may well be there.
        if task.is_proof_late() and _is_listed(task, association) is False:
            if is_superseded(task):
                return
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
    elif stow.is_listed(client, task.reference):
        end(task, proof="find")
    elif task.state is DeliveryState.STORED and task.is_proof_late():
        send_from_the_beginning(task)
    else:
        note_proof_request(task)
        end(task)


def _association(task: Task, reports: ReportReceiver) -> AbstractContextManager[Association]:
    return peer.open_association(
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
        version = dataset if step == task.document_class else ladder.convert_document(dataset, step)
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


def _prove(task: Task, association: Association, reports: ReportReceiver, *, proof_attempts: int) -> None:
    """Get the proof that the destination is configured for, or arrange to look again."""
    if task.destination.verify is Verify.NONE:
        end(task, proof="none")
    elif not _asks_commitment(task, association):
        # Configured for C-FIND, or commitment is not offered: the query is the proof, and recorded as such.
        if not peer.find(association, task.reference):
            note_proof_request(task)
            end(task)
        else:
            end(task, proof="find")
    elif proof_attempts >= MOST_PROOF_REQUESTS and _is_listed(task, association):
        log.warning("commitment never came: C-FIND is taken as proof", delivery=task.delivery_id)
        end(task, proof="find")
    elif proof_attempts >= MOST_PROOF_REQUESTS and task.asked_at is not None:
        raise DeliveryError(
            "accepted, but the peer neither reports commitment nor lists the object: no proof to be had", permanent=True
        )
    else:  # a request that itself failed is no report that did not come: the job's own attempts end it
        transaction_uid = str(generate_uid(prefix=None))
        # Committed before the request leaves: the report may come before the answer to the request, and to the
        # receiver.
        note_proof_request(task, transaction_uid)
        request_commitment(
            association,
            transaction_uid=transaction_uid,
            sop_class=task.reference.sop_class_uid,
            sop_instance=task.reference.sop_instance_uid,
        )
        reports.came.wait(task.destination.same_association_seconds)
        end(task)


def _asks_commitment(task: Task, association: Association) -> bool:
    return task.destination.verify is Verify.COMMITMENT and peer.accepts(association, StorageCommitmentPushModel)


def _is_listed(task: Task, association: Association) -> bool | None:
    """Tell whether the peer lists the object; None where it answers no queries."""
    if task.destination.verify is Verify.NONE:
        return None
    try:
        return peer.find(association, task.reference)
    except peer.NotSupportedError:
        return None
