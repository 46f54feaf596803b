"""The instance store: bytes that peers gave us, kept bit by bit in files with our own names.

A file is whole or not there: temp → write → fsync → rename → fsync of the folder. The name is a random number of
ours; nothing of the wire ever becomes part of a path. Layout under the root:

    incoming/<token>/<name>.part   being written by the process that holds the lock of that folder
    files/<xx>/<name>.dcm          stored; `xx` are the first two digits of the name
    quarantine/<xx>/<name>.dcm     kept for a person to look at, never in the index
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

from dicom_node.dicom.part10 import ByteSource, FileMeta, part10_header, read_meta
from dicom_node.errors import StorageError
from dicom_node.system.file_lock import FileLock, wait_for_lock

FILES: Final = "files"
QUARANTINE: Final = "quarantine"
INCOMING: Final = "incoming"
_LOCK: Final = "lock"
_CHUNK_BYTES: Final = 1 << 20
_WRITE_BACK_BYTES: Final = 1 << 20
_OWN_NAME = re.compile(rf"(?:{FILES}|{QUARANTINE})/[0-9a-f]{{2}}/[0-9a-f]{{32}}\.dcm")

FULL_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The errors of the system when nothing more fits."""


class FullError(StorageError):
    """No space: the disk or the quota is full. The peer is told A700H."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file that is durably on the disk."""

    path: str
    """Relative to the store's root."""
    sha256: str
    """Of the data set's bytes as received, without the Part 10 header."""
    size_bytes: int
    """Length of the data set's bytes."""


class InstanceStore:
    """One folder of instances; safe for several processes at once. Cheap to make: folders appear when first needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming: Path | None = None
        self._lock: FileLock | None = None
        self._guard = threading.Lock()

    def begin(self, meta: FileMeta) -> IncomingFile:
        """Start a new file whose data set arrives in pieces. Raises StorageError (FullError where no space is left)."""
        try:
            folder = self._own_incoming()
            return IncomingFile(self, folder / f"{secrets.token_hex(16)}.part", meta)
        except OSError as error:
            raise as_storage_error(error) from error

    def put(self, data_set: bytes | ByteSource, meta: FileMeta) -> StoredFile:
        """Store one data set; the bytes stay as they are, the Part 10 header before them is ours.

        Raises StorageError; then nothing of it stays.
        """
        with self.begin(meta) as incoming:
            if isinstance(data_set, bytes):
                incoming.write(data_set)
            else:
                while chunk := data_set.read(_CHUNK_BYTES):
                    incoming.write(chunk)
            return incoming.commit()

    def put_part10(self, stream: BinaryIO) -> StoredFile:
        """Store a DICOM file that somebody else wrote: its data set's bytes unchanged, under a header of ours.

        Raises StorageError where the stream is not a DICOM file or cannot be stored.
        """
        return self.put(stream, read_meta(stream))

    def path(self, relative: str) -> Path:
        """Where a stored file lies. Raises StorageError for a name that is not one of ours."""
        if _OWN_NAME.fullmatch(relative) is None:
            raise StorageError(f"not the name of a stored file: {relative!r}")
        return self.root / relative

    def has(self, relative: str) -> bool:
        """Return whether the file of this name is here."""
        return self.path(relative).is_file()

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

    def delete(self, relative: str) -> None:
        """Remove a file; one that is already gone is no error, so that a delete may run twice."""
        path = self.path(relative)
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            fsync_folder(path.parent)

    def quarantine(self, relative: str) -> str:
        """Move a stored file out of the index's sight; returns its new name."""
        source = self.path(relative)
        moved = f"{QUARANTINE}/{source.parent.name}/{source.name}"
        target = self.root / moved
        try:
            _make_folder(target.parent)
            source.rename(target)
            fsync_folder(target.parent)
            fsync_folder(source.parent)
        except OSError as error:
            raise as_storage_error(error) from error
        return moved

    def iterate_paths(self) -> Iterator[str]:
        """The names of all stored files, in the order of their text."""
        folder = self.root / FILES
        if not folder.is_dir():
            return
        for shard in sorted(entry.name for entry in os.scandir(folder)):
            names = sorted(f"{FILES}/{shard}/{entry.name}" for entry in os.scandir(folder / shard))
            yield from (name for name in names if _OWN_NAME.fullmatch(name))

    def remove_orphans(self) -> int:
        """Delete what processes that are gone left half-written; returns how many files that were.

        A process holds the lock of its folder as long as it lives; the kernel drops it with the process, however it
        ended. So a living sibling's files are never touched.
        """
        incoming = self.root / INCOMING
        if not incoming.is_dir():
            return 0
        removed = 0
        with wait_for_lock(incoming / _LOCK):
            for folder in [entry for entry in incoming.iterdir() if entry.is_dir() and entry != self._incoming]:
                lock = FileLock.try_acquire(folder / _LOCK)
                if lock is None:
                    continue
                with lock:
                    removed += sum(1 for _ in folder.glob("*.part"))
                    shutil.rmtree(folder)
        return removed

    def free_bytes(self) -> int:
        """The number of bytes that an unprivileged process may still write on the store's disk."""
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        usage = os.statvfs(folder)
        return usage.f_bavail * usage.f_frsize

    def close(self) -> None:
        """Give this process's folder of unfinished files back."""
        if self._incoming is not None:
            shutil.rmtree(self._incoming, ignore_errors=True)
            if self._lock is not None:
                self._lock.release()
            self._incoming, self._lock = None, None

    def _own_incoming(self) -> Path:
        """This process's folder for unfinished files, made and locked at the first need."""
        with self._guard:
            if self._incoming is None:
                incoming = self.root / INCOMING
                _make_folder(incoming)
                _make_folder(self.root / FILES)
                # All shards at once, with one fsync of their folder, not one at the first file in each.
                for shard in range(256):
                    (self.root / FILES / f"{shard:02x}").mkdir(exist_ok=True)
                fsync_folder(self.root / FILES)
                # Between mkdir and flock a folder looks like an orphan; hence the lock around both.
                with wait_for_lock(incoming / _LOCK):
                    folder = incoming / secrets.token_hex(8)
                    folder.mkdir()
                    self._lock = FileLock.try_acquire(folder / _LOCK)
                    self._incoming = folder
            return self._incoming


class IncomingFile:
    """A file on its way in. Ends by `commit` or `discard`; leaving a `with` block discards what was not committed."""

    def __init__(self, store: InstanceStore, temporary: Path, meta: FileMeta) -> None:
        self._store = store
        self._temporary = temporary
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        self._unflushed = 0
        self._descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._write_all(memoryview(part10_header(meta)))
        except StorageError:
            self.discard()
            raise

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes of the data set. Raises StorageError; FullError where no space is left."""
        view = memoryview(data)
        self._write_all(view)
        self._start_writing_back(len(view))
        self._hash.update(view)
        self.size_bytes += len(view)

    def commit(self) -> StoredFile:
        """Make the file durable under its final name. Raises StorageError; then nothing of it stays."""
        name = self._temporary.stem
        relative = f"{FILES}/{name[:2]}/{name}.dcm"
        target = self._store.root / relative
        try:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            _make_folder(target.parent)
            self._temporary.rename(target)
            fsync_folder(target.parent)
        except OSError as error:
            target.unlink(missing_ok=True)
            self.discard()
            raise as_storage_error(error) from error
        return StoredFile(path=relative, sha256=self._hash.hexdigest(), size_bytes=self.size_bytes)

    def discard(self) -> None:
        """Remove what was written. May be called twice, and after `commit` does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._temporary.unlink(missing_ok=True)

    def _start_writing_back(self, count: int) -> None:
        """Let the disk begin while more comes in, so that fsync has little left to wait for.

        On Linux POSIX_FADV_DONTNEED starts the write-back of dirty pages and drops only clean ones, of which this range
        has none yet. Elsewhere it does less, and no harm.
        """
        self._unflushed += count
        if self._unflushed >= _WRITE_BACK_BYTES and hasattr(os, "posix_fadvise"):
            position = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            os.posix_fadvise(self._descriptor, position - self._unflushed, self._unflushed, os.POSIX_FADV_DONTNEED)
            self._unflushed = 0

    def _write_all(self, view: memoryview) -> None:
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise as_storage_error(error) from error

    def __enter__(self) -> IncomingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def hash_stored_file(stream: BinaryIO, relative: str) -> tuple[FileMeta, StoredFile, bytes]:
    """Read a stored file again: its header, what `commit` said of it, and the first MiB of its data set.

    Raises StorageError where it is damaged.
    """
    meta = read_meta(stream)
    digest = hashlib.sha256()
    size, head = 0, b""
    while chunk := stream.read(_CHUNK_BYTES):
        head = head or chunk
        digest.update(chunk)
        size += len(chunk)
    return meta, StoredFile(path=relative, sha256=digest.hexdigest(), size_bytes=size), head


def as_storage_error(error: OSError) -> StorageError:
    """The tree's own error for what the file system said."""
    kind = FullError if error.errno in FULL_ERRORS else StorageError
    return kind(f"the instance store: {error.strerror or error}")


def fsync_folder(folder: Path) -> None:
    """Make a folder's entries durable: without it a rename may be gone after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make a folder durably, parents first."""
    if folder.is_dir():
        return
    if not folder.parent.is_dir():
        _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)
