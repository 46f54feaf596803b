"""Where input files lie: paths of this machine, or objects of a bucket, which are fetched to be read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from dicom_node.config import StorageSection
from dicom_node.errors import UsageError
from dicom_node.storage.bucket import Bucket
from dicom_node.storage.file_cache import FileCache

SCHEME: Final = "s3://"
BLOCKS: Final = "blocks"
"""Folder of a cache for what is just being read; what a killed run left there is of no use to another."""


class Locations:
    """Reads locations. One in each process.

    Parameters
    ----------
    storage
        Endpoint, region and credentials for the buckets, and how large the cache may be; its own bucket and prefix are
        not used.
    cache
        Folder for copies of fetched objects, shared by the processes of a run on one machine: an object is fetched once
        while it lies there. None: fetched for each use.
    """

    def __init__(self, storage: StorageSection, cache: Path | None = None) -> None:
        self._storage = storage
        self._buckets: dict[str, Bucket] = {}
        self._blocks = None if cache is None else cache / BLOCKS
        # Each block has links of its own to what it reads, so that the cache may remove its own at any time.
        self._cache = (
            None
            if cache is None
            else FileCache(cache / "objects", max_bytes=int(storage.cache_gigabytes * 1e9), kept_seconds=0.0)
        )

    def objects_below(self, url: str) -> Iterator[tuple[str, str]]:
        """Yield location and time stamp of every object below "s3://BUCKET/PREFIX". Raises StoreUnavailableError."""
        bucket, prefix = split_url(url)
        for key, modified in self._bucket(bucket).list(prefix):
            yield f"{SCHEME}{bucket}/{key}", modified.isoformat()

    @contextmanager
    def fetch(self, stamps: Mapping[str, str]) -> Iterator[dict[str, Path]]:
        """Give the local file of each location for the block; one that is gone is missing in the answer.

        stamps: location → its time stamp when it was listed. Raises StoreUnavailableError where the service does not
        answer.
        """
        local_paths = {location: Path(location) for location in stamps if not location.startswith(SCHEME)}
        remote = {location: stamp for location, stamp in stamps.items() if location.startswith(SCHEME)}
        if not remote:
            yield local_paths
            return
        if self._blocks is not None:
            self._blocks.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="dicom-node-", dir=self._blocks) as folder:
            for location, stamp in remote.items():
                # Of another time stamp it is another object.
                target = Path(folder) / hashlib.sha256(f"{location}\n{stamp}".encode()).hexdigest()
                if self._fetch(location, target):
                    local_paths[location] = target
            yield local_paths

    def _fetch(self, location: str, target: Path) -> bool:
        """Have an object as the file `target`, from the cache or the bucket; False where it is gone."""
        if self._cache is not None:
            with suppress(OSError):  # it is not here
                os.link(self._cache.path(target.name), target)
                self._cache.use(target.name)
                return True
        bucket, key = split_url(location)
        if self._bucket(bucket).download(key, target) is None:
            return False
        if self._cache is not None:
            with suppress(OSError):  # a file system without links: it is fetched again for its next use
                link = target.with_suffix(".link")
                os.link(target, link)
                self._cache.take(link, target.name)
        return True

    def _bucket(self, name: str) -> Bucket:
        if name not in self._buckets:
            section = self._storage.model_copy(update={"kind": "s3", "bucket": name, "prefix": ""})
            self._buckets[name] = Bucket(section)
        return self._buckets[name]


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of "s3://BUCKET/KEY"; raises UsageError."""
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    if not url.startswith(SCHEME) or not bucket:
        raise UsageError(f"{url!r} names no bucket; write {SCHEME}BUCKET/PREFIX")
    return bucket, key
