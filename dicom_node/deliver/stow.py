"""Delivery to a DICOMweb service: STOW-RS (PS3.18 section 10.5), proven by QIDO-RS (section 10.6) where asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset

from dicom_node.config import DeliverySection, Destination
from dicom_node.deliver import peer
from dicom_node.dicom.bounded_answers import MAX_JSON_BYTES, AnswerLimits, AnswerTooLongError, bound_answers
from dicom_node.dicom.dimse_status import DUPLICATE_SOP_INSTANCE
from dicom_node.dicom.json import data_sets_of_json
from dicom_node.errors import DeliveryError

MAX_REASONS = 10
"""Failure reasons of an answer that are told; one document is sent at a time."""


def open_client(destination: Destination, settings: DeliverySection) -> DICOMwebClient:
    """A client with this destination's certificates and token. Raises DeliveryError for an unreadable token file."""
    session = requests.Session()
    session.trust_env = False  # a proxy variable of some shell must not carry patient data elsewhere …
    session.max_redirects = 0  # … and neither must the answer of a server
    seconds = settings.response_seconds
    bound_answers(session, AnswerLimits(most_bytes=MAX_JSON_BYTES, most_seconds=seconds), head_seconds=seconds)
    if destination.tls is not None:
        session.verify = str(destination.tls.ca)
        if destination.tls.certificate is not None:
            certificate, key = destination.tls.certificate, destination.tls.key
            session.cert = (str(certificate), str(key)) if key else str(certificate)
    if destination.token_file is not None:
        try:
            token = destination.token_file.read_text("utf-8").strip()
        except OSError as error:
            raise DeliveryError(f"token_file of {destination.name} cannot be read: {error.strerror}") from error
        session.headers["Authorization"] = f"Bearer {token}"
    client = DICOMwebClient(url=str(destination.url), session=session, timeout=(settings.connect_seconds, seconds))
    client.set_http_retry_params(retry=False)  # the job queue retries, with a longer breath and on the record
    return client


def store(client: DICOMwebClient, dataset: Dataset, reference: peer.InstanceReference) -> None:
    """STOW-RS one document. Returns where the service has it; raises DeliveryError."""
    with _map_errors("STOW-RS"):
        try:
            answer = client.store_instances([dataset], reference.study_instance_uid)
        except requests.HTTPError as error:
            if error.response is None or error.response.status_code != requests.codes.conflict:
                raise
            # 409 says that nothing was stored; of an object that is there already that is no failure.
            if _is_duplicate(error.response) or is_listed(client, reference):
                return
            raise peer.RefusedError(f"STOW-RS refused the document (409){_reason(error.response)}") from error
        stored = {str(item.get("ReferencedSOPInstanceUID", "")) for item in answer.get("ReferencedSOPSequence") or []}
    if reference.sop_instance_uid not in stored and not is_listed(client, reference):
        raise peer.RefusedError("the answer to STOW-RS does not list the document as stored")


def is_listed(client: DICOMwebClient, reference: peer.InstanceReference) -> bool:
    """Tell whether QIDO-RS lists exactly this object. Raises DeliveryError."""
    with _map_errors("QIDO-RS"):
        try:
            matches = client.search_for_instances(
                reference.study_instance_uid,
                reference.series_instance_uid,
                search_filters={"SOPInstanceUID": reference.sop_instance_uid},
            )
        except requests.HTTPError as error:
            # Some archives answer a search without a match by 404 and not by an empty list.
            if error.response is None or error.response.status_code != requests.codes.not_found:
                raise
            return False
        # Compared once more: an archive that ignores the key lists everything.
        return any(match.get("SOPInstanceUID") == reference.sop_instance_uid for match in data_sets_of_json(matches))


def check(destination: Destination, settings: DeliverySection) -> None:
    """Check that the service answers a query at all (for `dicom-node echo`). Raises DeliveryError."""
    with _map_errors("QIDO-RS"):
        open_client(destination, settings).search_for_studies(limit=1)


@contextmanager
def _map_errors(what: str) -> Iterator[None]:
    """Map whatever the client and the answer can raise to DeliveryError."""
    try:
        yield
    except requests.HTTPError as error:
        raise _as_delivery_error(error, what) from error
    except requests.TooManyRedirects as error:
        raise _elsewhere(what) from error
    except AnswerTooLongError as error:
        raise DeliveryError(f"the answer to {what} is too long: {error}") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise peer.DestinationUnreachableError(f"{what}: {_short(error)}") from error
    except DeliveryError:
        raise
    except Exception as error:  # the edge to a stranger's answer: whatever it raises, the queue tries again
        raise DeliveryError(f"the answer to {what} is not understood: {_short(error)}") from error


def _is_duplicate(response: requests.Response) -> bool:
    return DUPLICATE_SOP_INSTANCE in _failure_reasons(response)  # PS3.18 table I.2-2


def _reason(response: requests.Response) -> str:
    reasons = [f"{reason:04X}H" for reason in _failure_reasons(response)]
    return f", failure reason {', '.join(reasons)}" if reasons else ""


def _failure_reasons(response: requests.Response) -> list[int]:
    """Of the items of Failed SOP Sequence of a JSON answer; none where the answer is of another kind."""
    try:
        failed = [item for answer in data_sets_of_json([response.json()]) for item in answer.FailedSOPSequence]
        return [int(item.get("FailureReason") or 0) for item in failed][:MAX_REASONS]
    except Exception:  # noqa: BLE001 (foreign JSON: whatever it is, it is no reason)
        return []


def _as_delivery_error(error: requests.HTTPError, what: str) -> DeliveryError:
    """4xx is a refusal, but for time-out and too many requests; 5xx passes."""
    status = error.response.status_code if error.response is not None else 0
    patient = status >= 500 or status in (requests.codes.request_timeout, requests.codes.too_many_requests)
    return (DeliveryError if patient else peer.RefusedError)(f"{what} answered with HTTP status {status}")


def _elsewhere(what: str) -> DeliveryError:
    """Patient data goes to the configured address only. The target is not told: its query part may name a patient."""
    return peer.RefusedError(f"{what} was redirected elsewhere: set the destination's url to where it really is")


def _short(error: Exception) -> str:
    """The error without the address's query part, which may name a patient."""
    return type(error).__name__
