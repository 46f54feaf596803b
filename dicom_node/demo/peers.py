"""The two peers that the demonstration needs: an archive that receives, and a modality that sends. Loopback only."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance, Verification

from dicom_node.dicom.dimse_status import NO_SUCH_OBJECT_INSTANCE
from dicom_node.errors import DeliveryError

COMMITMENT_SUCCESSFUL = 1
COMMITMENT_FAILURES = 2
"""Event types of the N-EVENT-REPORT (PS3.4 section J.3.3)."""


class DemoPacs:
    """A small archive on loopback: keeps what it gets in a folder and commits to it when asked."""

    def __init__(self, folder: Path, ae_title: str = "DEMOPACS") -> None:
        self.ae_title = ae_title
        self.port = 0
        self._folder = folder
        self._held: dict[str, Path] = {}
        self._changed = threading.Condition()
        self._ae = AE(ae_title)
        self._ae.supported_contexts = AllStoragePresentationContexts
        self._ae.add_supported_context(Verification)
        self._ae.add_supported_context(StorageCommitmentPushModel)
        self._node: tuple[str, int, str] | None = None

    def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        self._folder.mkdir(parents=True, exist_ok=True)
        handlers = [(evt.EVT_C_STORE, self._on_store), (evt.EVT_N_ACTION, self._on_commitment_request)]
        server = self._ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert server is not None
        self.port = int(server.socket.getsockname()[1])

    def stop(self) -> None:
        """Close the port and all associations."""
        self._ae.shutdown()

    def knows(self, host: str, port: int, ae_title: str) -> None:
        """Take the address at which the node listens, for commitment reports on an association of our own."""
        self._node = (host, port, ae_title)

    def held(self) -> dict[str, Path]:
        """The stored files by SOP Instance UID."""
        with self._changed:
            return dict(self._held)

    def _on_store(self, event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        with self._changed:
            path = self._folder / f"{len(self._held) + 1:04d}.dcm"
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            dataset.save_as(path, enforce_file_format=True)
            self._held.setdefault(uid, path)
            self._changed.notify_all()
        return 0x0000

    def _on_commitment_request(self, event: evt.Event) -> tuple[int, None]:
        request = event.action_information
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        held = self.held()
        good = [item for item in request.ReferencedSOPSequence if item.ReferencedSOPInstanceUID in held]
        bad = [item for item in request.ReferencedSOPSequence if item.ReferencedSOPInstanceUID not in held]
        report.ReferencedSOPSequence = good
        for item in bad:
            item.FailureReason = NO_SUCH_OBJECT_INSTANCE
        if bad:
            report.FailedSOPSequence = bad
        event_type = COMMITMENT_FAILURES if bad else COMMITMENT_SUCCESSFUL
        threading.Thread(target=self._report, args=(report, event_type), daemon=True).start()
        return 0x0000, None

    def _report(self, report: Dataset, event_type: int) -> None:
        """Report on a new association, as archives do (PS3.4 section J.3.3.1)."""
        if self._node is None:
            return
        host, port, ae_title = self._node
        ae = AE(self.ae_title)
        ae.add_requested_context(StorageCommitmentPushModel)
        # The opener of this association acts as SCP of the service, so it proposes that role (PS3.7 section D.3.3.4).
        role = [build_role(StorageCommitmentPushModel, scp_role=True, scu_role=False)]
        association = ae.associate(host, port, ae_title=ae_title, ext_neg=role)
        if association.is_established:
            association.send_n_event_report(
                report, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            association.release()


def send(files: Sequence[Path], host: str, port: int, ae_title: str, calling: str = "MODALITY") -> dict[Path, str]:
    """Send files by C-STORE in their own transfer syntaxes; returns what was not accepted, and why.

    Raises DeliveryError where there is no association at all.
    """
    ae = AE(calling)
    for sop_class, syntax in sorted(_contexts(files)):
        ae.add_requested_context(sop_class, syntax)
    association = ae.associate(host, port, ae_title=ae_title)
    if not association.is_established:
        raise DeliveryError(f"no association with {ae_title} at {host}:{port}")
    refused: dict[Path, str] = {}
    try:
        for path in files:
            try:
                code = association.send_c_store(path).get("Status")
            except ValueError as error:  # no presentation context was accepted for this class and syntax
                refused[path] = str(error)
                continue
            if code != 0x0000:
                refused[path] = f"status {code:04X}H" if code is not None else "no answer"
    finally:
        association.release()
    return refused


def _contexts(files: Iterable[Path]) -> set[tuple[UID, UID]]:
    metas = (pydicom.filereader.read_file_meta_info(path) for path in files)
    return {(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID) for meta in metas}
