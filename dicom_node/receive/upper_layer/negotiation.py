"""Negotiating an association as its acceptor (PS3.7 annex D, PS3.8 section 7.1): by rule, never by accident.

PDUs are decoded and encoded by pynetdicom; what is accepted is decided here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from dicom_node.dicom.associate_pdu import normalise_associate_pdu
from dicom_node.dicom.sop_classes import TRANSFER_SYNTAXES, UNCOMPRESSED
from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.receive.upper_layer.access_rules import (
    CONTEXT_NAME_NOT_SUPPORTED,
    PROTOCOL_NOT_SUPPORTED,
    PeerRule,
    Rejection,
)
from dicom_node.receive.upper_layer.pdu import ProtocolError

VERIFICATION: Final = str(Verification)
COMMITMENT: Final = str(StorageCommitmentPushModel)
PATIENT_ROOT: Final = str(PatientRootQueryRetrieveInformationModelFind)
QUERIES: Final = (PATIENT_ROOT, str(StudyRootQueryRetrieveInformationModelFind))
_APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
_MAX_CONTEXTS: Final = 128
"""Odd numbers from 1 to 255 (PS3.8 section 9.3.2.2)."""
_MIN_PEER_PDU_BYTES: Final = 64

_USER_REJECTION, _NO_ABSTRACT_SYNTAX, _NO_TRANSFER_SYNTAX = 1, 3, 4
"""PS3.8 table 9-18."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedContext:
    """One accepted presentation context."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Negotiated:
    """The agreed presentation contexts, and the A-ASSOCIATE-AC that says so."""

    called_ae_title: str
    calling_ae_title: str
    contexts: Mapping[int, AcceptedContext]
    refused: tuple[str, ...]
    """Abstract syntaxes that were not accepted."""
    peer_max_pdu_bytes: int
    """0: no limit."""
    reply: bytes


def ae_titles(request: bytes | bytearray) -> tuple[str, str]:
    """Called and calling AE title, at their fixed places in an A-ASSOCIATE-RQ PDU (PS3.8 table 9-11)."""
    # NULs and control characters are padding to DCMTK, and to many a sender.
    called, calling = (
        "".join(chr(byte) if 32 <= byte < 127 else " " for byte in request[start : start + 16]).strip()
        for start in (10, 26)
    )
    return called, calling


def negotiate(request: bytes, *, rule: PeerRule, max_pdu_bytes: int) -> Negotiated | Rejection:
    """Answer an A-ASSOCIATE-RQ PDU by the caller's rule. Raises ProtocolError where it cannot be understood."""
    pdu, asked = _decode(request)
    # Only bit 0 is tested, which means version 1 (PS3.8 table 9-11): a peer may offer later versions beside it.
    if not pdu.protocol_version & 1:
        return PROTOCOL_NOT_SUPPORTED
    if asked.application_context_name != _APPLICATION_CONTEXT:
        return CONTEXT_NAME_NOT_SUPPORTED
    called, calling = ae_titles(request)
    roles = _grant_roles(asked.user_information)
    results = [_result(context, rule, roles) for context in asked.presentation_context_definition_list[:_MAX_CONTEXTS]]
    accepted = {
        context.context_id: AcceptedContext(
            context_id=context.context_id,
            abstract_syntax=str(context.abstract_syntax),
            transfer_syntax=str(context.transfer_syntax[0]),
        )
        for context in results
        if context.result == 0
    }
    answered = {context.abstract_syntax for context in accepted.values()} & roles.keys()
    reply = _accept(asked, results, {uid: roles[uid] for uid in sorted(answered)}, max_pdu_bytes)
    return Negotiated(
        called_ae_title=called,
        calling_ae_title=calling,
        contexts=accepted,
        refused=tuple(str(context.abstract_syntax) for context in results if context.result != 0),
        peer_max_pdu_bytes=_peer_max_pdu(asked.user_information),
        # The AE titles of the answer are those of the request, byte by byte (PS3.8 table 9-17).
        reply=reply[:10] + request[10:42] + reply[42:],
    )


def _decode(request: bytes) -> tuple[A_ASSOCIATE_RQ, A_ASSOCIATE]:
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(normalise_associate_pdu(request))
        return pdu, pdu.to_primitive()
    # pynetdicom says with any of these that the bytes are not what they claim to be, AssertionError for a length.
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
        NotImplementedError,
        struct.error,
    ) as error:
        raise ProtocolError(f"an A-ASSOCIATE-RQ that cannot be understood: {type(error).__name__}") from error


def _result(
    context: PresentationContext, rule: PeerRule, roles: Mapping[str, tuple[bool, bool]]
) -> PresentationContext:
    """The answer to one proposed context. The caller's first supported transfer syntax wins: it is its native one."""
    answer = PresentationContext()
    answer.context_id = context.context_id
    answer.abstract_syntax = context.abstract_syntax
    allowed = _transfer_syntaxes(str(context.abstract_syntax), rule)
    chosen = next((uid for uid in context.transfer_syntax if uid in allowed), None)
    # A refused context names a transfer syntax too, which the peer does not look at (PS3.8 table 9-18).
    answer.transfer_syntax = [chosen or UID(UNCOMPRESSED[1])]
    if not allowed:
        answer.result = _NO_ABSTRACT_SYNTAX
    elif chosen is None:
        answer.result = _NO_TRANSFER_SYNTAX
    elif roles.get(str(context.abstract_syntax), (True, False)) == (False, False):
        answer.result = _USER_REJECTION
    else:
        answer.result = 0
    return answer


def _transfer_syntaxes(abstract_syntax: str, rule: PeerRule) -> Iterable[str]:
    """The transfer syntaxes accepted for an abstract syntax from this caller; empty: not at all."""
    if abstract_syntax == VERIFICATION:
        return UNCOMPRESSED
    if abstract_syntax == COMMITMENT:
        # Also for those who may not store: it is how a destination confirms our own documents.
        return UNCOMPRESSED
    if abstract_syntax in QUERIES:
        return UNCOMPRESSED if rule.query else ()
    return TRANSFER_SYNTAXES if rule.store and abstract_syntax in rule.sop_classes else ()


def _grant_roles(items: Iterable[object]) -> dict[str, tuple[bool, bool]]:
    """The granted ones of the proposed roles: SCU to anybody, SCP only for storage commitment (PS3.7 section
    D.3.3.4)."""
    return {
        str(item.sop_class_uid): (bool(item.scu_role), bool(item.scp_role) and item.sop_class_uid == COMMITMENT)
        for item in items
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
    }


def _peer_max_pdu(items: Iterable[object]) -> int:
    """The peer's cap on P-DATA. Raises ProtocolError for one that no message fits through."""
    for item in items:
        if isinstance(item, MaximumLengthNotification):
            maximum = int(item.maximum_length_received or 0)
            if 0 < maximum < _MIN_PEER_PDU_BYTES:
                raise ProtocolError(f"a maximum PDU length of {maximum} bytes")
            # 0 means "no limit" (PS3.8 D.1.1).
            return maximum
    return 0


def _accept(
    asked: A_ASSOCIATE,
    results: list[PresentationContext],
    roles: Mapping[str, tuple[bool, bool]],
    max_pdu_bytes: int,
) -> bytes:
    """The encoded A-ASSOCIATE-AC."""
    maximum = MaximumLengthNotification()
    maximum.maximum_length_received = max_pdu_bytes
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    items = [maximum, implementation, version]
    for sop_class_uid, (scu_role, scp_role) in roles.items():
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid = UID(sop_class_uid)
        role.scu_role, role.scp_role = scu_role, scp_role
        items.append(role)
    answer = A_ASSOCIATE()
    answer.application_context_name = UID(_APPLICATION_CONTEXT)
    answer.calling_ae_title = asked.calling_ae_title
    answer.called_ae_title = asked.called_ae_title
    answer.result = 0
    answer.result_source = 1
    answer.presentation_context_definition_results_list = results
    answer.user_information = items
    return bytes(A_ASSOCIATE_AC(answer).encode())
