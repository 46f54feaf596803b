"""Storage commitment (PS3.4 annex J): as SCP for what peers sent us, and the reports of others about our documents."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence
from sqlalchemy import Row, select, update
from sqlalchemy.orm import Session

from dicom_node.deliver.commitment import read_report, record_commitment_report
from dicom_node.dicom import dimse_status
from dicom_node.dicom.dimse_status import CLASS_INSTANCE_CONFLICT, NO_SUCH_OBJECT_INSTANCE, SUCCESS
from dicom_node.dicom.uids import is_uid
from dicom_node.errors import DeliveryError, IndexUnavailableError, StorageError
from dicom_node.index.database import Database
from dicom_node.index.tables.core import CommitmentRequest, CommitmentState, Instance
from dicom_node.index.upsert import insert_or_update
from dicom_node.logs import get_logger
from dicom_node.receive.identifiers import UnreadableError, decode_data_set, encode_data_set
from dicom_node.receive.upper_layer.dimse import (
    ACTION_TYPE_ID,
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    COMMAND_FIELD,
    EVENT_TYPE_ID,
    MESSAGE_ID,
    MESSAGE_ID_RESPONDED_TO,
    REQUESTED_SOP_INSTANCE_UID,
    STATUS,
    CommandField,
    Message,
    response,
)
from dicom_node.receive.upper_layer.negotiation import COMMITMENT
from dicom_node.receive.upper_layer.services import Caller, Request
from dicom_node.storage.instance_store import InstanceStore, StoreUnavailableError

log = get_logger(__name__)

WELL_KNOWN_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""Storage Commitment Push Model SOP Instance."""
REQUEST_ACTION: Final = 1
ALL_COMMITTED: Final = 1
FAILURES_EXIST: Final = 2
"""Event types of PS3.4 table J.3-2."""

PROMPT_SECONDS: Final = 0.5
"""A peer that asks and releases at once wants the report on a new association; one that waits gets it here."""
IN_FLIGHT_SECONDS: Final = 20.0
"""An object that is missing when commitment is asked for may still be on its way on another association."""
_MAX_REFERENCES: Final = 20_000
_ROWS_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentService:
    """The parts that handling storage commitment needs."""

    database: Database
    store: InstanceStore
    clock: Callable[[], dt.datetime]
    is_destination: Callable[[str, Caller], bool]
    """Tells whether a caller is the destination of this name: only that peer's reports count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentVerdict:
    """The objects asked about by a peer, split into those the node answers for and the others."""

    committed: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str, int], ...]


def handle_action(service: CommitmentService, request: Request) -> Iterator[Message]:
    """Answer an N-ACTION-RQ: note the request durably, say so, report later."""
    command, context_id = request.command, request.context.context_id
    if request.context.abstract_syntax != COMMITMENT:
        yield response(command, context_id, dimse_status.SOP_CLASS_NOT_SUPPORTED)
        return
    if not request.caller.rule.commit:
        yield response(command, context_id, dimse_status.NOT_AUTHORISED)
        return
    if command.text(REQUESTED_SOP_INSTANCE_UID) != WELL_KNOWN_INSTANCE:
        yield response(command, context_id, NO_SUCH_OBJECT_INSTANCE)
        return
    if command.number(ACTION_TYPE_ID) != REQUEST_ACTION:
        yield response(command, context_id, dimse_status.NO_SUCH_ACTION)
        return
    try:
        transaction_uid, references = _read_request(decode_data_set(request))
    except UnreadableError as error:
        log.warning("commitment request refused", why=str(error), calling=request.caller.calling_ae_title)
        yield response(command, context_id, dimse_status.INVALID_ARGUMENT, str(error))
        return
    calling = request.caller.calling_ae_title[:16]
    try:
        with service.database.write() as session:
            # Committed before the answer: Success promises a report, whatever becomes of this process.
            row_id = _note(session, transaction_uid, calling, references, service.clock())
        is_complete = _is_complete(service, references)
    except IndexUnavailableError as error:
        log.error("commitment request not noted", why=str(error))
        yield response(command, context_id, dimse_status.PROCESSING_FAILURE, "The index does not answer")
        return
    wait = PROMPT_SECONDS if is_complete else IN_FLIGHT_SECONDS
    request.send_later(lambda: _report_here(service, request, row_id), wait)
    yield response(command, context_id, SUCCESS)


def _is_complete(service: CommitmentService, references: Sequence[Sequence[str]]) -> bool:
    """Return whether all that was asked about is held; outside of the transaction, since a store may take its time."""
    try:
        with service.database.read() as session:
            return not verdict(session, service.store, references).failed
    except StoreUnavailableError:
        return False


def handle_event_response(service: CommitmentService, request: Request) -> Iterator[Message]:
    """Take the peer's N-EVENT-REPORT-RSP to a report that we sent on this association."""
    row_id = request.outstanding.pop(request.command.number(MESSAGE_ID_RESPONDED_TO), None)
    if row_id is not None and request.command.number(STATUS) == SUCCESS:
        with service.database.write() as session:
            mark_reported(session, row_id, now=service.clock())
    yield from ()


def handle_event(service: CommitmentService, request: Request) -> Iterator[Message]:
    """Answer an N-EVENT-REPORT-RQ: what a destination says about documents that we delivered."""
    command, context_id = request.command, request.context.context_id
    if request.context.abstract_syntax != COMMITMENT:
        yield response(command, context_id, dimse_status.SOP_CLASS_NOT_SUPPORTED)
        return
    if command.number(EVENT_TYPE_ID) not in (ALL_COMMITTED, FAILURES_EXIST):
        yield response(command, context_id, dimse_status.NO_SUCH_EVENT_TYPE)
        return
    try:
        report = read_report(decode_data_set(request))
    except (UnreadableError, DeliveryError) as error:
        yield response(command, context_id, dimse_status.INVALID_ARGUMENT, str(error))
        return
    try:
        with service.database.write() as session:
            is_ours = record_commitment_report(
                session,
                transaction_uid=report.transaction_uid,
                committed=report.committed,
                failed=report.failed,
                now=service.clock(),
                is_from=lambda name: service.is_destination(name, request.caller),
            )
    except IndexUnavailableError as error:
        log.error("commitment report not recorded", why=str(error))
        yield response(command, context_id, dimse_status.PROCESSING_FAILURE, "The index does not answer")
        return
    # Answered with success all the same: the report was understood, and a failure would have it sent again for ever.
    if not is_ours:
        log.warning(
            "commitment report of a peer that was not asked",
            calling=request.caller.calling_ae_title,
            peer=request.caller.address,
        )
    yield response(command, context_id, SUCCESS)


def verdict(session: Session, store: InstanceStore, references: Sequence[Sequence[str]]) -> CommitmentVerdict:
    """Check each object: its row, its SOP class, and that its file is there.

    Raises StoreUnavailableError: an object store that does not answer is no proof that an object is lost.
    """
    committed: list[tuple[str, str]] = []
    failed: list[tuple[str, str, int]] = []
    held = select(Instance.sop_instance_uid, Instance.sop_class_uid, Instance.path)
    rows: dict[str, Row[tuple[str, str, str]]] = {}
    # Databases limit the parameters of one statement.
    for start in range(0, len(references), _ROWS_AT_ONCE):
        uids = [uid for _, uid in references[start : start + _ROWS_AT_ONCE]]
        stored = session.execute(held.where(Instance.sop_instance_uid.in_(uids)))
        rows |= {row.sop_instance_uid: row for row in stored}
    for sop_class_uid, sop_instance_uid in references:
        row = rows.get(sop_instance_uid)
        if row is None or not _has_file(store, row.path):
            failed.append((sop_class_uid, sop_instance_uid, NO_SUCH_OBJECT_INSTANCE))
        # Failure reasons of PS3.3 C.14.1.1: 0119H class instance conflict, 0112H no such object instance.
        elif row.sop_class_uid != sop_class_uid:
            failed.append((sop_class_uid, sop_instance_uid, CLASS_INSTANCE_CONFLICT))
        else:
            committed.append((sop_class_uid, sop_instance_uid))
    return CommitmentVerdict(committed=tuple(committed), failed=tuple(failed))


def event_information(transaction_uid: str, result: CommitmentVerdict) -> tuple[int, Dataset]:
    """Event type and data set of an N-EVENT-REPORT (PS3.4 table J.3-2)."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    if result.committed:
        information.ReferencedSOPSequence = [_reference(*reference) for reference in result.committed]
    if result.failed:
        information.FailedSOPSequence = [_reference(*reference[:2]) for reference in result.failed]
        for item, (_, _, reason) in zip(information.FailedSOPSequence, result.failed, strict=True):
            item.FailureReason = reason
    return (FAILURES_EXIST if result.failed else ALL_COMMITTED), information


def mark_reported(session: Session, row_id: int, *, now: dt.datetime) -> None:
    """The peer has our report."""
    session.execute(
        update(CommitmentRequest)
        .where(CommitmentRequest.id == row_id)
        .values(state=CommitmentState.REPORTED, reported_at=now, last_error="")
        .execution_options(synchronize_session=False)
    )


def _read_request(information: Dataset) -> tuple[str, list[list[str]]]:
    """Transaction UID and references of the Action Information. Raises UnreadableError."""
    transaction_uid = str(information.get("TransactionUID", "") or "")
    if not is_uid(transaction_uid):
        raise UnreadableError("Transaction UID missing or not a UID")
    items = information.get("ReferencedSOPSequence") or []
    if not isinstance(items, DicomSequence) or not 1 <= len(items) <= _MAX_REFERENCES:
        raise UnreadableError("Referenced SOP Sequence missing, empty, too long or no sequence")
    references = [
        [str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", ""))] for item in items
    ]
    if not all(is_uid(uid) for reference in references for uid in reference):
        raise UnreadableError("a reference without valid UIDs")
    return transaction_uid, references


def _note(session: Session, transaction_uid: str, calling: str, references: list[list[str]], now: dt.datetime) -> int:
    """Keep the request until it is reported; the same transaction asked again is answered again."""
    fresh: Mapping[str, object] = {
        "referenced_sops": references,
        "state": CommitmentState.PENDING,
        "attempts": 0,
        # The association that asked has the first chance to carry the report; the reporter's thread takes over after
        # that.
        "next_attempt_at": now + dt.timedelta(seconds=IN_FLIGHT_SECONDS),
        "created_at": now,
        "last_error": "",
    }
    values = {"transaction_uid": transaction_uid, "calling_ae_title": calling, **fresh}
    unique = ["calling_ae_title", "transaction_uid"]
    return int(insert_or_update(session, CommitmentRequest, values, unique=unique, update=fresh))


def _report_here(service: CommitmentService, request: Request, row_id: int) -> Message | None:
    """The N-EVENT-REPORT-RQ on the association that asked."""
    with service.database.read() as session:
        row = session.get(CommitmentRequest, row_id)
        if row is None or row.state is not CommitmentState.PENDING:
            return None
        try:
            committed = verdict(session, service.store, row.referenced_sops)
        except StoreUnavailableError:
            return None  # the reporter tries later
        event_type, information = event_information(row.transaction_uid, committed)
    # A Message ID is a US (PS3.7 section E.1). Two reports of one association would need 65,535 requests between them
    # to share one.
    message_id = row_id % 65_535 + 1
    request.outstanding[message_id] = row_id
    return Message(
        context_id=request.context.context_id,
        elements={
            COMMAND_FIELD: CommandField.N_EVENT_REPORT_RQ.value,
            AFFECTED_SOP_CLASS_UID: COMMITMENT,
            MESSAGE_ID: message_id,
            AFFECTED_SOP_INSTANCE_UID: WELL_KNOWN_INSTANCE,
            EVENT_TYPE_ID: event_type,
        },
        data_set=encode_data_set(information, request.context.transfer_syntax),
    )


def _has_file(store: InstanceStore, path: str) -> bool:
    try:
        return store.has(path)
    except StoreUnavailableError:
        raise
    except StorageError:
        return False


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item
