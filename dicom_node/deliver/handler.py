"""The story of one delivery: send, prove, end. Every step that must survive a crash is a committed row first.

    pending  ── C-STORE ──▶ stored ── proof ──▶ confirmed, job done
    stored   ── the proof says no, or time-out and not found ──▶ pending, sent again
A run that finds `stored` asks for the proof only; a run that finds `confirmed` only ends its job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind

from dicom_node.config import Verify
from dicom_node.context import NodeContext
from dicom_node.deliver import peer
from dicom_node.deliver.commitment import ReportReceiver, request_commitment
from dicom_node.deliver.rows import (
    end,
    fail,
    is_superseded,
    mark_stored,
    note_proof_request,
    send_from_the_beginning,
)
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
    """Deliver one document to one destination, its companions with it, or take the next step towards it.

    Ends or postpones each job itself.
    """
    with bound(job=job.key):
        tasks = begin(job, node)
        if not tasks:
            return
        if tasks[0].destination.url:
            for task in tasks:
                with _failures_of(task):
                    _to_web_service(task)
        elif tasks[0].state is DeliveryState.STORED:
            with _failures_of(tasks[0]):
                _continue(tasks[0])
        else:
            _send_and_prove(tasks)


@contextmanager
def _failures_of(task: Task) -> Iterator[None]:
    try:
        yield
    except DeliveryError as error:
        fail(task, error)


def _send_and_prove(tasks: Sequence[Task]) -> None:
    """Send all on one association and have them proven together. The first that fails ends it for those behind it."""
    reports = ReportReceiver(tasks[0].node.database, tasks[0].node.clock)
    sent: list[Task] = []
    try:
        dataset = read_document(tasks[0])
        with _association(tasks, reports) as association:
            for task in tasks:
                sent.append(_send(task, association, dataset if task is tasks[0] else read_document(task)))
            _prove_new(sent, association, reports)
    except DeliveryError as error:
        if len(sent) == len(tasks):  # all are accepted; the proof could not be asked for
            for task in sent:
                fail(task, error)
            return
        if sent:
            mark_stored(*sent)
            end(*sent)
        fail(tasks[len(sent)], error, untried=tasks[len(sent) + 1 :])


def _continue(task: Task) -> None:
    """The object is there, the proof is not."""
    # Asked already, and there is still time: the report comes on its own, on another association.
    if task.destination.verify is Verify.COMMITMENT and task.asked_at is not None and not task.is_proof_late():
        end(task)
        return
    reports = ReportReceiver(task.node.database, task.node.clock)
    with _association([task], reports) as association:
        # "Not listed" only, not "cannot be told": what cannot be looked up may well be there.
        if task.is_proof_late() and _is_listed(task, association) is False:
            if is_superseded(task):
                return
            log.warning("accepted and lost: sending again", delivery=task.delivery_id)
            if task.sends >= task.job.max_attempts:
                raise DeliveryError("accepted and lost as often as it may be tried", permanent=True)
            _prove_new([_send(task, association, read_document(task))], association, reports)
        else:
            _prove(task, association, reports, proof_attempts=task.proof_attempts)


def _to_web_service(task: Task) -> None:
    """The same steps by STOW-RS and QIDO-RS."""
    from dicom_node.deliver import stow  # with the first such destination: it brings a library of HTTP

    client = stow.open_client(task.destination, task.node.settings.delivery)
    if task.state is not DeliveryState.STORED:
        dataset = read_document(task)
        stow.store(client, dataset, task.reference)
        mark_stored(replace(task, reference=replace(task.reference, sop_class_uid=str(dataset.SOPClassUID))))
    if task.destination.verify is Verify.NONE:
        end(task, proof="stow")
    elif stow.is_listed(client, task.reference):
        end(task, proof="find")
    elif task.state is DeliveryState.STORED and task.is_proof_late():
        send_from_the_beginning(task)
    else:
        note_proof_request(task)
        end(task)


def _association(tasks: Sequence[Task], reports: ReportReceiver) -> AbstractContextManager[Association]:
    destination, settings = tasks[0].destination, tasks[0].node.settings
    return peer.open_association(
        destination,
        settings.delivery,
        calling_ae_title=settings.node.ae_title,
        sop_classes=[
            *(step for task in tasks for step in ladder_of(task.document_class)),
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
    """C-STORE in the richest class that the peer takes; returns the task with what was sent, for transition A.

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
    reference = replace(task.reference, sop_class_uid=step, sop_instance_uid=str(version.SOPInstanceUID))
    return replace(task, reference=reference)


def _prove_new(sent: Sequence[Task], association: Association, reports: ReportReceiver) -> None:
    """Transition A of what was just accepted, and the proof of it, asked for on the same association."""
    if _asks_commitment(sent[0], association):
        # Committed before the request leaves: the report may come before the answer to the request, and to the
        # receiver.
        transaction_uid = str(generate_uid(prefix=None))
        mark_stored(*sent, transaction_uid=transaction_uid)
        _ask_for_commitment(sent, transaction_uid, association, reports)
        return
    mark_stored(*sent)
    for task in sent:
        with _failures_of(task):
            _prove(task, association, reports, proof_attempts=0)


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
        note_proof_request(task, transaction_uid)
        _ask_for_commitment([task], transaction_uid, association, reports)


def _ask_for_commitment(
    tasks: Sequence[Task], transaction_uid: str, association: Association, reports: ReportReceiver
) -> None:
    """Ask for what the rows say is asked for, give the report a moment to come, and end the jobs by what it said."""
    references = [task.reference for task in tasks]
    reports.expect(reference.sop_instance_uid for reference in references)
    request_commitment(association, transaction_uid=transaction_uid, references=references)
    reports.came.wait(tasks[0].destination.same_association_seconds)
    end(*tasks)


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
