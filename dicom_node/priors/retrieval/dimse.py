"""Asking and fetching by DIMSE: C-FIND, then C-MOVE to this node or C-GET (PS3.4 annex C, Study Root).

A peer's counts are not trusted: the caller counts the instances that arrived. Every wait has an end: the association's
own time-outs, a deadline over all responses of a query, and the node's stop event.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.config import QueryPeer, Retrieve
from dicom_node.deliver.peer import UNCOMPRESSED, new_entity, tls_context
from dicom_node.dicom.associate_pdu import accept_odd_associate_acs
from dicom_node.dicom.dimse_status import (
    CANCELLED,
    OUT_OF_RESOURCES,
    PENDING_STATUSES,
    SUB_OPERATIONS_WARNING,
    SUCCESS,
    status_words,
)
from dicom_node.dicom.part10 import FileMeta
from dicom_node.errors import ArchiveUnreachableError, DeliveryError, RetrieveError
from dicom_node.priors.retrieval.archive import RemoteSeries, RemoteStudy, StudyListing, remote_series, remote_study
from dicom_node.priors.retrieval.identifiers import (
    STUDY_KEYS,
    is_answer_about,
    literal_patient_id,
    query_identifier,
    readable_identifiers,
)
from dicom_node.priors.suitability import CAPTURES, RADIOGRAPHS

FIND = StudyRootQueryRetrieveInformationModelFind
MOVE = StudyRootQueryRetrieveInformationModelMove
GET = StudyRootQueryRetrieveInformationModelGet
MOST_RESPONSES = 1000
"""A peer that lists more ignores the patient ID: the query is cancelled."""
MOST_AFTER_CANCEL = 1000
"""So many more may be on their way when a peer hears the cancel; one that goes on is left, or it would fill the
memory."""
CONNECT_SECONDS = 10.0
COMPRESSED = tuple(
    f"1.2.840.10008.1.2.{end}" for end in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "5")
)
"""JPEG, JPEG-LS, JPEG 2000 and RLE (PS3.5 annex A): each in a context of its own, so that nobody need recompress."""
DEFLATED = "1.2.840.10008.1.2.1.99"
_MESSAGE_ID = 7

Sink = Callable[[bytes, FileMeta], int]
"""Takes a data set that came by C-GET; returns the C-STORE status."""


accept_odd_associate_acs()


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseArchive:
    """A peer that is asked by C-FIND and fetched from by C-MOVE or C-GET. Implements `Archive`."""

    peer: QueryPeer
    own_ae_title: str
    query_seconds: float
    retrieve_seconds: float
    stop: threading.Event
    sink: Sink

    def studies(self, patient_id: str, dates: str) -> list[RemoteStudy]:
        query = query_identifier("STUDY", STUDY_KEYS, PatientID=literal_patient_id(patient_id), StudyDate=dates)
        # A peer may ignore keys that it does not index: only what names the very ID is this patient's.
        matches = [remote_study(item) for item in self._find(query)]
        return [study for study in matches if study.patient.key.patient_id == patient_id]

    def list_studies(self, dates: str, times: str) -> StudyListing:
        query = query_identifier("STUDY", STUDY_KEYS, StudyDate=dates, StudyTime=times)
        matches, cut = self._matches(query)
        return StudyListing(studies=tuple(remote_study(item) for item in matches), cut=cut)

    def study(self, study_instance_uid: str) -> RemoteStudy | None:
        query = query_identifier("STUDY", STUDY_KEYS, StudyInstanceUID=study_instance_uid)
        listed = (remote_study(item) for item in self._find(query))
        return next((study for study in listed if study.study_instance_uid == study_instance_uid), None)

    def series(self, study_instance_uid: str) -> list[RemoteSeries]:
        keys = (
            "SeriesInstanceUID",
            "Modality",
            "BodyPartExamined",
            "SeriesDescription",
            "NumberOfSeriesRelatedInstances",
        )
        query = query_identifier("SERIES", keys, StudyInstanceUID=study_instance_uid)
        answers = [item for item in self._find(query) if is_answer_about(item, study_instance_uid)]
        counted = [remote_series(item) for item in answers if item.get("SeriesInstanceUID")]
        return [s if s.instances is not None else self._count_series_instances(study_instance_uid, s) for s in counted]

    def count(self, study_instance_uid: str) -> int | None:
        query = query_identifier("STUDY", StudyInstanceUID=study_instance_uid, NumberOfStudyRelatedInstances="")
        for item in self._find(query):
            if is_answer_about(item, study_instance_uid) and (counted := remote_study(item).instances) is not None:
                return counted
        # NumberOfStudyRelatedInstances is optional (PS3.4 C.6.2.1); the sum over the series stands in, where all of
        # them say theirs.
        series = self.series(study_instance_uid)
        counts = [s.instances for s in series]
        return sum(c for c in counts if c is not None) if series and None not in counts else None

    def retrieve(self, study_instance_uid: str, series_instance_uid: str) -> None:
        query = query_identifier("SERIES" if series_instance_uid else "STUDY", StudyInstanceUID=study_instance_uid)
        if series_instance_uid:
            query.SeriesInstanceUID = series_instance_uid
        if self.peer.retrieve is Retrieve.GET:
            contexts, roles, handlers = self._get_negotiation()
            with self._open_association(contexts, self.retrieve_seconds, roles, handlers) as association:
                self._watch_retrieval(association.send_c_get(query, GET, msg_id=_MESSAGE_ID), "C-GET")
            return
        with self._open_association([build_context(MOVE, UNCOMPRESSED)], self.retrieve_seconds) as association:
            self._watch_retrieval(association.send_c_move(query, self.own_ae_title, MOVE, msg_id=_MESSAGE_ID), "C-MOVE")

    def _count_series_instances(self, study_instance_uid: str, series: RemoteSeries) -> RemoteSeries:
        """The series with its instances counted at IMAGE level, for peers without NumberOfSeriesRelatedInstances."""
        query = query_identifier(
            "IMAGE",
            StudyInstanceUID=study_instance_uid,
            SeriesInstanceUID=series.series_instance_uid,
            SOPInstanceUID="",
        )
        uids = {
            str(item.get("SOPInstanceUID", ""))
            for item in self._find(query)
            if str(item.get("SeriesInstanceUID", series.series_instance_uid)) == series.series_instance_uid
        } - {""}
        return RemoteSeries(
            series_instance_uid=series.series_instance_uid,
            modality=series.modality,
            body_part=series.body_part,
            description=series.description,
            instances=len(uids) or None,
        )

    def _find(self, query: Dataset) -> list[Dataset]:
        """All matches. Raises RetrieveError, also where the peer lists without end or limits its answer."""
        matches, cut = self._matches(query)
        if cut:
            raise self._error(cut)
        return matches

    def _matches(self, query: Dataset) -> tuple[list[Dataset], str]:
        """The matches, and why they may not be all: a query of MOST_RESPONSES answers is cancelled, and a peer may
        answer that it is out of resources (PS3.4 section C.4.1.1.4), as Orthanc does at its LimitFindResults."""
        matches: list[Dataset] = []
        with self._open_association([build_context(FIND, UNCOMPRESSED)], self.query_seconds) as association:
            for answer, identifier in self._responses(association.send_c_find(query, FIND, msg_id=_MESSAGE_ID)):
                status = self._status(answer, "C-FIND")
                if status in PENDING_STATUSES:
                    if identifier is not None:
                        matches += readable_identifiers(identifier)
                    if len(matches) == MOST_RESPONSES:
                        association.send_c_cancel(_MESSAGE_ID, query_model=FIND)
                    elif len(matches) == MOST_RESPONSES + MOST_AFTER_CANCEL:
                        association.abort()
                        return matches, f"lists {MOST_RESPONSES} or more matches and hears no cancel"
                # A peer that ends at the very cap may have heard the cancel: its list is not taken for complete.
                elif status == SUCCESS and len(matches) < MOST_RESPONSES:
                    return matches, ""
                elif status in (SUCCESS, CANCELLED):
                    return matches, f"lists {MOST_RESPONSES} or more matches and does not seem to know the keys"
                elif status & 0xFF00 == OUT_OF_RESOURCES:
                    return matches, f"answered C-FIND with status {status_words(status)}"
                else:
                    raise self._error(f"answered C-FIND with status {status_words(status)}")
        raise self._error("ended the query without a final answer")

    def _watch_retrieval(self, responses: Iterable[tuple[Dataset, Dataset | None]], what: str) -> None:
        for answer, _ in self._responses(responses):
            status = self._status(answer, what)
            if status in PENDING_STATUSES:
                continue
            failed = int(answer.get("NumberOfFailedSuboperations", 0) or 0)
            # Some archives end with success although sub-operations failed; the counter is believed.
            if status == SUCCESS and not failed:
                return
            if status in (SUCCESS, SUB_OPERATIONS_WARNING):
                raise self._error(
                    f"could not send {failed or 'some'} of the images ({what} status {status_words(status)})"
                )
            raise self._error(f"answered {what} with status {status_words(status)}")
        raise self._error(f"ended the {what} without a final answer")

    def _responses(
        self, responses: Iterable[tuple[Dataset, Dataset | None]]
    ) -> Iterator[tuple[Dataset, Dataset | None]]:
        try:
            yield from responses
        except (RuntimeError, ValueError) as error:
            raise self._error(f"was lost or took no such request: {error}") from error

    @contextmanager
    def _open_association(
        self,
        contexts: list[PresentationContext],
        seconds: float,
        roles: list[Any] | None = None,
        handlers: list[Any] | None = None,
    ) -> Iterator[Association]:
        """An association that is aborted after `seconds` without a word, after 4 times that in all, and at stop."""
        entity = new_entity(self.own_ae_title, connect_seconds=min(seconds, CONNECT_SECONDS), response_seconds=seconds)
        try:
            tls = (tls_context(self.peer.tls), self.peer.host) if self.peer.tls else None
        except DeliveryError as error:
            raise self._error(f"cannot be asked: {error}") from error
        association = entity.associate(
            self.peer.host,
            self.peer.port,
            contexts=contexts,
            ae_title=self.peer.ae_title,
            ext_neg=roles,
            evt_handlers=handlers,
            tls_args=tls,
        )
        if not association.is_established:
            why = "cannot be reached or refused the association"
            raise ArchiveUnreachableError(f"the archive {self.peer.name!r} {why}")
        if contexts[0].abstract_syntax not in {c.abstract_syntax for c in association.accepted_contexts}:
            association.release()
            raise self._error("does not offer the query or retrieve service")
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(association, done, 4 * seconds), daemon=True)
        watcher.start()
        try:
            yield association
        except BaseException:  # also at a stop: raised again once the peer knows
            association.abort()
            raise
        else:
            association.release()
        finally:
            done.set()
            watcher.join()

    def _watch(self, association: Association, done: threading.Event, seconds: float) -> None:
        """End an association that a peer keeps alive by dripping answers, and every one when the node stops."""
        deadline = time.monotonic() + seconds
        while not done.wait(0.2):
            if self.stop.is_set() or time.monotonic() > deadline:
                association.abort(block=False)
                # pynetdicom's own word for "no more will come", for the thread that waits for an answer. Said again
                # until it is heard: the association's own thread reads from the same queue once it was aborted.
                association.dimse.msg_queue.put((None, None))

    def _get_negotiation(self) -> tuple[list[PresentationContext], list[Any], list[Any]]:
        """C-GET: the peer stores on our association, so we offer every class and syntax that we take, as its SCP."""
        contexts = [build_context(GET, UNCOMPRESSED)]
        classes = sorted(RADIOGRAPHS | CAPTURES)
        for sop_class in classes:
            contexts.append(build_context(sop_class, UNCOMPRESSED))
            contexts += [build_context(sop_class, [syntax]) for syntax in (DEFLATED, *COMPRESSED)]
        roles = [build_role(sop_class, scp_role=True) for sop_class in classes]

        def on_store(event: evt.Event) -> int:
            meta = FileMeta(
                sop_class_uid=str(event.request.AffectedSOPClassUID),
                sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
                transfer_syntax_uid=str(event.context.transfer_syntax),
            )
            return self.sink(event.encoded_dataset(include_meta=False), meta)

        return contexts, roles, [(evt.EVT_C_STORE, on_store)]

    def _status(self, answer: Dataset, what: str) -> int:
        """An empty answer is pynetdicom's word for none, a late one or a malformed one."""
        if "Status" not in answer:
            raise self._error(f"did not answer {what} in time, or broke off")
        return int(answer.Status)

    def _error(self, what: str) -> RetrieveError:
        return RetrieveError(f"the archive {self.peer.name!r} {what}")
