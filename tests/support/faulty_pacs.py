"""A PACS that misbehaves as told: real associations on loopback, real bytes, faults by name."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)
from pynetdicom.status import code_to_category

from tests.support.delivery_node import BASIC_TEXT_SR, COMPREHENSIVE_3D_SR

STORAGE = (COMPREHENSIVE_3D_SR, "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.22", BASIC_TEXT_SR)


class Fault(StrEnum):
    """A fault of the PACS."""

    REJECTS = "rejects"
    """Rejects every association."""
    REFUSES = "refuses"
    """Answers C-STORE with C000H."""
    NO_3D = "no 3D"
    """Negotiates Comprehensive 3D SR, and refuses each with 0122H."""
    FULL = "full"
    """Answers C-STORE with A700H."""
    LOSES = "loses"
    """Answers Success and keeps nothing."""
    SLOW = "slow"
    """Keeps the object, and answers only after the sender's patience has ended."""
    ABORTS = "aborts"
    """Aborts the association in the middle of C-STORE, keeping nothing."""
    SILENT = "silent"
    """Answers N-ACTION and never sends a report."""
    DENIES = "denies"
    """Answers N-ACTION with a failure."""


class Report(StrEnum):
    """Where the commitment report goes."""

    SAME = "same"
    NEW = "new"
    EARLY = "early"
    """On a new association, before the N-ACTION is answered."""


@dataclass(slots=True, kw_only=True)
class Pacs:
    """The PACS's state. `faults` may change while it runs; `kept` counts how often each object was stored."""

    faults: set[Fault] = field(default_factory=set)
    report: Report = Report.SAME
    report_to: tuple[str, int] = ("127.0.0.1", 0)
    kept: dict[str, int] = field(default_factory=dict)
    received: int = 0
    actions: int = 0
    port: int = 0
    statuses: list[int] = field(default_factory=list)
    """Statuses of the first C-STORE responses, in order; an object is kept unless its status is a failure."""
    comment: str = ""
    """The Error Comment of these answers."""
    denials: int = 0
    """So many N-ACTIONs more are answered with a failure."""
    patience: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def store(self, event: evt.Event) -> int | Dataset:
        self.received += 1
        if self.statuses:
            return self._told(event, self.statuses.pop(0))
        if Fault.REFUSES in self.faults:
            return 0xC000
        if Fault.FULL in self.faults:
            return 0xA700
        if Fault.NO_3D in self.faults and event.request.AffectedSOPClassUID == COMPREHENSIVE_3D_SR:
            return 0x0122
        if Fault.ABORTS in self.faults:
            event.assoc.abort()
            return 0x0110
        if Fault.LOSES in self.faults:
            return 0x0000
        uid = str(event.request.AffectedSOPInstanceUID)
        self.kept[uid] = self.kept.get(uid, 0) + 1
        if Fault.SLOW in self.faults:
            self.patience.wait(30)
        return 0x0000

    def _told(self, event: evt.Event, status: int) -> Dataset:
        if code_to_category(status) in ("Success", "Warning"):
            uid = str(event.request.AffectedSOPInstanceUID)
            self.kept[uid] = self.kept.get(uid, 0) + 1
        answer = Dataset()
        answer.Status = status
        if self.comment:
            answer.ErrorComment = self.comment
        return answer

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        uid = str(event.identifier.SOPInstanceUID)
        if uid in self.kept:
            match = Dataset()
            match.QueryRetrieveLevel, match.SOPInstanceUID = "IMAGE", uid
            yield 0xFF00, match

    def action(self, event: evt.Event) -> tuple[int, Dataset | None]:
        self.actions += 1
        self.denials -= self.denials > 0
        if Fault.DENIES in self.faults or self.denials:
            return 0x0110, None
        if Fault.SILENT in self.faults:
            return 0x0000, None
        report = self._report(event.action_information)
        target = self._tell_same if self.report is Report.SAME else self._tell_new
        thread = threading.Thread(target=target, args=(event.assoc, report))
        self.threads.append(thread)
        thread.start()
        if self.report is Report.EARLY:
            thread.join()
        return 0x0000, None

    def _report(self, asked: Dataset) -> Dataset:
        report, good, bad = Dataset(), [], []
        report.TransactionUID = asked.TransactionUID
        for item in asked.ReferencedSOPSequence:
            if item.ReferencedSOPInstanceUID in self.kept:
                good.append(item)
            else:
                item.FailureReason = 0x0112
                bad.append(item)
        if good:
            report.ReferencedSOPSequence = Sequence(good)
        if bad:
            report.FailedSOPSequence = Sequence(bad)
        return report

    def _tell_same(self, association: object, report: Dataset) -> None:
        self._send(association, report)

    def _tell_new(self, _association: object, report: Dataset) -> None:
        entity = AE(ae_title="FAULTY")
        entity.add_requested_context(StorageCommitmentPushModel)
        association = entity.associate(*self.report_to, ae_title="LUMEN")
        if association.is_established:
            self._send(association, report)
            association.release()

    def _send(self, association: object, report: Dataset) -> None:
        event_type = 2 if "FailedSOPSequence" in report else 1
        with contextlib.suppress(RuntimeError):  # the other side may be gone; that is one of the cases
            association.send_n_event_report(  # type: ignore[attr-defined]
                report, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )


@contextlib.contextmanager
def running(
    pacs: Pacs,
    *,
    storage: tuple[str, ...] = STORAGE,
    commitment: bool = True,
    query: bool = True,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Pacs]:
    """Run the PACS on a port of loopback; with `port`, on the one it had before."""
    entity = AE(ae_title="FAULTY")
    entity.require_called_aet = False
    for sop_class in storage:
        entity.add_supported_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    entity.add_supported_context(Verification)
    if commitment:
        entity.add_supported_context(StorageCommitmentPushModel)
    if query:
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)

    def send_messages_whole(event: evt.Event) -> None:
        """Keep the report of another thread from coming between the command and the data set of an answer.

        pynetdicom queues each fragment by itself; PS3.8 annex E lets no message begin within another.
        """
        dimse, lock = event.assoc.dimse, threading.Lock()
        send = dimse.send_msg

        def send_whole(*arguments: Any) -> None:
            with lock:
                send(*arguments)

        dimse.send_msg = send_whole

    def requested(event: evt.Event) -> None:
        if Fault.REJECTS in pacs.faults:
            event.assoc.acse.send_reject(0x01, 0x01, 0x01)
            event.assoc.kill()

    server = entity.start_server(
        ("127.0.0.1", port),
        block=False,
        ssl_context=tls,
        evt_handlers=[
            (evt.EVT_REQUESTED, requested),
            (evt.EVT_ACCEPTED, send_messages_whole),
            (evt.EVT_C_STORE, pacs.store),
            (evt.EVT_C_FIND, pacs.find),
            (evt.EVT_N_ACTION, pacs.action),
            (evt.EVT_C_ECHO, lambda _event: 0x0000),
        ],
    )
    pacs.port = server.socket.getsockname()[1]
    try:
        yield pacs
    finally:
        pacs.patience.set()
        for thread in pacs.threads:
            thread.join(10)
        server.shutdown()


@contextlib.contextmanager
def cutting_wire(target_port: int, *, after_bytes: int, times: int) -> Iterator[int]:
    """A wire to `target_port` that is cut after so many bytes, the first `times` times; yields its own port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    ended = threading.Event()
    left = [times]

    def carry(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1024):
                if limit is not None:
                    limit -= len(data)
                    if limit < 0:
                        break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        while not ended.is_set():
            try:
                near, _ = listener.accept()
            except TimeoutError:
                continue
            far = socket.create_connection(("127.0.0.1", target_port))
            limit = after_bytes if left[0] > 0 else None
            left[0] -= 1
            pair = [
                threading.Thread(target=carry, args=(near, far, limit)),
                threading.Thread(target=carry, args=(far, near, None)),
            ]
            for thread in pair:
                thread.start()
            threading.Thread(
                target=lambda p=pair, s=(near, far): ([t.join() for t in p], [x.close() for x in s])
            ).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        thread.join()
        listener.close()
