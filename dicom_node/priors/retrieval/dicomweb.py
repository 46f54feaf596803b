"""Asking and fetching by DICOMweb: QIDO-RS and WADO-RS (PS3.18 sections 10.6 and 10.4)."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import requests
from dicomweb_client.api import DICOMwebClient

from dicom_node.config import QueryPeer
from dicom_node.dicom.bounded_answers import (
    MAX_JSON_BYTES,
    MAX_PART_BYTES,
    MAX_RETRIEVE_SECONDS,
    AnswerLimits,
    AnswerTooLongError,
    bound_answers,
)
from dicom_node.dicom.dimse_status import SUCCESS
from dicom_node.dicom.header import read_header
from dicom_node.dicom.json import data_sets_of_json
from dicom_node.dicom.part10 import FileMeta, read_meta
from dicom_node.dicom.read import guess_transfer_syntax
from dicom_node.errors import ArchiveUnreachableError, NodeError, RetrieveError, StorageError, UnreadableObjectError
from dicom_node.priors.retrieval.archive import RemoteSeries, RemoteStudy, StudyListing, remote_series, remote_study
from dicom_node.priors.retrieval.dimse import MOST_RESPONSES, Sink
from dicom_node.priors.retrieval.identifiers import is_answer_about

AS_STORED: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'
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
    """A DICOMweb service. Implements `Archive`."""

    peer: QueryPeer
    query_seconds: float
    retrieve_seconds: float
    stop: threading.Event
    sink: Sink
    part_bytes: int = MAX_PART_BYTES

    def studies(self, patient_id: str, dates: str) -> list[RemoteStudy]:
        matches = self._search({"PatientID": patient_id, "StudyDate": dates})
        if len(matches) >= MOST_RESPONSES:
            raise self._error(f"lists {MOST_RESPONSES} or more matches and does not seem to know the keys")
        return [study for study in matches if study.patient.key.patient_id == patient_id]

    def list_studies(self, dates: str, times: str) -> StudyListing:
        filters = {"StudyDate": dates} | ({"StudyTime": times} if times else {})
        matches = self._search(filters)
        cut = f"lists {MOST_RESPONSES} or more matches" if len(matches) >= MOST_RESPONSES else ""
        return StudyListing(studies=tuple(matches), cut=cut)

    def study(self, study_instance_uid: str) -> RemoteStudy | None:
        matches = self._search({"StudyInstanceUID": study_instance_uid})
        return next((study for study in matches if study.study_instance_uid == study_instance_uid), None)

    def _search(self, filters: dict[str, str]) -> list[RemoteStudy]:
        with self._map_errors("QIDO-RS"):
            answers = self._client(self.query_seconds).search_for_studies(
                fields=list(_STUDY_FIELDS), search_filters=filters, limit=MOST_RESPONSES
            )
            return [remote_study(data_set) for data_set in data_sets_of_json(answers)]

    def series(self, study_instance_uid: str) -> list[RemoteSeries]:
        with self._map_errors("QIDO-RS"):
            answers = self._client(self.query_seconds).search_for_series(
                study_instance_uid, fields=list(_SERIES_FIELDS), limit=MOST_RESPONSES
            )
            listed = [
                data_set for data_set in data_sets_of_json(answers) if is_answer_about(data_set, study_instance_uid)
            ]
            return [remote_series(data_set) for data_set in listed]

    def count(self, study_instance_uid: str) -> int | None:
        with self._map_errors("QIDO-RS"):
            answers = self._client(self.query_seconds).search_for_studies(
                fields=["NumberOfStudyRelatedInstances"], search_filters={"StudyInstanceUID": study_instance_uid}
            )
            counts = [remote_study(data_set) for data_set in data_sets_of_json(answers)]
        return next((s.instances for s in counts if s.study_instance_uid == study_instance_uid), None)

    def retrieve(self, study_instance_uid: str, series_instance_uid: str) -> None:
        """Store every part that is a DICOM object, as the archive sent it; what is none costs itself only."""
        where = f"studies/{study_instance_uid}"
        if series_instance_uid:
            where += f"/series/{series_instance_uid}"
        damaged = refused = 0
        with self._map_errors("WADO-RS"):
            for part in self._parts(f"{str(self.peer.url).rstrip('/')}/{where}"):
                if self.stop.is_set():
                    raise self._error("was left because the node stops")
                try:
                    data_set, meta = _object_in(part)
                except (StorageError, UnreadableObjectError):
                    # One broken part costs itself; the rest is stored, and the error at the end has it tried again.
                    damaged += 1
                    continue
                refused += self.sink(data_set, meta) != SUCCESS
        if damaged:
            raise self._error(f"sent {damaged} parts that are no DICOM objects")
        if refused:
            raise self._error(f"sent {refused} images that could not be stored")

    def _parts(self, url: str) -> Iterator[bytes]:
        """The parts of a multipart answer, or the one object of an answer that is none (PS3.18 section 8.6.1.2)."""
        limits = AnswerLimits(most_bytes=self.part_bytes, most_seconds=MAX_RETRIEVE_SECONDS)
        client: Any = self._client(self.retrieve_seconds, limits)
        # The client's public calls parse each part with pydicom; here the bytes are wanted as they were sent.
        response = client._http_get(url, headers={"Accept": AS_STORED}, stream=True)
        if response.headers.get("Content-Type", "").startswith("application/dicom"):
            yield response.content
            return
        for part in client._decode_multipart_message(response, stream=True):
            # The cap is on one part: a study may hold any number of films.
            limits.bytes_read = 0
            yield part

    def _client(self, seconds: float, limits: AnswerLimits | None = None) -> DICOMwebClient:
        session = requests.Session()
        limits = limits or AnswerLimits(most_bytes=MAX_JSON_BYTES, most_seconds=seconds)
        bound_answers(session, limits, head_seconds=seconds)
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
    def _map_errors(self, what: str) -> Iterator[None]:
        """Map whatever the client and the answer can raise."""
        try:
            yield
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else "unknown"
            raise self._error(f"answered {what} with HTTP status {status}") from error
        except AnswerTooLongError as error:
            raise self._error(f"gave an answer to {what} that is too long: {error}") from error
        except requests.exceptions.InvalidJSONError as error:
            raise self._error(f"gave an answer to {what} that is no JSON") from error
        except requests.ConnectionError as error:
            raise ArchiveUnreachableError(
                f"the archive {self.peer.name!r} cannot be reached by {what}: {type(error).__name__}"
            ) from error
        except requests.RequestException as error:
            raise self._error(f"cannot be reached by {what}: {type(error).__name__}") from error
        except NodeError:
            raise
        except Exception as error:  # the edge to a stranger's answer: the other archives are asked all the same
            raise self._error(f"gave an answer to {what} that is not understood: {type(error).__name__}") from error

    def _error(self, what: str) -> RetrieveError:
        return RetrieveError(f"the archive {self.peer.name!r} {what}")


def _object_in(part: bytes) -> tuple[bytes, FileMeta]:
    """The data set's bytes as they were sent, and its meta completed from them.

    Raises StorageError, UnreadableObjectError.
    """
    stream = io.BytesIO(part)
    meta = read_meta(stream)
    syntax = meta.transfer_syntax_uid or guess_transfer_syntax(stream)
    data_set = stream.read()
    header = read_header(data_set, syntax)
    complete = FileMeta(
        sop_class_uid=meta.sop_class_uid or header.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid or header.sop_instance_uid,
        transfer_syntax_uid=syntax,
    )
    return data_set, complete
