"""The stores that the configuration names."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node.config import Settings, StorageSection
from dicom_node.storage.documents import DOCUMENTS, BucketDocuments, DocumentStore, FolderDocuments
from dicom_node.storage.folder_store import FolderStore
from dicom_node.storage.instance_store import InstanceStore

if TYPE_CHECKING:  # what asks a bucket is imported where there is one
    from dicom_node.storage.bucket import Bucket

_GIGABYTE = 10**9


def open_store(settings: Settings) -> InstanceStore:
    """Open the store of instances; nothing is asked of a bucket yet. Raises ConfigurationError."""
    folder = FolderStore(instances_dir(settings))
    if settings.storage.kind == "folder":
        return folder
    from dicom_node.storage.file_cache import FileCache
    from dicom_node.storage.object_store import ObjectStore

    data = settings.node.data_dir
    cache = FileCache(data / "cache", max_bytes=int(settings.storage.cache_gigabytes * _GIGABYTE))
    older = folder if folder.root.is_dir() else None
    return ObjectStore(bucket_of(settings.storage), spool=data / "spool", cache=cache, older=older)


def open_documents(settings: Settings) -> DocumentStore:
    """Open the store of documents. Raises ConfigurationError."""
    folder = FolderDocuments(documents_dir(settings))
    if settings.storage.kind == "folder":
        return folder
    return BucketDocuments(bucket_of(settings.storage), folder if folder.root.is_dir() else None)


def instances_dir(settings: Settings) -> Path:
    """The folder of instances where there is no bucket."""
    return settings.node.data_dir / "instances"


def documents_dir(settings: Settings) -> Path:
    """The folder of documents where there is no bucket."""
    return settings.node.data_dir / DOCUMENTS


@lru_cache(maxsize=8)
def bucket_of(section: StorageSection) -> Bucket:
    """Return this process's one client of the bucket; it keeps its connections."""
    from dicom_node.storage.bucket import Bucket

    return Bucket(section)
