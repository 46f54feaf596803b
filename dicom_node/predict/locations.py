"""Where input files lie: paths of this machine, or objects of a bucket, which are fetched to be read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from dicom_node.config import StorageSection
from dicom_node.errors import UsageError
from dicom_node.storage.bucket import Bucket

SCHEME: Final = "s3://"


class Locations:
    """Reads locations. storage: endpoint, region and credentials for the buckets; its own bucket and prefix are not
    used. One in each process."""

    def __init__(self, storage: StorageSection) -> None:
        self._storage = storage
        self._buckets: dict[str, Bucket] = {}

    def objects_below(self, url: str) -> Iterator[tuple[str, str]]:
        """Yield location and time stamp of every object below "s3://BUCKET/PREFIX". Raises StoreUnavailableError."""
        bucket, prefix = split_url(url)
        for key, modified in self._bucket(bucket).list(prefix):
            yield f"{SCHEME}{bucket}/{key}", modified.isoformat()

    @contextmanager
    def fetched(self, locations: list[str]) -> Iterator[dict[str, Path]]:
        """Give the local file of each location for the block; one that is gone is missing in the answer.

        Raises StoreUnavailableError where the service does not answer.
        """
        local_paths = {location: Path(location) for location in locations if not location.startswith(SCHEME)}
        remote = [location for location in locations if location.startswith(SCHEME)]
        if not remote:
            yield local_paths
            return
        with TemporaryDirectory(prefix="dicom-node-") as folder:
            for location in dict.fromkeys(remote):
                bucket, key = split_url(location)
                target = Path(folder) / hashlib.sha256(location.encode()).hexdigest()
                if self._bucket(bucket).download(key, target) is not None:
                    local_paths[location] = target
            yield local_paths

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
