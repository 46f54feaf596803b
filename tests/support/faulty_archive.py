"""A query/retrieve peer with one fault: it drops, lies, floods, drips or never answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydicom import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.config import QueryPeer
from dicom_node.priors.suitability import RADIOGRAPHS

PENDING = 0xFF00


class Fault(StrEnum):
    NONE = "none"
    FIND_SILENT = "never answers C-FIND"
    FIND_FAILS = "answers C-FIND with a failure"
    FIND_ABORTS = "aborts in the middle of C-FIND"
    FIND_FLOODS = "lists studies without end"
    FIND_UNSTOPPED = "lists studies without end and hears no cancel"
    COUNTS_ZERO = "counts no instances anywhere, and lists each series twice"
    FIND_DRIPS = "lists one study every 0.3 s without end"
    FIND_DEAF = "ignores the keys and lists everybody's studies"
    FIND_GARBAGE = "lists studies without date, UID or ID"
    SERIES_FAILS = "answers no query at SERIES level"
    MOVE_LIES = "says success and sends nothing"
    MOVE_SHORT = "says success and sends one of two"
    MOVE_PARTIAL = "sends one of two and says so"
    MOVE_UNKNOWN = "does not know us as a destination"
    MOVE_ABORTS = "aborts in the middle of C-MOVE"
    MOVE_SILENT = "never answers C-MOVE"
    MOVE_OTHER = "sends somebody else's images"


@dataclass(slots=True, kw_only=True)
class FaultyPeer:
    """The peer's behaviour; `ended` lets what hangs go."""

    films: Sequence[Dataset]
    fault: Fault
    node_port: int
    port: int = 0
    cancelled: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    def peer(self, **changes: Any) -> QueryPeer:
        # pynetdicom as a server names itself as the originator of what it moves to us.
        values: dict[str, Any] = {"name": "faulty", "ae_title": "FAULTY", "port": self.port, "names_originator": False}
        return QueryPeer(**(values | changes))

    def on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        level = event.identifier.QueryRetrieveLevel
        if level == "SERIES" and self.fault is Fault.SERIES_FAILS:
            yield 0xA900, None
            return
        if level == "STUDY" and (handler := self._find_faults().get(self.fault)):
            yield from handler(event)
            return
        yield from ((PENDING, answer) for answer in self._answers(event.identifier, level))

    def _find_faults(self) -> dict[Fault, Any]:
        return {
            Fault.FIND_SILENT: self._hang,
            Fault.FIND_FAILS: lambda _event: iter([(0xA700, None)]),
            Fault.FIND_ABORTS: self._abort,
            Fault.FIND_FLOODS: lambda event: self._endless(event, pause=0.0),
            Fault.FIND_UNSTOPPED: lambda event: self._endless(event, pause=0.0, hears_cancel=False),
            Fault.FIND_DRIPS: lambda event: self._endless(event, pause=0.3),
            Fault.FIND_GARBAGE: lambda event: self._garbage(event),
        }

    def _answers(self, query: Dataset, level: str) -> Iterator[Dataset]:
        uids = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
        told: set[str] = set()
        for film in self.films:
            deaf = self.fault is Fault.FIND_DEAF
            if level == "STUDY" and not deaf and film.PatientID != (query.get("PatientID") or film.PatientID):
                continue
            if level != "STUDY" and film.StudyInstanceUID != query.StudyInstanceUID:
                continue
            if film[uids[level]].value in told:
                continue
            if self.fault is not Fault.COUNTS_ZERO or level != "SERIES":
                told.add(film[uids[level]].value)
            answer = Dataset()
            for element in query:
                if element.keyword not in ("QueryRetrieveLevel", "SpecificCharacterSet"):
                    setattr(answer, element.keyword, film.get(element.keyword, ""))
                if self.fault is Fault.COUNTS_ZERO and element.keyword.startswith("NumberOf"):
                    setattr(answer, element.keyword, "0")
            yield answer

    def _hang(self, _event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self.ended.wait(60)
        yield 0x0000, None

    def _abort(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        yield PENDING, next(self._answers(event.identifier, "STUDY"))
        event.assoc.abort(block=False)
        self.ended.wait(60)

    def _endless(
        self, event: evt.Event, *, pause: float, hears_cancel: bool = True
    ) -> Iterator[tuple[int, Dataset | None]]:
        answer = next(self._answers(event.identifier, "STUDY"))
        while not self.ended.wait(pause):
            if not event.assoc.is_established:
                return
            if hears_cancel and event.is_cancelled:
                self.cancelled = True
                yield 0xFE00, None
                return
            yield PENDING, answer

    def _garbage(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for missing in ("StudyDate", "StudyInstanceUID", "PatientID"):
            answer = next(self._answers(event.identifier, "STUDY"))
            setattr(answer, missing, "")
            yield PENDING, answer
        broken = next(self._answers(event.identifier, "STUDY"))
        broken.StudyDate = "20249999"
        yield PENDING, broken

    def on_move(self, event: evt.Event) -> Iterator[Any]:
        if self.fault is Fault.MOVE_UNKNOWN:
            yield None, None
            return
        yield "127.0.0.1", self.node_port
        yield from self._sub_operations(event)

    def on_get(self, event: evt.Event) -> Iterator[Any]:
        yield from self._sub_operations(event)

    def _sub_operations(self, event: evt.Event) -> Iterator[Any]:
        films = [f for f in self.films if f.StudyInstanceUID == event.identifier.StudyInstanceUID]
        if "SeriesInstanceUID" in event.identifier:
            films = [f for f in films if f.SeriesInstanceUID == event.identifier.SeriesInstanceUID]
        if self.fault is Fault.MOVE_LIES:
            films = []
        elif self.fault is Fault.MOVE_SHORT:
            films = films[:1]
        elif self.fault is Fault.MOVE_OTHER:
            films = [f for f in self.films if f.StudyInstanceUID != event.identifier.StudyInstanceUID][:1]
        elif self.fault is Fault.MOVE_SILENT:
            yield 1
            self.ended.wait(60)
            return
        yield len(films)
        for number, film in enumerate(films):
            if self.fault is Fault.MOVE_ABORTS:
                event.assoc.abort(block=False)
                return
            if self.fault is Fault.MOVE_PARTIAL and number:
                film = Dataset()
                film.SOPClassUID, film.SOPInstanceUID = CTImageStorage, "1.2.3"
            yield PENDING, film


@contextmanager
def faulty_peer(films: Sequence[Dataset], fault: Fault, *, node_port: int) -> Iterator[FaultyPeer]:
    """A running peer with that fault."""
    peer = FaultyPeer(films=films, fault=fault, node_port=node_port)
    entity = AE(ae_title="FAULTY")
    for model in (
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelMove,
        StudyRootQueryRetrieveInformationModelGet,
    ):
        entity.add_supported_context(model)
    for sop_class in RADIOGRAPHS:
        entity.add_supported_context(sop_class, scu_role=True, scp_role=True)
        entity.add_requested_context(sop_class)
    handlers: list[Any] = [
        (evt.EVT_C_FIND, peer.on_find),
        (evt.EVT_C_MOVE, peer.on_move),
        (evt.EVT_C_GET, peer.on_get),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    peer.port = server.socket.getsockname()[1]
    try:
        yield peer
    finally:
        peer.ended.set()
        server.shutdown()
