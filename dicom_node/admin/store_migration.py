"""`dicom-node store migrate`: instances, quarantine and documents of the folder, copied into the bucket.

The node may run. With [storage] kind = "folder" it goes on writing into the folder, and each run copies what is new;
after the switch to "s3" it writes into the bucket and reads from the folder what is not there yet, and the last run
copies that. So no moment is without an instance, and a run that is cut off goes on where it ended. Nothing is deleted
from the folder. What retention removed meanwhile is removed from the bucket too, or recovery would bring it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path

from sqlalchemy import select

from dicom_node.context import NodeContext
from dicom_node.errors import StorageError, UsageError
from dicom_node.index.tables.core import Instance
from dicom_node.logs import get_logger
from dicom_node.storage.bucket import Bucket
from dicom_node.storage.documents import DOCUMENTS
from dicom_node.storage.instance_store import FILES, QUARANTINE, hash_stored_file, is_own_name
from dicom_node.storage.object_store import SHA256, put_instance
from dicom_node.storage.opening import bucket_of, documents_dir, instances_dir

log = get_logger(__name__)

_BATCH = 500


class MigratedInstances(StrEnum):
    """The end of one file."""

    NEW = "copied"
    THERE = "there already"
    DAMAGED = "damaged: its bytes are not those of its row; left in the folder"
    GONE = "removed while the command ran"


@dataclass(slots=True, kw_only=True)
class Migrated:
    """The outcome of a run."""

    counts: dict[MigratedInstances, int] = field(default_factory=lambda: dict.fromkeys(MigratedInstances, 0))
    bytes: int = 0
    removed: int = 0
    """Objects of an earlier run whose instance retention has removed since."""
    damaged: list[str] = field(default_factory=list)


def files_to_copy(node: NodeContext) -> list[str]:
    """The names of everything in the folder that belongs into the bucket, in the order of their text."""
    instances, documents = instances_dir(node.settings), documents_dir(node.settings)
    names = [
        path.relative_to(instances).as_posix()
        for folder in (FILES, QUARANTINE)
        for path in (instances / folder).glob("*/*.dcm")
    ]
    names += [
        f"{DOCUMENTS}/{path.relative_to(documents).as_posix()}"
        for path in documents.rglob("*")
        if path.is_file() and path.suffix != ".part"
    ]
    return sorted(names)


def migrate(node: NodeContext, names: list[str], result: Migrated) -> Iterator[str]:
    """Copy these files, counting in `result`; yield each name when it is done.

    Raises UsageError where no bucket is named, StorageError where it does not answer: run it again.
    """
    if not node.settings.storage.bucket:
        raise UsageError(
            'storage.bucket: name the bucket in the configuration; kind may stay "folder" until all is copied'
        )
    bucket = bucket_of(node.settings.storage)
    remaining = iter(names)
    while batch := list(islice(remaining, _BATCH)):
        digests = _digests(node, batch)
        for name in batch:
            copied, size = _copy(node, bucket, name, digests.get(name))
            result.counts[copied] += 1
            result.bytes += size
            if copied is MigratedInstances.DAMAGED:
                result.damaged.append(name)
            yield name
    if node.settings.storage.kind == "folder":
        result.removed = _remove_what_is_gone(node, bucket)


def _copy(node: NodeContext, bucket: Bucket, name: str, of_row: str | None) -> tuple[MigratedInstances, int]:
    if name.startswith(f"{DOCUMENTS}/"):
        return _copy_document(bucket, name, documents_dir(node.settings) / name.removeprefix(f"{DOCUMENTS}/"))
    path = instances_dir(node.settings) / name
    try:
        with path.open("rb") as stream:
            _meta, stored, _head = hash_stored_file(stream, name)
        size = path.stat().st_size
        # Damaged on this disk: the bucket must not get a copy that looks sound.
        if of_row not in (None, stored.sha256):
            return MigratedInstances.DAMAGED, 0
        copied = bucket.look(name)
        if copied is not None and (copied.size, copied.attributes.get(SHA256)) == (size, stored.sha256):
            return MigratedInstances.THERE, 0
        put_instance(bucket, path, name, stored.sha256)
    except FileNotFoundError:
        return MigratedInstances.GONE, 0
    return MigratedInstances.NEW, size


def _copy_document(bucket: Bucket, name: str, path: Path) -> tuple[MigratedInstances, int]:
    """Copy a document; one that was written again after a crash goes over the older copy."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return MigratedInstances.GONE, 0
    copied = bucket.read(name)
    if copied is not None and copied[0] == content:
        return MigratedInstances.THERE, 0
    bucket.put(name, content)
    return MigratedInstances.NEW, len(content)


def _digests(node: NodeContext, names: list[str]) -> dict[str, str]:
    """The hash that the index has of each of these instances."""
    with node.database.read() as session:
        rows = session.execute(select(Instance.path, Instance.sha256).where(Instance.path.in_(names)))
        return {row.path: row.sha256 for row in rows}


def _remove_what_is_gone(node: NodeContext, bucket: Bucket) -> int:
    """Delete objects whose file is gone from the folder: while the folder is the store, nothing else writes there."""
    instances, documents = instances_dir(node.settings), documents_dir(node.settings)
    superfluous = [
        key
        for prefix, folder in ((FILES, instances), (QUARANTINE, instances), (DOCUMENTS, documents.parent))
        for key, _time in bucket.list(prefix)
        if (is_own_name(key) or prefix == DOCUMENTS) and not (folder / key).exists()
    ]
    # An empty mount point looks like a folder from which everything was removed.
    if superfluous and not (instances / FILES).is_dir():
        raise StorageError(f"{instances} is not there: is it mounted? Nothing was removed from the bucket")
    for start in range(0, len(superfluous), _BATCH):
        bucket.delete(superfluous[start : start + _BATCH])
    return len(superfluous)
