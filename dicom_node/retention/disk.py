"""Free space of the disk that the data folder is on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from dicom_node.context import NodeContext
from dicom_node.errors import StorageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of the disk that the data folder is on, and of the images in it; bytes."""

    total: int
    free: int
    images: int

    @property
    def free_percent(self) -> float:
        return 100.0 * self.free / self.total if self.total else 100.0


def disk_usage(node: NodeContext) -> Usage:
    """The use of the disk of the data folder. Raises StorageError."""
    folder = node.settings.node.data_dir
    folder.mkdir(parents=True, exist_ok=True)
    try:
        total, _, free = shutil.disk_usage(folder)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}") from error
    return Usage(total=total, free=free, images=0)
