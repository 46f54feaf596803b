"""Local copies of immutable objects, so that readers keep a path: the longest unused go first when it is full.

Several processes share the folder without a lock. A file appears by a rename, whole; each use moves its time of last
change forward; and a file that was used a short time ago is never removed, so that a path that was given out can still
be opened. So the cache may hold more than its limit for that time.

Copies are not fsynced, so after a power cut a file may have its name and not its bytes. Each start of the machine has a
folder of its own in the cache: what an earlier one left is never read, and goes first when room is needed.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dicom_node.system.process_identity import boot

KEPT_SECONDS: Final = 900.0
"""A path that was given out can be opened for so long: longer than the analysis of a study takes."""
SLACK: Final = 0.9
"""A full cache is emptied to this share of its limit, so that it is not listed for each new file."""
LOOK_AFTER_BYTES: Final = 256 << 20
"""The folder is listed again after so many new bytes of this process."""


class FileCache:
    """A folder of at most `max_bytes`. folder: that of this start of the machine, below the one that is given."""

    def __init__(
        self, folder: Path, *, max_bytes: int, kept_seconds: float = KEPT_SECONDS, look_after: int = LOOK_AFTER_BYTES
    ) -> None:
        self.folder = folder / boot()
        self._all_starts = folder
        self._max_bytes = max_bytes
        self._kept_seconds = kept_seconds
        self._look_after = min(look_after, max_bytes // 10)
        self._since_look = self._look_after

    def path(self, name: str) -> Path:
        """Where the file of this name lies, if it does."""
        return self.folder / name

    def use(self, name: str) -> bool:
        """Mark a file as used just now; False where it is not here."""
        try:
            os.utime(self.path(name))
        except FileNotFoundError:
            return False
        return True

    def take(self, source: Path, name: str) -> None:
        """Move a whole file of the same file system in. Raises OSError."""
        target = self.path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Used now: a file that was long on its way would otherwise be the first to go.
        os.utime(source)
        size = source.stat().st_size
        source.replace(target)
        self._make_room(size)

    def fill(self, name: str, write: Callable[[Path], bool]) -> None:
        """Have `write` make the file in a temporary place, and take it where it says that there is one."""
        temporary = self.folder / f"{secrets.token_hex(16)}.part"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            if write(temporary):
                self.take(temporary, name)
        finally:
            temporary.unlink(missing_ok=True)

    def drop(self, name: str) -> None:
        """Remove a file where it is here."""
        self.path(name).unlink(missing_ok=True)

    def _make_room(self, added: int) -> None:
        self._since_look += added
        if self._since_look < self._look_after:
            return
        self._since_look = 0
        files = sorted(_files(self._all_starts))
        total = sum(size for _used_at, size, _path in files)
        if total <= self._max_bytes:
            return
        unused_since = time.time() - self._kept_seconds
        for used_at, size, path in files:
            # Sorted by last use: all that follow were used later still.
            if total <= self._max_bytes * SLACK or used_at > unused_since:
                return
            path.unlink(missing_ok=True)
            total -= size


def _files(folder: Path) -> list[tuple[float, int, Path]]:
    """(time of last use, size, path) of every file; one that goes meanwhile is left out."""
    files = []
    for parent, _folders, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            files.append((status.st_mtime, status.st_size, path))
    return files
