"""Storage commitment for our own documents (PS3.4 annex J): ask for it, read the report, write it into the rows.

The report may come on the association that asked or on a new one that the peer opens to our receiver, before or after
the answer to N-ACTION. So the transaction UID is committed to the row before the request leaves.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.deliver import transitions
from dicom_node.deliver.peer import InstanceReference, NotSupportedError, accepts
from dicom_node.deliver.queue import job_key, sent_uid
from dicom_node.dicom.dimse_status import (
    INVALID_ARGUMENT,
    NO_SUCH_OBJECT_INSTANCE,
    PROCESSING_FAILURE,
    SUCCESS,
    status_meaning,
)
from dicom_node.dicom.uids import is_uid
from dicom_node.errors import DeliveryError, IndexUnavailableError
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Delivery, DeliveryState, Document, Job, JobState
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.upkeep import reschedule
from dicom_node.logs import get_logger

log = get_logger(__name__)

REQUEST_COMMITMENT = 1
"""Action Type ID, PS3.4 table J.3-1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentReport:
    """An N-EVENT-REPORT of the Storage Commitment Push Model, read.

    committed: (SOP class UID, SOP instance UID); failed: the same with the failure reason.
    """

    transaction_uid: str
    committed: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str, int], ...]


def request_commitment(
    association: Association, *, transaction_uid: str, references: Sequence[InstanceReference]
) -> None:
    """N-ACTION for these objects in one transaction. Raises NotSupportedError or DeliveryError."""
    if not accepts(association, StorageCommitmentPushModel):
        raise NotSupportedError("the peer does not accept the Storage Commitment Push Model")
    items = []
    for reference in references:
        item = Dataset()
        item.ReferencedSOPClassUID = reference.sop_class_uid
        item.ReferencedSOPInstanceUID = reference.sop_instance_uid
        items.append(item)
    action = Dataset()
    action.TransactionUID = transaction_uid
    action.ReferencedSOPSequence = DicomSequence(items)
    try:
        answer, _ = association.send_n_action(
            action, REQUEST_COMMITMENT, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
    except RuntimeError as error:
        raise DeliveryError("the association was lost before commitment was asked for") from error
    # pynetdicom gives an empty data set where no answer came.
    if "Status" not in answer:
        raise DeliveryError("no answer to the request for storage commitment")
    if answer.Status != 0x0000:
        raise DeliveryError(f"the request for storage commitment failed with status {answer.Status:04X}H")


def read_report(event_information: Dataset) -> CommitmentReport:
    """Read the Event Information of a report (PS3.4 table J.3-2). Raises DeliveryError where it is malformed."""
    transaction_uid = str(event_information.get("TransactionUID", "") or "")
    if not is_uid(transaction_uid):
        raise DeliveryError("a commitment report without Transaction UID, or with one that is no UID")
    committed = tuple(_reference(item) for item in _items(event_information, "ReferencedSOPSequence"))
    failed = tuple((*_reference(item), _reason(item)) for item in _items(event_information, "FailedSOPSequence"))
    return CommitmentReport(transaction_uid=transaction_uid, committed=committed, failed=failed)


def _items(information: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence that may be absent. A peer may write any value representation into the tag."""
    items = information.get(keyword) or DicomSequence()
    if not isinstance(items, DicomSequence):
        raise DeliveryError(f"a commitment report whose {keyword} is no sequence")
    return list(items)


def _reference(item: Dataset) -> tuple[str, str]:
    return str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", ""))


def _reason(item: Dataset) -> int:
    reason = item.get("FailureReason", 0) or 0
    if not isinstance(reason, int):
        raise DeliveryError("a commitment report whose Failure Reason is no number")
    return reason


def record_commitment_report(
    session: Session,
    *,
    transaction_uid: str,
    committed: Sequence[tuple[str, str]],
    failed: Sequence[tuple[str, str, int]],
    now: dt.datetime,
    is_from: Callable[[str], bool],
) -> bool:
    """Write a report into the rows, in the receiver's transaction; returns whether we had asked for it.

    is_from: whether the report comes from the destination of this name; a transaction UID is no secret, so one of
    anybody else's counts as not asked for.

    Committed objects are confirmed and their waiting jobs end, also of a delivery that was given up before the report
    came; failed ones are to be sent again, with back-off, and are given up after as many sends as the job may have
    attempts. The same report twice changes nothing.
    """
    rows = session.execute(
        select(Delivery, Document)
        .join(Document, Delivery.document_pk == Document.id)
        .where(Delivery.commitment_transaction_uid == transaction_uid)
        .order_by(Delivery.id)  # the order of `rows.end`, so that the two never wait for each other's locks
        # Reports of one transaction may come twice at once: on the association that asked, and on a new one.
        .with_for_update(of=Delivery)
    ).all()
    rows = [row for row in rows if is_from(row.Delivery.destination)]
    committed_uids = {instance for _, instance in committed}
    reasons = {instance: reason for _, instance, reason in failed}
    for delivery, document in rows:
        if delivery.state not in (DeliveryState.STORED, DeliveryState.DEAD):
            continue
        # A peer that lists the object as failed and as committed has not taken responsibility for it.
        sent = sent_uid(delivery, document)
        if sent in reasons and delivery.state is DeliveryState.STORED:
            _send_again(session, delivery, document, reasons[sent], now)
        elif sent in committed_uids and sent not in reasons:
            _confirm(session, delivery, document, now)
    return bool(rows)


def _confirm(session: Session, delivery: Delivery, document: Document, now: dt.datetime) -> None:
    transitions.confirm(delivery, "commitment", now)
    # A job that waits, or was given up before the report came, is ended here; one that runs sees the row when it ends.
    jobs.finish(session, job_key(document.sop_instance_uid, delivery.destination))
    log.info("delivery confirmed", delivery=delivery.id, destination=delivery.destination, proof="commitment")


def _send_again(session: Session, delivery: Delivery, document: Document, reason: int, now: dt.datetime) -> None:
    words = status_meaning(reason) or "reason not in the Standard"
    error = f"commitment failed: {reason:04X}H {words}"
    transitions.send_again(delivery, error, now)
    key = job_key(document.sop_instance_uid, delivery.destination)
    job = session.scalars(select(Job).where(Job.key == key, Job.state == JobState.READY)).one_or_none()
    if job is not None:
        # A peer that takes the object and loses it each time must not be sent to for ever.
        if delivery.attempts >= job.max_attempts:
            jobs.give_up(session, key, error)
            transitions.give_up(delivery, error, now)
        else:
            later = now + jobs.back_off(delivery.attempts)
            reschedule(session, Job.key == key, run_at=later, last_error=error)
    log.warning("commitment failed", delivery=delivery.id, destination=delivery.destination, reason=f"{reason:04X}H")


class ReportReceiver:
    """Takes reports of one association into the index and tells who waits that all was reported that was asked for."""

    def __init__(self, database: Database, clock: Callable[[], dt.datetime]) -> None:
        self._database = database
        self._clock = clock
        self._outstanding: set[str] = set()
        self.came = threading.Event()

    def expect(self, sop_instance_uids: Iterable[str]) -> None:
        """Name what is asked for next. A peer may report on each object by itself."""
        self._outstanding = set(sop_instance_uids)

    def __call__(self, event: evt.Event) -> int:
        """Answer an N-EVENT-REPORT with its status (PS3.7 section C.5)."""
        status = answer_report(event.event_information, self._database, self._clock())
        if status == SUCCESS:
            report = read_report(event.event_information)
            self._outstanding -= {instance for _, instance, *_ in (*report.committed, *report.failed)}
            if not self._outstanding:
                self.came.set()
        return status


def answer_report(event_information: Dataset, database: Database, now: dt.datetime) -> int:
    """Write a report that came on an association to its destination; returns the status to answer with.

    0000H only after the commit.
    """
    try:
        report = read_report(event_information)
        with database.write() as session:
            known = record_commitment_report(
                session,
                transaction_uid=report.transaction_uid,
                committed=report.committed,
                failed=report.failed,
                now=now,
                is_from=lambda _destination: True,
            )
    except DeliveryError as error:
        log.warning("commitment report not understood", error=str(error))
        return INVALID_ARGUMENT
    except IndexUnavailableError as error:
        log.error("commitment report not taken", error=str(error))
        return PROCESSING_FAILURE
    # A report on a transaction that was given up meanwhile, or that never was ours.
    return SUCCESS if known else NO_SUCH_OBJECT_INSTANCE
