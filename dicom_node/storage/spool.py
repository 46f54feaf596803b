"""Files on their way in: written piece by piece into a folder that belongs to one process, hashed on the way.

<spool>/<token>/<name>.part       being written by the process that holds the lock of that folder
<spool>/<token>/<name>.reserved   the same, under a name that was on the disk before (`storage.reserved_names`)
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dicom_node.dicom.part10 import FileMeta, part10_header
from dicom_node.errors import StorageError
from dicom_node.storage.instance_store import IncomingFile, as_storage_error
from dicom_node.system.file_lock import FileLock, wait_for_lock

RESERVED: Final = ".reserved"
_LOCK: Final = "lock"
_WRITE_BACK_BYTES: Final = 1 << 20
NAMES_PER_SHARD: Final = 32


class Spool:
    """A folder of unfinished files, shared by processes that each lock a folder of their own in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own: Path | None = None
        self._lock: FileLock | None = None
        self._guard = threading.Lock()
        self._shard = ""
        self._names = 0

    def new_path(self) -> Path:
        """Return a name for a new file, in this process's folder. Raises OSError."""
        return self.claim_folder() / f"{self._new_digits()}.part"

    def _new_digits(self) -> str:
        """32 random hexadecimal digits, of which files that follow each other share the first two.

        These two name the folder in which a `FolderStore` keeps the file: what comes in at once lies in one folder,
        which is written once for all of it.
        """
        with self._guard:
            if self._names % NAMES_PER_SHARD == 0:
                self._shard = secrets.token_hex(1)
            self._names += 1
            return self._shard + secrets.token_hex(15)

    def claim_folder(self) -> Path:
        """Make and lock this process's folder at the first need, and return it. Raises OSError."""
        with self._guard:
            if self._own is None:
                make_folder(self.folder)
                # Between mkdir and flock a folder looks like an orphan; hence the lock around both.
                with wait_for_lock(self.folder / _LOCK):
                    folder = self.folder / secrets.token_hex(8)
                    folder.mkdir()
                    self._lock = FileLock.try_acquire(folder / _LOCK)
                    self._own = folder
            return self._own

    def remove_orphans(self, rescue: Callable[[Path], int] | None = None) -> int:
        """Delete what processes that are gone left half-written; returns how many files that were.

        A process holds the lock of its folder as long as it lives; the kernel drops it with the process, however it
        ended. So a living sibling's files are never touched.

        rescue: sees to the reserved names in a folder before it is removed; returns how many were half-written.
        """
        if not self.folder.is_dir():
            return 0
        removed = 0
        with wait_for_lock(self.folder / _LOCK):
            for folder in [entry for entry in self.folder.iterdir() if entry.is_dir() and entry != self._own]:
                lock = FileLock.try_acquire(folder / _LOCK)
                # Its process lives.
                if lock is None:
                    continue
                with lock:
                    removed += sum(1 for _ in folder.glob("*.part")) + (rescue(folder) if rescue else 0)
                    shutil.rmtree(folder)
        return removed

    def unlink_reserved(self, digits: str) -> None:
        """Remove the reserved name that a stored file may still have, or its bytes would stay when it is deleted."""
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if folder.is_dir():
                (folder / f"{digits}{RESERVED}").unlink(missing_ok=True)

    def leave_to_recovery(self) -> None:
        """Give the lock of this process's folder up, and leave what is in it to the next recovery."""
        with self._guard:
            if self._lock is not None:
                self._lock.release()
            self._own, self._lock = None, None

    def close(self) -> None:
        """Give this process's folder back."""
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            if self._lock is not None:
                self._lock.release()
            self._own, self._lock = None, None


class SpooledFile(IncomingFile):
    """A file in the spool. A kind of store adds `commit`."""

    def __init__(self, temporary: Path, meta: FileMeta, *, is_reserved: bool = False) -> None:
        self._temporary = temporary
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        self._unflushed = 0
        self._is_moved = False
        """Set by `commit` once the file has its final name."""
        new = 0 if is_reserved else os.O_CREAT | os.O_EXCL
        self._descriptor = os.open(temporary, os.O_WRONLY | new | os.O_CLOEXEC, 0o600)
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

    def discard(self) -> None:
        """Remove what was written. May be called twice, and after `commit` does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if not self._is_moved:
            self._temporary.unlink(missing_ok=True)

    def _close(self, *, durably: bool) -> None:
        """End the writing. Raises OSError."""
        if durably:
            os.fsync(self._descriptor)
        # Forgotten before it is closed: close(2) frees the number even where it fails, and a second close could hit
        # another thread's file.
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

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
                # write(2) may take less than it was given, as on a disk that is just getting full.
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise as_storage_error(error) from error


def fsync_folder(folder: Path) -> None:
    """Make a folder's entries durable: without it a rename may be gone after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder durably, parents first."""
    if folder.is_dir():
        return
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def free_bytes_at(folder: Path) -> int:
    """The number of bytes that an unprivileged process may write on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    usage = os.statvfs(folder)
    return usage.f_bavail * usage.f_frsize
