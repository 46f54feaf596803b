"""Asking and fetching by DICOMweb: QIDO-RS and WADO-RS (PS3.18 sections 10.6 and 10.4)."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import ParseError

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset

from dicom_node.config import QueryPeer
from dicom_node.dicom.part10 import read_meta
from dicom_node.errors import RetrieveError, StorageError
from dicom_node.priors.retrieval.archive import RemoteSeries, RemoteStudy, remote_series, remote_study
from dicom_node.priors.retrieval.dimse import MOST_RESPONSES, SUCCESS, Sink

AS_STORED: Any = (("application/dicom", "*"),)
"""Any transfer syntax: the server need not recode."""
_STUDY_FIELDS = (
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDescription",
    "ModalitiesInStudy",
    "NumberOfStudyRelatedInstances",
)
_SERIES_FIELDS = ("BodyPartExamined", "SeriesDescription", "NumberOfSeriesRelatedInstances")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebArchive:
    """A DICOMweb service. Implements `remote.Archive`."""

    peer: QueryPeer
    query_seconds: float
    retrieve_seconds: float
    stop: threading.Event
    sink: Sink

    def studies(self, patient_id: str, dates: str) -> list[RemoteStudy]:
        filters = {"PatientID": patient_id, "StudyDate": dates}
        with self._asked("QIDO-RS"):
            answers = self._client(self.query_seconds).search_for_studies(
                fields=list(_STUDY_FIELDS), search_filters=filters, limit=MOST_RESPONSES
            )
            found = [remote_study(Dataset.from_json(answer)) for answer in answers]
        if len(found) >= MOST_RESPONSES:
            raise self._error(f"lists {MOST_RESPONSES} or more matches and does not seem to know the keys")
        return [study for study in found if study.patient.key.patient_id == patient_id]

    def series(self, study_instance_uid: str) -> list[RemoteSeries]:
        with self._asked("QIDO-RS"):
            answers = self._client(self.query_seconds).search_for_series(
                study_instance_uid, fields=list(_SERIES_FIELDS), limit=MOST_RESPONSES
            )
            return [remote_series(Dataset.from_json(answer)) for answer in answers]

    def count(self, study_instance_uid: str) -> int | None:
        with self._asked("QIDO-RS"):
            answers = self._client(self.query_seconds).search_for_studies(
                fields=["NumberOfStudyRelatedInstances"], search_filters={"StudyInstanceUID": study_instance_uid}
            )
            counts = [remote_study(Dataset.from_json(answer)) for answer in answers]
        return next((s.instances for s in counts if s.study_instance_uid == study_instance_uid), None)

    def retrieve(self, study_instance_uid: str, series_instance_uid: str) -> None:
        client = self._client(self.retrieve_seconds)
        fetch: Callable[..., Iterator[Dataset]] = client.iter_series if series_instance_uid else client.iter_study
        arguments = (study_instance_uid, series_instance_uid) if series_instance_uid else (study_instance_uid,)
        with self._asked("WADO-RS"):
            for dataset in fetch(*arguments, media_types=AS_STORED):
                if self.stop.is_set():
                    raise self._error("was left because the node stops")
                if self._store(dataset) != SUCCESS:
                    raise self._error("sent an image that could not be stored")

    def _store(self, dataset: Dataset) -> int:
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
        buffer.seek(0)
        meta = read_meta(buffer)
        return self.sink(buffer.read(), meta)

    def _client(self, seconds: float) -> DICOMwebClient:
        session = requests.Session()
        session.trust_env = False  # a proxy variable of some shell must not carry patient data elsewhere
        if self.peer.tls is not None:
            session.verify = str(self.peer.tls.ca)
            if self.peer.tls.certificate is not None:
                certificate, key = str(self.peer.tls.certificate), self.peer.tls.key
                session.cert = (certificate, str(key)) if key else certificate
        if self.peer.token_file is not None:
            try:
                session.headers["Authorization"] = f"Bearer {self.peer.token_file.read_text('utf-8').strip()}"
            except OSError as error:
                raise self._error(f"has a token_file that cannot be read: {error.strerror}") from error
        client = DICOMwebClient(url=str(self.peer.url), session=session, timeout=(min(seconds, 10.0), seconds))
        client.set_http_retry_params(retry=False)
        return client

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Map whatever the client and the answer can raise."""
        try:
            yield
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else "unknown"
            raise self._error(f"answered {what} with HTTP status {status}") from error
        except requests.RequestException as error:
            raise self._error(f"cannot be reached by {what}: {type(error).__name__}") from error
        except (ValueError, KeyError, TypeError, AttributeError, ParseError, EOFError, StorageError) as error:
            raise self._error(f"gave an answer to {what} that is not understood: {type(error).__name__}") from error

    def _error(self, what: str) -> RetrieveError:
        return RetrieveError(f"the archive {self.peer.name!r} {what}")
