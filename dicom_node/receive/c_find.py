"""C-FIND over the node's own index (PS3.4 annex C), so that an administrator can ask what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydicom import Dataset

from dicom_node.audit.messages import AskedQuery
from dicom_node.dicom.dimse_status import CANCELLED, PENDING, SOP_CLASS_NOT_SUPPORTED, SUCCESS
from dicom_node.errors import IndexUnavailableError
from dicom_node.index.database import Database
from dicom_node.logs import get_logger
from dicom_node.receive.audit_trail import ReceiveAudit
from dicom_node.receive.c_find_query import BadKeyError, QueryLevel, TooManyMatchesError, find
from dicom_node.receive.identifiers import UnreadableError, decode_data_set, encode_data_set
from dicom_node.receive.upper_layer import statuses
from dicom_node.receive.upper_layer.dimse import Message, response
from dicom_node.receive.upper_layer.negotiation import PATIENT_ROOT, QUERIES
from dicom_node.receive.upper_layer.services import Request
from dicom_node.receive.upper_layer.sinks import MemorySink
from dicom_node.receive.upper_layer.statuses import Failure

log = get_logger(__name__)

_LOOK_FOR_CANCEL_EVERY = 50
MAX_IDENTIFIER_BYTES: Final = 64 << 10
"""An identifier with every key that this node matches has about a kilobyte."""
MAX_AUDITED_BYTES: Final = 4 << 10
"""So much of an identifier stands in the audit message: it is kept for years, and anybody may ask."""


def handle_find(database: Database, audit: ReceiveAudit, request: Request) -> Iterator[Message]:
    """Answer a C-FIND-RQ with one pending response per match; the query itself is audited first."""
    command, context_id = request.command, request.context.context_id
    if request.context.abstract_syntax not in QUERIES:
        yield response(command, context_id, SOP_CLASS_NOT_SUPPORTED)
        return
    if isinstance(request.data, MemorySink) and len(request.data.data) > MAX_IDENTIFIER_BYTES:
        log.warning("query refused: a long identifier", calling=request.caller.calling_ae_title)
        failure = statuses.FIND_TOO_LONG
        yield response(command, context_id, failure.status, failure.comment)
        return
    if not _audit_query(database, audit, request):
        failure = statuses.FIND_OUT_OF_RESOURCES
        yield response(command, context_id, failure.status, failure.comment)
        return
    matches = _matches(database, request)
    if isinstance(matches, Failure):
        yield response(command, context_id, matches.status, matches.comment)
        return
    for number, identifier in enumerate(matches):
        # C-CANCEL-FIND-RQ may come between two responses (PS3.7 section 9.3.2.3). A look at the wire waits up to a
        # millisecond, so it is not made before each of 5,000 answers.
        if number % _LOOK_FOR_CANCEL_EVERY == 0 and request.is_cancelled():
            yield response(command, context_id, CANCELLED)
            return
        pending = response(command, context_id, PENDING)
        data = encode_data_set(identifier, request.context.transfer_syntax)
        yield Message(context_id=context_id, elements=pending.elements, data_set=data)
    yield response(command, context_id, SUCCESS)


def _audit_query(database: Database, audit: ReceiveAudit, request: Request) -> bool:
    """Note who asked what. A question that cannot be noted is not answered."""
    query = AskedQuery(
        sop_class_uid=request.context.abstract_syntax,
        transfer_syntax_uid=request.context.transfer_syntax,
        # What is cut says so by its end, in the middle of an element: a whole megabyte would fill the disk.
        identifier=bytes(request.data.data[:MAX_AUDITED_BYTES]) if isinstance(request.data, MemorySink) else b"",
    )
    try:
        with database.write() as session:
            audit.record_query(session, request.caller, query)
    except IndexUnavailableError as error:
        log.error("query not audited and so not answered", why=str(error))
        return False
    return True


def _matches(database: Database, request: Request) -> list[Dataset] | Failure:
    """All matches, read in one short look: an answer that goes out slowly must not hold the index."""
    try:
        identifier = decode_data_set(request)
        level = QueryLevel(str(identifier.get("QueryRetrieveLevel", "")).strip())
    except (UnreadableError, ValueError):
        return statuses.FIND_UNABLE
    # The Study Root model begins at the study: it has no patient level (PS3.4 section C.6.2).
    if level is QueryLevel.PATIENT and request.context.abstract_syntax != PATIENT_ROOT:
        return statuses.FIND_MISMATCH
    try:
        with database.read() as session:
            return list(find(session, identifier, level))
    except BadKeyError as error:
        return Failure(status=statuses.FIND_UNABLE.status, comment=f"Cannot match the value of {error}")
    except TooManyMatchesError:
        return Failure(status=0xA701, comment="Out of resources: too many matches, narrow the query")
    except IndexUnavailableError as error:
        log.error("query failed", why=str(error))
        return statuses.FIND_OUT_OF_RESOURCES
