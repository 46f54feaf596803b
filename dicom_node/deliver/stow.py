"""Delivery to a DICOMweb service: STOW-RS (PS3.18 section 10.5), proven by QIDO-RS (section 10.6) where asked for."""

from __future__ import annotations

from xml.etree.ElementTree import ParseError

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset

from dicom_node.config import DeliverySection, Destination
from dicom_node.deliver import peer
from dicom_node.errors import DeliveryError

DUPLICATE = 0x0111
"""Failure Reason of PS3.18 table I.2-2 for an instance that the service has already."""


def open_client(destination: Destination, settings: DeliverySection) -> DICOMwebClient:
    """A client with this destination's certificates and token. Raises DeliveryError for an unreadable token file."""
    session = requests.Session()
    session.trust_env = False  # a proxy variable of some shell must not carry patient data elsewhere …
    session.max_redirects = 0  # … and neither must the answer of a server
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
    client = DICOMwebClient(
        url=str(destination.url), session=session, timeout=(settings.connect_seconds, settings.response_seconds)
    )
    client.set_http_retry_params(retry=False)  # the job queue retries, with a longer breath and on the record
    return client


def store(client: DICOMwebClient, dataset: Dataset, reference: peer.InstanceReference) -> None:
    """STOW-RS one document. Returns where the service has it; raises DeliveryError."""
    try:
        answer = client.store_instances([dataset], reference.study_instance_uid)
    except requests.HTTPError as error:
        if error.response is not None and error.response.status_code == requests.codes.conflict:
            if _is_duplicate(error.response) or found(client, reference):
                return
            raise peer.RefusedError(f"STOW-RS refused the document (409){_reason(error.response)}") from error
        raise _as_delivery_error(error, "STOW-RS") from error
    except requests.TooManyRedirects as error:
        raise _elsewhere("STOW-RS") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise peer.DestinationUnreachableError(f"STOW-RS: {_short(error)}") from error
    except (requests.RequestException, ValueError, KeyError, ParseError) as error:
        raise DeliveryError(f"the answer to STOW-RS is not understood: {_short(error)}") from error
    stored = {str(item.get("ReferencedSOPInstanceUID", "")) for item in answer.get("ReferencedSOPSequence") or []}
    if reference.sop_instance_uid not in stored and not found(client, reference):
        raise peer.RefusedError("the answer to STOW-RS does not list the document as stored")


def found(client: DICOMwebClient, reference: peer.InstanceReference) -> bool:
    """Tell whether QIDO-RS lists exactly this object."""
    try:
        matches = client.search_for_instances(
            reference.study_instance_uid,
            reference.series_instance_uid,
            search_filters={"SOPInstanceUID": reference.sop_instance_uid},
        )
    except requests.HTTPError as error:
        if error.response is not None and error.response.status_code == requests.codes.not_found:
            return False
        raise _as_delivery_error(error, "QIDO-RS") from error
    except requests.TooManyRedirects as error:
        raise _elsewhere("QIDO-RS") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise peer.DestinationUnreachableError(f"QIDO-RS: {_short(error)}") from error
    except (requests.RequestException, ValueError) as error:
        raise DeliveryError(f"the answer to QIDO-RS is not understood: {_short(error)}") from error
    return any(reference.sop_instance_uid in match.get("00080018", {}).get("Value", []) for match in matches)


def check(destination: Destination, settings: DeliverySection) -> None:
    """Check that the service answers a query at all (for `dicom-node echo`). Raises DeliveryError."""
    try:
        open_client(destination, settings).search_for_studies(limit=1)
    except requests.HTTPError as error:
        raise _as_delivery_error(error, "QIDO-RS") from error
    except requests.TooManyRedirects as error:
        raise _elsewhere("QIDO-RS") from error
    except requests.RequestException as error:
        raise peer.DestinationUnreachableError(f"{destination.name}: {_short(error)}") from error
    except ValueError as error:
        raise DeliveryError(f"the answer to QIDO-RS is not understood: {_short(error)}") from error


def _is_duplicate(response: requests.Response) -> bool:
    return any(int(item.get("FailureReason", 0) or 0) == DUPLICATE for item in _failures(response))


def _reason(response: requests.Response) -> str:
    reasons = [f"{int(item.get('FailureReason', 0) or 0):04X}H" for item in _failures(response)]
    return f", failure reason {', '.join(reasons)}" if reasons else ""


def _failures(response: requests.Response) -> list[Dataset]:
    """The items of Failed SOP Sequence of a JSON answer; none where the answer is of another kind."""
    try:
        return list(Dataset.from_json(response.json()).get("FailedSOPSequence") or [])
    except (ValueError, KeyError, TypeError, AttributeError):
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
