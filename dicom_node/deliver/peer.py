"""One association with a destination: open it, send an object, look whether it is there, echo. No database here."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from dicom_node.config import DeliverySection, Destination, TlsClient
from dicom_node.dicom.associate_pdu import accept_odd_associate_acs
from dicom_node.dicom.dimse_status import (
    DUPLICATE_SOP_INSTANCE,
    OUT_OF_RESOURCES,
    PENDING_STATUSES,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
)
from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.errors import DeliveryError

MAXIMUM_PDU_BYTES = 131_072
REACTOR_PAUSE_SECONDS = 0.005
"""The pause between two looks of pynetdicom's thread for the socket. Its own, a millisecond, takes 4 % of what a pair
costs the node while it waits for the proof; a report and its proof are some ten messages."""
UNCOMPRESSED = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]

WARNINGS = frozenset({0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)})
"""PS3.7 annex C, status class Warning: the peer has the object. PS3.4 table B.2-1 names B000H (elements coerced),
B006H (discarded) and B007H (not what the SOP class says); archives send others of the class as well."""
PASSING = frozenset({PROCESSING_FAILURE, RESOURCE_LIMITATION, *range(OUT_OF_RESOURCES, 0xA800)})
"""Processing failure, resource limitation (PS3.7 annex C) and out of resources (PS3.4 table B.2-1, A7xxH):
trouble of the peer's own, not with the document. It passes by itself or by an administrator there; be patient."""


class DestinationUnreachableError(DeliveryError):
    """Nobody answers there, or the association is refused: nothing is wrong with the document."""


class RefusedError(DeliveryError):
    """The peer took the request and said no to this document. A few tries, then a person must look."""


class NotSupportedError(RefusedError):
    """The peer accepted the association but not the service that was asked for."""


accept_odd_associate_acs()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReference:
    """The identifiers of an object at a peer."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


def tls_context(tls: TlsClient) -> ssl.SSLContext:
    """TLS towards a peer by the BCP 195 profile (PS3.15 section B.9). Raises DeliveryError for unreadable files."""
    try:
        context = ssl.create_default_context(cafile=str(tls.ca))
        if tls.certificate is not None:
            context.load_cert_chain(str(tls.certificate), str(tls.key) if tls.key else None)
    except (OSError, ssl.SSLError) as error:
        raise DeliveryError(f"the TLS files of the destination cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def new_entity(ae_title: str, *, connect_seconds: float, response_seconds: float) -> AE:
    """A requestor of this node, with its implementation identity (PS3.7 annex D.3.3.2) and its time-outs."""
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = entity.acse_timeout = connect_seconds
    entity.dimse_timeout = entity.network_timeout = response_seconds
    return entity


@contextmanager
def open_association(
    destination: Destination,
    settings: DeliverySection,
    *,
    calling_ae_title: str,
    sop_classes: Sequence[str],
    on_event_report: Callable[[evt.Event], int] | None = None,
) -> Iterator[Association]:
    """An association that offers these SOP classes; released at the end, aborted where the body fails.

    on_event_report: returns the status that answers an N-EVENT-REPORT. Raises DestinationUnreachableError.
    """
    entity = new_entity(
        calling_ae_title, connect_seconds=settings.connect_seconds, response_seconds=settings.response_seconds
    )
    for sop_class in dict.fromkeys(sop_classes):
        entity.add_requested_context(sop_class, UNCOMPRESSED)
    opened = threading.Event()
    handlers: list[Any] = [(evt.EVT_CONN_OPEN, lambda _event: opened.set())]
    if on_event_report is not None:
        answer = on_event_report
        handlers.append((evt.EVT_N_EVENT_REPORT, lambda event: (answer(event), None)))
    association = entity.associate(
        destination.host,
        destination.port,
        ae_title=destination.ae_title,
        max_pdu=MAXIMUM_PDU_BYTES,
        tls_args=(tls_context(destination.tls), destination.host) if destination.tls else None,
        evt_handlers=handlers,
    )
    if not association.is_established:
        raise DestinationUnreachableError(_why_not(association, destination, opened=opened.is_set()))
    # pynetdicom has no public setting for it. Set after the negotiation, which is a wait for the peer in any case.
    association.dul._run_loop_delay = REACTOR_PAUSE_SECONDS
    try:
        yield association
    except BaseException:  # also at a stop: raised again once the peer knows
        association.abort()
        raise
    association.release()


def _why_not(association: Association, destination: Destination, *, opened: bool) -> str:
    where = f"{destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = getattr(answer, "reason_str", "no reason given") if answer is not None else "no reason given"
        return f"{where} rejected the association: {reason}"
    # Accepted, and no presentation context with it: another configuration at the peer can mend that, so it is not
    # permanent.
    if association.acceptor.primitive is not None and not association.accepted_contexts:
        raise NotSupportedError(f"{where} accepted none of the SOP classes that were offered", permanent=False)
    if opened:
        return f"{where} did not answer the request for an association, or aborted it"
    return f"{where} cannot be reached"


def accepts(association: Association, sop_class_uid: str) -> bool:
    """Tell whether the peer accepted this SOP class on this association."""
    return any(context.abstract_syntax == sop_class_uid for context in association.accepted_contexts)


def store(association: Association, dataset: Dataset) -> int:
    """C-STORE one object; returns its status where the peer has the object. Raises DeliveryError with the status."""
    if not accepts(association, dataset.SOPClassUID):
        raise NotSupportedError(f"SOP class {dataset.SOPClassUID} is not accepted")
    try:
        answer = association.send_c_store(dataset)
    except (ValueError, AttributeError) as error:
        raise DeliveryError(f"the document cannot be encoded for this peer: {error}", permanent=True) from error
    except RuntimeError as error:
        raise DeliveryError("the association was lost before the document was sent") from error
    status = _status(answer, "C-STORE")
    # PS3.7 section C.5, status 0111H: of a duplicate the peer has the object already, and the proof follows.
    if status in {SUCCESS, DUPLICATE_SOP_INSTANCE} | WARNINGS:
        return status
    if status == SOP_CLASS_NOT_SUPPORTED:
        raise NotSupportedError(f"SOP class {dataset.SOPClassUID} is refused (0122H)")
    text = f"C-STORE answered with status {status:04X}H"
    # The comment may name the patient ("Patient ID … differs"): never into a log line or a notice.
    comment = str(answer.get("ErrorComment", ""))[:64]
    raise (DeliveryError if status in PASSING else RefusedError)(text, comment=comment)


def find(association: Association, reference: InstanceReference) -> bool:
    """Tell whether the peer lists exactly this object (C-FIND, Study Root, IMAGE level, PS3.4 section C.6.2).

    Raises NotSupportedError where the peer answers no queries, DeliveryError where the query fails.
    """
    if not accepts(association, StudyRootQueryRetrieveInformationModelFind):
        raise NotSupportedError("the peer answers no C-FIND of the Study Root model")
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = reference.study_instance_uid
    query.SeriesInstanceUID = reference.series_instance_uid
    query.SOPInstanceUID = reference.sop_instance_uid
    is_listed = False
    try:
        for status_set, identifier in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
            status = _status(status_set, "C-FIND")
            if status in PENDING_STATUSES and identifier is not None:
                # Some archives ignore keys that they do not index: only an equal UID is a proof.
                is_listed = is_listed or identifier.get("SOPInstanceUID") == reference.sop_instance_uid
            elif status not in PENDING_STATUSES and status != SUCCESS:
                raise DeliveryError(f"C-FIND failed with status {status:04X}H")
    except RuntimeError as error:
        raise DeliveryError("the association was lost before the query was answered") from error
    return is_listed


def _status(answer: Dataset, what: str) -> int:
    """The status of a response; an empty data set is pynetdicom's word for no, late or malformed answer."""
    if "Status" not in answer:
        raise DeliveryError(f"no answer to {what}: timed out, aborted or malformed")
    return int(answer.Status)


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoResult:
    """The answer of a destination to C-ECHO: seconds for association and echo, and the services it accepts."""

    seconds: float
    services: tuple[str, ...]


PROBED = {
    "verification": Verification,
    "comprehensive 3D SR": "1.2.840.10008.5.1.4.1.1.88.34",
    "comprehensive SR": "1.2.840.10008.5.1.4.1.1.88.33",
    "enhanced SR": "1.2.840.10008.5.1.4.1.1.88.22",
    "basic text SR": "1.2.840.10008.5.1.4.1.1.88.11",
    "storage commitment": StorageCommitmentPushModel,
    "study root C-FIND": StudyRootQueryRetrieveInformationModelFind,
}
"""The services `echo` proposes beside C-ECHO itself, so that an administrator sees at once what will not work."""


def echo(destination: Destination, settings: DeliverySection, *, calling_ae_title: str) -> EchoResult:
    """C-ECHO. Raises DeliveryError saying what failed."""
    started = time.monotonic()
    with open_association(
        destination, settings, calling_ae_title=calling_ae_title, sop_classes=list(PROBED.values())
    ) as association:
        if not accepts(association, Verification):
            raise NotSupportedError(f"{destination.name} does not accept C-ECHO")
        try:
            status = _status(association.send_c_echo(), "C-ECHO")
        except RuntimeError as error:
            raise DeliveryError("the association was lost before C-ECHO") from error
        if status != SUCCESS:
            raise DeliveryError(f"C-ECHO failed with status {status:04X}H")
        services = tuple(name for name, sop_class in PROBED.items() if accepts(association, sop_class))
    return EchoResult(seconds=time.monotonic() - started, services=services)
