"""C-STORE: bytes from the wire straight into a file of ours, then fsync, then the index, then Success."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from sqlalchemy.orm import Session

from dicom_node.dicom.dimse_status import SUCCESS
from dicom_node.dicom.header import InstanceHeader
from dicom_node.dicom.uids import MAX_LENGTH, is_uid
from dicom_node.errors import IndexUnavailableError, StorageError
from dicom_node.index.tables.core import QuarantineReason
from dicom_node.logs import get_logger
from dicom_node.receive.audit_trail import ReceiveAudit
from dicom_node.receive.group_commit import IndexWriter
from dicom_node.receive.instance_upload import InstanceUpload, StoreLimits, failure_of
from dicom_node.receive.upper_layer import statuses
from dicom_node.receive.upper_layer.access_rules import PeerRule
from dicom_node.receive.upper_layer.dimse import MOVE_ORIGINATOR, Command, Message, response
from dicom_node.receive.upper_layer.negotiation import AcceptedContext
from dicom_node.receive.upper_layer.pdu import ProtocolError
from dicom_node.receive.upper_layer.services import Request
from dicom_node.receive.upper_layer.statuses import Failure
from dicom_node.storage.instance_store import InstanceStore, StoredFile
from dicom_node.studies.expected_retrieval import source_of_retrieval
from dicom_node.studies.received_instance import PRIOR, ReceivedInstance
from dicom_node.studies.register import Registered, Registration, is_own_document, register_instance
from dicom_node.studies.reopen import quarantine_instance, replace_lost

log = get_logger(__name__)

TAKEN: Final = (Registered.NEW, Registered.DUPLICATE, Registered.REPLACED)
"""Outcomes that are answered with Success, and so are transfers."""

SMALL_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreService:
    """The parts that handling C-STORE needs."""

    store: InstanceStore
    index: IndexWriter
    audit: ReceiveAudit
    limits: StoreLimits
    own_ae_title: str
    clock: Callable[[], dt.datetime]
    is_peer_at: Callable[[str, str], bool]
    """Tells whether the query peer of an AE title has this address."""
    expects_unnamed: bool = False
    """Tells whether a query peer leaves this node unnamed as Move Originator of what it retrieves (names_originator =
    false)."""

    def upload(self, command: Command, context: AcceptedContext) -> InstanceUpload:
        """The sink of a C-STORE-RQ's data set."""
        return InstanceUpload(store=self.store, command=command, context=context, limits=self.limits)


def handle_store(service: StoreService, request: Request) -> Iterator[Message]:
    """Answer a C-STORE-RQ whose data set has come in (PS3.4 annex B)."""
    upload = request.data
    if not isinstance(upload, InstanceUpload):
        raise ProtocolError("a C-STORE-RQ without a data set")
    # A small file is on the disk within the time of a commit or two.
    is_small = upload.size_bytes <= SMALL_BYTES
    with service.index.expecting() if is_small else nullcontext():
        failure = _store_and_index(service, request, upload)
    if failure is None:
        yield response(request.command, request.context.context_id, SUCCESS)
        return
    service.audit.record_instance_refusal(failure.status)
    log.warning(
        "instance refused", status=f"{failure.status:04X}", why=failure.comment, calling=request.caller.calling_ae_title
    )
    yield response(request.command, request.context.context_id, failure.status, failure.comment)


def _store_and_index(service: StoreService, request: Request, upload: InstanceUpload) -> Failure | None:
    """None only once file and row are durable; otherwise nothing of it stays, quarantined objects excepted."""
    # The file first, the row second. A file without a row is found by recovery; a row without a file would be an image
    # that was acknowledged and lost.
    stored = upload.commit()
    if isinstance(stored, Failure):
        return stored
    try:
        header = upload.whole_header(service.store, stored)
    except (StorageError, OSError) as error:
        _drop(service, stored.path)
        log.error("instance cannot be read again", why=str(error))
        return statuses.STORE_FAILED
    defect = _defect(upload, header, request.caller.rule)
    try:
        if defect is not None:
            return _quarantine(service, request, upload, stored, *defect)
        return _register(service, request, upload, stored, header)
    except IndexUnavailableError as error:
        # The peer will send it again; a file without a row would be re-indexed at the next start without its asking.
        _drop(service, stored.path)
        log.error("instance not indexed", why=str(error))
        return statuses.INDEX_FAILED
    except StorageError as error:
        # Whether a row was committed or not, an instance that is sent again comes out the same.
        log.error("instance not stored", why=str(error))
        return failure_of(error)


def _drop(service: StoreService, path: str) -> None:
    """Remove a file that is not needed. Where the store does not answer, recovery finds it later."""
    try:
        service.store.delete(path)
    except (StorageError, OSError) as error:
        log.error("a file that is not needed was left in the store", path=path, why=str(error))


def _defect(
    upload: InstanceUpload, header: InstanceHeader, rule: PeerRule
) -> tuple[QuarantineReason, Failure, str] | None:
    """Why an object cannot be indexed, before the index is asked."""
    uids = (upload.sop_instance_uid, header.study_instance_uid, header.series_instance_uid)
    # In the order of how much is known: what cannot be read at all has no UIDs to judge.
    if header.elements == 0:
        return QuarantineReason.UNREADABLE, statuses.UNREADABLE, "no element could be read"
    if not all(is_uid(uid) for uid in uids):
        longest = max(len(uid) for uid in uids)
        detail = f"longer than {MAX_LENGTH} characters" if longest > MAX_LENGTH else "not dotted numbers, or missing"
        return QuarantineReason.BAD_UID, statuses.BAD_UID, f"SOP instance, study or series UID: {detail}"
    # The request's UIDs are a promise about the data set (PS3.4 B.2.3); which of the two is right cannot be told.
    if header.sop_instance_uid != upload.sop_instance_uid or header.sop_class_uid != upload.sop_class_uid:
        detail = "SOP class or instance UID of the data set is not that of the request"
        return QuarantineReason.MISMATCH, statuses.REQUEST_MISMATCH, detail
    if not rule.reject and upload.is_rejection_note():
        return QuarantineReason.NOT_ALLOWED, statuses.NOT_ALLOWED, "a rejection note of a peer that may send none"
    return None


def _register(
    service: StoreService, request: Request, upload: InstanceUpload, stored: StoredFile, header: InstanceHeader
) -> Failure | None:
    received = ReceivedInstance(
        stored=stored,
        header=header,
        sop_class_uid=upload.sop_class_uid,
        sop_instance_uid=upload.sop_instance_uid,
        transfer_syntax_uid=upload.transfer_syntax_uid,
        calling_ae_title=request.caller.calling_ae_title[:16],
        purpose=request.caller.rule.purpose,
        is_rejection_note=upload.is_rejection_note(),
        is_trusted=request.caller.rule.is_named,
        may_teach=request.caller.rule.report,
    )

    def register(session: Session) -> Registration | None:
        if is_own_document(session, upload.sop_instance_uid):
            return None
        now = service.clock()
        registered = register_instance(session, _as_asked_for(session, service, request, received, now), now=now)
        if registered.outcome in TAKEN and header.study_instance_uid not in request.transfers:
            service.audit.began(session, request.caller, header)
        return registered

    registration = service.index.run(register)
    if registration is None:
        _drop(service, stored.path)
        log.warning("loop guard: our own document came back", calling=request.caller.calling_ae_title)
        # We do hold it: a failure would only make the sender try for ever.
        return None
    if registration.outcome in TAKEN:
        is_new = registration.outcome is Registered.NEW
        request.transfers.add(header, upload.sop_class_uid, is_new=is_new)
    return _settle(service, request, upload, stored, registration)


def _settle(
    service: StoreService, request: Request, upload: InstanceUpload, stored: StoredFile, registration: Registration
) -> Failure | None:
    """Act on what the index said."""
    if registration.outcome is Registered.NEW:
        return None
    if registration.outcome is Registered.REPLACED:
        # Only now that the row names the new file: until the commit it named this one.
        _drop(service, registration.replaced)
        return None
    if registration.outcome is Registered.DUPLICATE:
        if registration.path != stored.path and not replace_lost(
            service.store,
            service.index.run,
            lost=registration.path,
            stored=stored,
            sop_instance_uid=upload.sop_instance_uid,
            transfer_syntax_uid=upload.transfer_syntax_uid,
        ):
            _drop(service, stored.path)
        return None
    if registration.outcome is Registered.CONFLICT:
        reason, failure = QuarantineReason.CONFLICT, statuses.CONFLICT
        detail, disputes = registration.detail, registration.disputes
        if disputes and not request.caller.rule.reject:
            # Anybody may send an object with a known UID: a stranger's word puts nothing in doubt.
            reason, disputes = QuarantineReason.CLAIM, ""
        return _quarantine(service, request, upload, stored, reason, failure, detail, disputes=disputes)
    return _quarantine(
        service, request, upload, stored, QuarantineReason.MISMATCH, statuses.STUDY_MISMATCH, registration.detail
    )


def _quarantine(
    service: StoreService,
    request: Request,
    upload: InstanceUpload,
    stored: StoredFile,
    reason: QuarantineReason,
    failure: Failure,
    detail: str,
    *,
    disputes: str = "",
) -> Failure:
    """Put an object apart for a person to look at, and raise the alarm."""
    # Moved before the row is written, as everywhere: a row must never name a file that is not there.
    moved = StoredFile(path=service.store.quarantine(stored.path), sha256=stored.sha256, size_bytes=stored.size_bytes)
    try:
        is_first = service.index.run(
            partial(
                quarantine_instance,
                reason=reason,
                detail=detail,
                stored=moved,
                sop_class_uid=upload.sop_class_uid,
                sop_instance_uid=upload.sop_instance_uid,
                calling_ae_title=request.caller.calling_ae_title[:16],
                address=request.caller.address,
                now=service.clock(),
                disputes=disputes,
            )
        )
    except IndexUnavailableError:
        _drop(service, moved.path)
        raise
    # The same bytes were set apart before: a peer that tries for ever must not fill the disk.
    if not is_first:
        _drop(service, moved.path)
    log.error("instance quarantined", reason=reason, detail=detail, calling=request.caller.calling_ae_title)
    return failure


def _as_asked_for(
    session: Session, service: StoreService, request: Request, received: ReceivedInstance, now: dt.datetime
) -> ReceivedInstance:
    """Mark as a prior what answers a C-MOVE of this node: its study, from the peer that was asked, at its address."""
    # The archive that performs a C-MOVE says for whom, in (0000,1030) of each C-STORE-RQ (PS3.7 section 9.1.1.1).
    names_us = request.command.text(MOVE_ORIGINATOR) == service.own_ae_title
    if received.purpose == PRIOR or not (names_us or service.expects_unnamed):
        return received
    asked = source_of_retrieval(session, received.header.study_instance_uid, now=now)
    if asked is None:
        return received
    is_title = names_us or request.caller.calling_ae_title == asked
    # A title is a word that anybody may say. A prior is not analysed by itself, so a false one would lose a study: the
    # address has to agree.
    if is_title and service.is_peer_at(asked, request.caller.address):
        return replace(received, purpose=PRIOR)
    log.warning(
        "an object of a study that is being fetched came from elsewhere: it is analysed like a routed one",
        calling=request.caller.calling_ae_title,
        peer=request.caller.address,
        asked=asked,
    )
    return received
