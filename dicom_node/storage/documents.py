"""The documents of results: small files in one folder for each result, in a folder of the node or in its bucket.

A document is written before the row that names it, and may be written again with other bytes after a crash; so it is
read where it was written last, and no machine keeps a copy.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Protocol

from dicom_node.errors import StorageError
from dicom_node.storage.spool import fsync_folder

if TYPE_CHECKING:
    from dicom_node.storage.bucket import Bucket

DOCUMENTS: Final = "documents"


class DocumentStore(Protocol):
    """Documents by their name `<xx>/<result>/<file>`, as `Document.path` has it."""

    def write(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write the files of one result durably. Raises StorageError or OSError."""

    def read(self, relative: str) -> bytes:
        """Return one file's bytes. Raises FileNotFoundError, StorageError, OSError."""

    def keep(self, relative: str, content: bytes) -> None:
        """Write a file that can be made again, whole or not at all. Raises StorageError, OSError."""

    def remove(self, folder: str) -> None:
        """Remove a result's folder with all that is in it; one that is not there is no error."""


class FolderDocuments(DocumentStore):
    """Documents in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, folder: str, files: Mapping[str, bytes]) -> None:
        """temp → write → fsync → rename, then fsync of the folders. Raises OSError."""
        target = self.root / folder
        target.mkdir(parents=True, exist_ok=True)
        temporaries = {name: target / f"{name}.part" for name in files}
        with ExitStack() as opened:
            written = [opened.enter_context(temporaries[name].open("wb")) for name in files]
            for file, content in zip(written, files.values(), strict=True):
                file.write(content)
                file.flush()
            # After all are written: what the first of these brings to the disk, the others need not wait for.
            for file in written:
                os.fsync(file.fileno())
        for name, temporary in temporaries.items():
            temporary.replace(target / name)
        fsync_folder(target)
        fsync_folder(target.parent)

    def read(self, relative: str) -> bytes:
        """Return one file's bytes. Raises OSError."""
        return (self.root / relative).read_bytes()

    def keep(self, relative: str, content: bytes) -> None:
        """Put the file there by a rename. Raises OSError."""
        path = self.root / relative
        # Two readers may make the same file at once: each writes under a name of its own, and either one's rename is
        # right. Not fsynced, because it can be made again.
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
        temporary.write_bytes(content)
        temporary.replace(path)

    def remove(self, folder: str) -> None:
        """Remove a result's folder."""
        shutil.rmtree(self.root / folder, ignore_errors=True)


class BucketDocuments(DocumentStore):
    """Documents in the bucket, below documents/. `older`: documents that are still being moved there."""

    def __init__(self, bucket: Bucket, older: FolderDocuments | None = None) -> None:
        self._bucket = bucket
        self._older = older

    def write(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write one object for each file."""
        for name, content in files.items():
            self._bucket.put(_key(f"{folder}/{name}"), content)

    def read(self, relative: str) -> bytes:
        """Return one object's bytes."""
        stored = self._bucket.read(_key(relative))
        if stored is not None:
            return stored[0]
        if self._older is not None:
            return self._older.read(relative)
        raise FileNotFoundError(2, "no such document in the bucket", relative)

    def keep(self, relative: str, content: bytes) -> None:
        """Write one object."""
        self._bucket.put(_key(relative), content)

    def remove(self, folder: str) -> None:
        """Delete all objects of a result."""
        keys = [key for key, _time in self._bucket.list(_key(folder))]
        if keys:
            self._bucket.delete(keys)
        if self._older is not None:
            self._older.remove(folder)


def _key(relative: str) -> str:
    if ".." in PurePosixPath(relative).parts or relative.startswith("/"):
        raise StorageError(f"not the name of a document: {relative!r}")
    return f"{DOCUMENTS}/{relative}"
