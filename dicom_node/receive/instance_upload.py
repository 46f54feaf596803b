"""The data set of a C-STORE on its way from the wire into the store."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from dicom_node.dicom.header import HEADER_BYTES, LONG_HEADER_BYTES, InstanceHeader, read_header
from dicom_node.dicom.part10 import FileMeta, read_meta
from dicom_node.dicom.rejection_notes import KEY_OBJECTS, is_rejection_note
from dicom_node.dicom.uids import is_uid
from dicom_node.errors import StorageError
from dicom_node.logs import get_logger
from dicom_node.receive.upper_layer import statuses
from dicom_node.receive.upper_layer.dimse import AFFECTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID, Command
from dicom_node.receive.upper_layer.negotiation import AcceptedContext
from dicom_node.receive.upper_layer.pdu import ProtocolError
from dicom_node.receive.upper_layer.statuses import Failure
from dicom_node.storage.instance_store import FullError, IncomingFile, InstanceStore, StoredFile, StoreUnavailableError

log = get_logger(__name__)

_MIB: Final = 1 << 20
_LONG_HEADERS: Final = threading.Lock()
"""A header of megabytes is read again by one association at a time, or a hundred of them would fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """The resources that a C-STORE may use."""

    max_instance_bytes: int
    min_free_bytes: int


class InstanceUpload:
    """The data set of a C-STORE on its way into the store. A failure on the way lets the rest pass by unstored."""

    def __init__(
        self, *, store: InstanceStore, command: Command, context: AcceptedContext, limits: StoreLimits
    ) -> None:
        self.sop_class_uid = command.text(AFFECTED_SOP_CLASS_UID)
        self.sop_instance_uid = command.text(AFFECTED_SOP_INSTANCE_UID)
        self.transfer_syntax_uid = context.transfer_syntax
        self.failure: Failure | None = None
        self._limits = limits
        self._head = bytearray()
        self._received = 0
        self._file: IncomingFile | None = None
        if self.sop_class_uid != context.abstract_syntax:
            self.failure = statuses.CLASS_MISMATCH
        elif store.free_bytes() < limits.min_free_bytes:
            self.failure = statuses.OUT_OF_SPACE
        else:
            self._begin(store)

    def write(self, data: memoryview) -> None:
        """Take the next bytes. Raises ProtocolError above the cap: what follows may have no end."""
        self._received += len(data)
        if self._received > self._limits.max_instance_bytes:
            raise ProtocolError(f"a data set above {self._limits.max_instance_bytes // _MIB} MiB")
        # The beginning is kept in memory: only an object with a very long header is read a second time.
        if len(self._head) < HEADER_BYTES:
            self._head += data[: HEADER_BYTES - len(self._head)]
        if self._file is None:
            return
        try:
            self._file.write(data)
        except StorageError as error:
            self._fail(error)

    def commit(self) -> StoredFile | Failure:
        """Make the file durable. It is in the store then, and in no index."""
        if self._file is not None:
            try:
                return self._file.commit()
            except StorageError as error:
                self._fail(error)
        assert self.failure is not None
        return self.failure

    def discard(self) -> None:
        """Drop what is not committed."""
        if self._file is not None:
            self._file.discard()
            self._file = None
        self._head = bytearray()

    def header(self) -> InstanceHeader:
        """The elements at the start of the data set."""
        return read_header(self._head, self.transfer_syntax_uid)

    def whole_header(self, store: InstanceStore, stored: StoredFile) -> InstanceHeader:
        """The data set's header, read again from its file where it goes on behind the part kept in memory."""
        header = self.header()
        if not header.is_cut_short or self._received <= len(self._head):
            return header
        with _LONG_HEADERS, store.open(stored.path) as stream:
            read_meta(stream)
            return read_header(stream.read(LONG_HEADER_BYTES), self.transfer_syntax_uid, max_bytes=LONG_HEADER_BYTES)

    @property
    def size_bytes(self) -> int:
        """The bytes of the data set that have come."""
        return self._received

    @property
    def meta(self) -> FileMeta:
        """The elements of the file's header."""
        return FileMeta(
            sop_class_uid=self.sop_class_uid,
            # What is no UID comes this far only to be quarantined; its text has no place in a file meta either.
            sop_instance_uid=self.sop_instance_uid if is_uid(self.sop_instance_uid) else "",
            transfer_syntax_uid=self.transfer_syntax_uid,
        )

    def is_rejection_note(self) -> bool:
        """Tell whether the data set takes instances back."""
        # Asked of every instance; only a Key Object Selection's start is worth a copy.
        return self.sop_class_uid == KEY_OBJECTS and is_rejection_note(bytes(self._head), self.meta)

    def _begin(self, store: InstanceStore) -> None:
        try:
            self._file = store.begin(self.meta)
        except StorageError as error:
            self._fail(error)

    def _fail(self, error: StorageError) -> None:
        log.error("instance not stored", why=str(error))
        self.failure = failure_of(error)
        if self._file is not None:
            self._file.discard()
            self._file = None


def failure_of(error: StorageError) -> Failure:
    """The status for the peer. An object store that is away takes the instance later: A700H, like a full disk."""
    if isinstance(error, StoreUnavailableError):
        return statuses.STORE_AWAY
    return statuses.OUT_OF_SPACE if isinstance(error, FullError) else statuses.STORE_FAILED
