"""Instances in an S3 bucket, with the newest as local copies.

An instance is spooled and hashed on this machine, then written by one conditional PUT; only then is there a row, and
only then Success. A spool never pretends: while the bucket does not answer, the sender is told so. A PUT whose answer
was lost is repeated under the same name; the service refuses the second one, and it counts as done where the object
has the length and the hash that were sent.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dicom_node.dicom.part10 import FileMeta
from dicom_node.errors import StorageError
from dicom_node.logs import get_logger
from dicom_node.storage.bucket import Bucket
from dicom_node.storage.file_cache import FileCache
from dicom_node.storage.folder_store import FolderStore
from dicom_node.storage.instance_store import (
    FILES,
    IncomingFile,
    InstanceStore,
    NamesKnown,
    StoredFile,
    StoreUnavailableError,
    as_storage_error,
    final_name,
    hash_stored_file,
    is_own_name,
    quarantine_name,
    require_own_name,
)
from dicom_node.storage.spool import Spool, SpooledFile, free_bytes_at

log = get_logger(__name__)

SHA256: Final = "sha256"
"""The attribute that holds the hash of the data set's bytes, as the index does."""
PUT_TRIES: Final = 2
SETTLE_TIME: Final = dt.timedelta(hours=1)
RECOVER_EVERY: Final = dt.timedelta(days=1)
RECOVERED_KEY: Final = "recovery/last"


class ObjectStore(InstanceStore):
    """A bucket with a cache. `older`: a folder store whose files are still being moved into the bucket."""

    settle_time = SETTLE_TIME
    recovers_at_start = False

    def __init__(self, bucket: Bucket, *, spool: Path, cache: FileCache, older: FolderStore | None = None) -> None:
        self.bucket = bucket
        self.cache = cache
        self._spool = Spool(spool)
        self._older = older

    def begin(self, meta: FileMeta) -> IncomingFile:
        """Start a new file in the spool. Raises StorageError."""
        try:
            return _ObjectFile(self, self._spool.new_path(), meta)
        except OSError as error:
            raise as_storage_error(error) from error

    def path(self, relative: str) -> Path:
        """Return the path of the local copy, fetched now where there is none."""
        name = require_own_name(relative)
        # Marked as used, not only looked for: from here on the copy is kept for as long as a reader may need to open
        # it.
        if not self.cache.use(name):
            try:
                self.cache.fill(name, lambda temporary: self._fetch(name, temporary))
            except OSError as error:
                raise as_storage_error(error) from error
            if self._older is not None and not self.cache.path(name).is_file() and self._older.has(name):
                return self._older.path(name)
        return self.cache.path(name)

    def has(self, relative: str) -> bool:
        """Return whether the bucket has it; a local copy says nothing of that."""
        name = require_own_name(relative)
        return self.bucket.has(name) or (self._older is not None and self._older.has(name))

    def delete(self, relative: str) -> None:
        """Remove the object and this machine's copy; the copies of other machines grow old and go."""
        name = require_own_name(relative)
        self.bucket.delete(name)
        self.cache.drop(name)
        if self._older is not None:
            self._older.delete(name)

    def quarantine(self, relative: str) -> str:
        """Copy, then delete: a kill in between leaves a file without a row, which recovery looks at again."""
        name, moved = require_own_name(relative), quarantine_name(relative)
        try:
            self.bucket.copy(name, moved)
        except FileNotFoundError as error:
            if self._older is None:
                raise StorageError(f"the instance store: {relative} is not there") from error
            return self._older.quarantine(name)
        self.delete(name)
        return moved

    def iterate_paths(self) -> Iterator[str]:
        """The names of all objects older than `settle_time`, in the order of their text."""
        before = dt.datetime.now(dt.UTC) - self.settle_time
        for key, modified_at in self.bucket.list(FILES):
            if modified_at <= before and is_own_name(key):
                yield key

    def expect_many(self) -> None:
        """Do nothing: what is in the bucket needs no names on this disk."""

    def remove_orphans(self, known: NamesKnown) -> int:
        """Delete what processes of this machine that are gone left in the spool: nothing of it was acknowledged."""
        return self._spool.remove_orphans()

    @contextmanager
    def recovery(self) -> Iterator[bool]:
        """Once a day for the whole bucket, by its own clock: the last time is an object."""
        last = self.bucket.look(RECOVERED_KEY)
        is_due = last is None or dt.datetime.now(dt.UTC) - last.modified_at >= RECOVER_EVERY
        # Where the block raises, the mark below is not written, and another machine tries.
        yield is_due
        if is_due:
            self.bucket.put(RECOVERED_KEY, b"")

    def free_bytes(self) -> int:
        """The number of bytes that may still be written on the disk of spool and cache."""
        return free_bytes_at(self._spool.folder)

    def probe(self) -> None:
        """Write an object, have a second write to its key refused, and delete it. Raises StorageError."""
        key = f"probe/{secrets.token_hex(8)}"
        is_new, is_again = self.bucket.put_new(key, b"probe", {}), self.bucket.put_new(key, b"again", {})
        self.bucket.delete(key)
        if not is_new or is_again:
            raise StorageError(
                f"{self.place()} overwrites an object although If-None-Match forbids it: two receivers could replace"
                " each other's instances; use a service that honours conditional writes"
            )

    def place(self) -> str:
        """The bucket."""
        return self.bucket.place()

    def close(self) -> None:
        """Give this process's folder of unfinished files back."""
        self._spool.close()

    def _fetch(self, name: str, temporary: Path) -> bool:
        """Download an object and compare it with the hash that it was given. False where there is none."""
        downloaded = self.bucket.download(name, temporary)
        if downloaded is None:
            return False
        with temporary.open("rb") as stream:
            _meta, stored, _head = hash_stored_file(stream, name)
        if downloaded.attributes.get(SHA256) not in (None, stored.sha256):
            raise StorageError(f"the instance store: the object {name} is damaged: its bytes are not those of its hash")
        return True


class _ObjectFile(SpooledFile):
    """A file on its way into the bucket."""

    def __init__(self, store: ObjectStore, temporary: Path, meta: FileMeta) -> None:
        super().__init__(temporary, meta)
        self._store = store

    def commit(self) -> StoredFile:
        """Write the object; what was spooled becomes this machine's copy. Raises StorageError."""
        digest = self._hash.hexdigest()
        try:
            # Not fsynced: the bucket's answer is what makes an instance durable, and a spool that survives is thrown
            # away.
            self._close(durably=False)
            name = put_instance(self._store.bucket, self._temporary, final_name(self._temporary.stem), digest)
            self._store.cache.take(self._temporary, name)
        except OSError as error:
            self.discard()
            raise as_storage_error(error) from error
        except StorageError:
            self.discard()
            raise
        return StoredFile(path=name, sha256=digest, size_bytes=self.size_bytes)


def put_instance(bucket: Bucket, file: Path, name: str, sha256: str) -> str:
    """Write one instance under its name, once, however often it is tried; return the name. Raises StorageError."""
    size = file.stat().st_size
    for left in reversed(range(PUT_TRIES)):
        try:
            if bucket.put_new(name, file, {SHA256: sha256}):
                return name
            stored = bucket.look(name)
        except StoreUnavailableError:
            if not left:
                raise
            log.warning("an instance's PUT was not answered: it is repeated under the same name")
            continue
        if stored is not None and (stored.size, stored.attributes.get(SHA256)) == (size, sha256):
            return name  # an earlier try arrived, and only its answer was lost
        break
    raise StorageError(f"the instance store: another object has the name {name}")
