"""Instances in a folder of this machine, or of a file system that several machines share.

A file is whole or not there: temp → write → fsync → rename → fsync of the folder; in a receiver, whose names are on the
disk beforehand: write → fsync → link (`dicom_node.storage.reserved_names`). Layout under the root:

    incoming/                      unfinished files (`dicom_node.storage.spool`)
    files/<xx>/<name>.dcm          stored
    quarantine/<xx>/<name>.dcm     set apart
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from dicom_node.dicom.part10 import FileMeta
from dicom_node.storage.instance_store import (
    FILES,
    IncomingFile,
    InstanceStore,
    NamesKnown,
    StoredFile,
    as_storage_error,
    final_name,
    is_own_name,
    quarantine_name,
    require_own_name,
)
from dicom_node.storage.reserved_names import ReservedName, ReservedNames
from dicom_node.storage.spool import RESERVED, Spool, SpooledFile, free_bytes_at, fsync_folder, make_folder
from dicom_node.system.file_lock import FileLock

INCOMING: Final = "incoming"


class FolderStore(InstanceStore):
    """One folder of instances; safe for several processes at once. Cheap to make: folders appear when first needed."""

    settle_time = dt.timedelta(0)
    recovers_at_start = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self._spool = Spool(root / INCOMING)
        self._names = ReservedNames(self._spool, root)
        self._reserves_names = False
        self._has_shards = False
        self._guard = threading.Lock()

    def begin(self, meta: FileMeta) -> IncomingFile:
        """Start a new file whose data set arrives in pieces. Raises StorageError (FullError where no space is left)."""
        try:
            self._make_shards()
            name = self._names.take() if self._reserves_names else None
            if name is not None:
                return _ReservedFile(self._names, name, meta)
            return _FolderFile(self.root, self._spool.new_path(), meta)
        except OSError as error:
            raise as_storage_error(error) from error

    def path(self, relative: str) -> Path:
        """Where a stored file lies. Raises StorageError for a name that is not one of ours."""
        return self.root / require_own_name(relative)

    def has(self, relative: str) -> bool:
        """Return whether the file of this name is here."""
        return self.path(relative).is_file()

    def delete(self, relative: str) -> None:
        """Remove a file; one that is already gone is no error, so that a delete may run twice."""
        path = self.path(relative)
        self._spool.unlink_reserved(path.stem)
        path.unlink(missing_ok=True)
        # Without it a power cut could bring the file back, with no row that names it.
        if path.parent.is_dir():
            fsync_folder(path.parent)

    def quarantine(self, relative: str) -> str:
        """Move a stored file out of the index's sight; returns its new name."""
        source, moved = self.path(relative), quarantine_name(relative)
        target = self.root / moved
        try:
            make_folder(target.parent)
            source.rename(target)
            # The new name goes to the disk first: with the old one's removal alone a power cut would lose the file.
            fsync_folder(target.parent)
            fsync_folder(source.parent)
            self._spool.unlink_reserved(source.stem)
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
            yield from (name for name in names if is_own_name(name))

    def expect_many(self) -> None:
        """Keep names ready for the files of a receiver, which then wait for one sync each."""
        self._reserves_names = True

    def remove_orphans(self, known: NamesKnown) -> int:
        """Delete what processes that are gone left half-written; returns how many files that were."""
        return self._spool.remove_orphans(partial(self._finish_names, known))

    @contextmanager
    def recovery(self) -> Iterator[bool]:
        """Of several receivers that start at once on this folder one recovers."""
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock.try_acquire(self.root / "recovery.lock")
        if lock is None:
            yield False
            return
        with lock:
            yield True

    def free_bytes(self) -> int:
        """The number of bytes that an unprivileged process may still write on the store's disk."""
        return free_bytes_at(self.root)

    def probe(self) -> None:
        """Raise StorageError where the folder cannot be written."""
        try:
            self._spool.claim_folder()
        except OSError as error:
            raise as_storage_error(error) from error

    def place(self) -> str:
        """The folder."""
        return str(self.root)

    def close(self) -> None:
        """Give this process's folder of unfinished files back."""
        self._names.close()
        self._spool.close()

    def _finish_names(self, known: NamesKnown, folder: Path) -> int:
        """See to the names that a process reserved in its folder; returns how many of their files are half-written.

        A file is linked to its lasting name only once it is whole, and a row is written only then. So one that has its
        lasting name keeps it, and one that has a row, but whose lasting name a power cut took, gets it back.
        """
        half_written = {}
        shards = set()
        for path in folder.glob(f"*{RESERVED}"):
            name = final_name(path.stem)
            if (self.root / name).exists():
                shards.add((self.root / name).parent)
            elif path.stat().st_size:
                half_written[name] = path
        for name in known(list(half_written)):
            make_folder((self.root / name).parent)
            os.link(half_written.pop(name), self.root / name)
            shards.add((self.root / name).parent)
        # On the disk before the reserved names go.
        for shard in shards:
            fsync_folder(shard)
        return len(half_written)

    def _make_shards(self) -> None:
        """All shards at once, with one fsync of their folder, not one at the first file in each."""
        with self._guard:
            if self._has_shards:
                return
            make_folder(self.root / FILES)
            for shard in range(256):
                (self.root / FILES / f"{shard:02x}").mkdir(exist_ok=True)
            fsync_folder(self.root / FILES)
            self._has_shards = True


class _FolderFile(SpooledFile):
    """A file on its way into a folder."""

    def __init__(self, root: Path, temporary: Path, meta: FileMeta) -> None:
        super().__init__(temporary, meta)
        self._root = root

    def commit(self) -> StoredFile:
        """Make the file durable under its final name. Raises StorageError; then nothing of it stays."""
        relative = final_name(self._temporary.stem)
        target = self._root / relative
        try:
            # The order makes the file whole or absent after a power cut at any line: its bytes on the disk, then its
            # name, then the name on the disk.
            self._close(durably=True)
            try:
                self._temporary.rename(target)
            except FileNotFoundError:  # somebody removed the folder since this process made all of them
                make_folder(target.parent)
                self._temporary.rename(target)
            self._is_moved = True
            fsync_folder(target.parent)
        except OSError as error:
            # The rename may have happened and only the last fsync failed: what is not acknowledged must not stay.
            target.unlink(missing_ok=True)
            self.discard()
            raise as_storage_error(error) from error
        return StoredFile(path=relative, sha256=self._hash.hexdigest(), size_bytes=self.size_bytes)


class _ReservedFile(SpooledFile):
    """A file on its way into a folder, under a name that is on the disk already."""

    def __init__(self, names: ReservedNames, name: ReservedName, meta: FileMeta) -> None:
        self._names = names
        self._name = name
        try:
            super().__init__(name.path, meta, is_reserved=True)
        except OSError:
            names.give_back(name)
            raise

    def commit(self) -> StoredFile:
        """Make the file durable, then give it its lasting name. Raises StorageError; then nothing of it stays."""
        try:
            self._close(durably=True)
            self._names.publish(self._name)
        except OSError as error:
            self.discard()
            raise as_storage_error(error) from error
        self._is_moved = True
        return StoredFile(path=self._name.stored_as, sha256=self._hash.hexdigest(), size_bytes=self.size_bytes)

    def discard(self) -> None:
        """Give the name back, for another file. May be called twice, and after `commit` does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if not self._is_moved:
            self._is_moved = True  # the name is not this file's any more
            self._names.give_back(self._name)
