"""The instance store: bytes that peers gave us, kept bit by bit under names of our own.

Two kinds share this protocol: a folder (`dicom_node.storage.folder_store`) and an S3 bucket
(`dicom_node.storage.object_store`). In both an object is whole or not there, and its name is a random number of ours;
nothing of the wire ever becomes part of a name:

    files/<xx>/<name>.dcm          stored; `xx` are the first two digits of the name
    quarantine/<xx>/<name>.dcm     kept for a person to look at, never in the index
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Protocol

from dicom_node.dicom.part10 import ByteSource, FileMeta, read_meta
from dicom_node.errors import StorageError

FILES: Final = "files"
QUARANTINE: Final = "quarantine"
CHUNK_BYTES: Final = 1 << 20
_OWN_NAME = re.compile(rf"(?:{FILES}|{QUARANTINE})/[0-9a-f]{{2}}/[0-9a-f]{{32}}\.dcm")

FULL_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The errors of the system when nothing more fits."""


NamesKnown = Callable[[list[str]], Collection[str]]
"""Those of some names of stored files that the index knows."""


class FullError(StorageError):
    """No space: the disk or the quota is full. The peer is told A700H."""


class StoreUnavailableError(StorageError):
    """The object store does not answer or refuses. The peer is told A700H and sends again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file that is durably stored."""

    path: str
    """Its name in the store."""
    sha256: str
    """Of the data set's bytes as received, without the Part 10 header."""
    size_bytes: int
    """Length of the data set's bytes."""


class IncomingFile(Protocol):
    """A file on its way in. Ends by `commit` or `discard`; leaving a `with` block discards what was not committed."""

    size_bytes: int

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes of the data set. Raises StorageError; FullError where no space is left."""

    def commit(self) -> StoredFile:
        """Make the file durable under its final name. Raises StorageError; then nothing of it is acknowledged."""

    def discard(self) -> None:
        """Remove what was written. May be called twice, and after `commit` does nothing."""

    def __enter__(self) -> IncomingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class InstanceStore(Protocol):
    """A store of instances; safe for several processes at once. Every method raises StorageError where it cannot."""

    settle_time: dt.timedelta
    """A file without a row that is younger may be a commit in progress: recovery leaves it alone."""
    recovers_at_start: bool
    """Each receiver compares store and index at its start; else the leader does it once a day."""

    def begin(self, meta: FileMeta) -> IncomingFile:
        """Start a new file whose data set arrives in pieces. Raises StorageError (FullError where no space is left)."""

    def path(self, relative: str) -> Path:
        """Return a local path of a stored file, to read now; no file is there where the store has none of this name.

        Raises StorageError for a name that is not one of ours, StoreUnavailableError where the store does not answer.
        """

    def has(self, relative: str) -> bool:
        """Return whether the file of this name is stored. Raises StoreUnavailableError where nobody can tell."""

    def delete(self, relative: str) -> None:
        """Remove a file; one that is already gone is no error, so that a delete may run twice."""

    def quarantine(self, relative: str) -> str:
        """Move a stored file out of the index's sight; returns its new name."""

    def iterate_paths(self) -> Iterator[str]:
        """The names of all stored files older than `settle_time`, in the order of their text."""

    def expect_many(self) -> None:
        """Prepare for one file after the other, as a receiver gets them."""

    def remove_orphans(self, known: NamesKnown) -> int:
        """Delete what processes that are gone left half-written; returns how many files that were.

        known: a file whose name the index knows was acknowledged, and is kept.
        """

    def recovery(self) -> AbstractContextManager[bool]:
        """Keep others from recovering meanwhile; False where somebody else does, or did a short time ago."""

    def free_bytes(self) -> int:
        """The bytes an unprivileged process may still write on the disk that takes incoming files."""

    def probe(self) -> None:
        """Raise StorageError where nothing can be stored just now."""

    def place(self) -> str:
        """Where the files are, for people."""

    def close(self) -> None:
        """Give this process's unfinished files back."""

    def put(self, data_set: bytes | ByteSource, meta: FileMeta) -> StoredFile:
        """Store one data set; the bytes stay as they are, the Part 10 header before them is ours.

        Raises StorageError; then nothing of it stays.
        """
        with self.begin(meta) as incoming:
            if isinstance(data_set, bytes):
                incoming.write(data_set)
            else:
                while chunk := data_set.read(CHUNK_BYTES):
                    incoming.write(chunk)
            return incoming.commit()

    def put_part10(self, stream: BinaryIO) -> StoredFile:
        """Store a DICOM file that somebody else wrote: its data set's bytes unchanged, under a header of ours.

        Raises StorageError where the stream is not a DICOM file or cannot be stored.
        """
        return self.put(stream, read_meta(stream))

    def open(self, relative: str) -> BinaryIO:
        """The Part 10 file, to read. Raises StorageError where it is missing."""
        try:
            return self.path(relative).open("rb")
        except OSError as error:
            raise as_storage_error(error) from error

    def read(self, relative: str) -> bytes:
        """The whole Part 10 file. Raises StorageError where it is missing."""
        with self.open(relative) as stream:
            return stream.read()

    def read_data_set(self, relative: str) -> bytes:
        """The data set's bytes as the peer sent them. Raises StorageError where the file is missing or damaged."""
        with self.open(relative) as stream:
            read_meta(stream)
            return stream.read()

    def meta(self, relative: str) -> FileMeta:
        """The header of a stored file. Raises StorageError where it is missing or damaged."""
        with self.open(relative) as stream:
            return read_meta(stream)


def require_own_name(relative: str) -> str:
    """Return the name. Raises StorageError for one that is not of this store's making."""
    if _OWN_NAME.fullmatch(relative) is None:
        raise StorageError(f"not the name of a stored file: {relative!r}")
    return relative


def is_own_name(relative: str) -> bool:
    """Return whether a file of this name is of this store's making."""
    return _OWN_NAME.fullmatch(relative) is not None


def final_name(random_digits: str) -> str:
    """The name under which a file is stored."""
    return f"{FILES}/{random_digits[:2]}/{random_digits}.dcm"


def quarantine_name(relative: str) -> str:
    """The name that a stored file has in quarantine."""
    return f"{QUARANTINE}/{relative.split('/', 1)[1]}"


def hash_stored_file(stream: BinaryIO, relative: str) -> tuple[FileMeta, StoredFile, bytes]:
    """Read a stored file again: its header, what `commit` said of it, and the first MiB of its data set.

    Raises StorageError where it is damaged.
    """
    meta = read_meta(stream)
    digest = hashlib.sha256()
    size, head = 0, b""
    while chunk := stream.read(CHUNK_BYTES):
        head = head or chunk
        digest.update(chunk)
        size += len(chunk)
    return meta, StoredFile(path=relative, sha256=digest.hexdigest(), size_bytes=size), head


def as_storage_error(error: OSError) -> StorageError:
    """The tree's own error for what the file system said."""
    kind = FullError if error.errno in FULL_ERRORS else StorageError
    return kind(f"the instance store: {error.strerror or error}")
