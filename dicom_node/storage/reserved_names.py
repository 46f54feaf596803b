"""Names that are on the disk before a file needs them, so that a received file waits for one sync and not for two.

A receiver makes NAMES_AT_ONCE empty files in its own folder of the spool and syncs that folder once. A file is then
written under such a name and synced; the name that it keeps (`files/<xx>/…`) is a second link to it, which is not
synced by itself. The first name stays until the folder of the second one was synced, once for all of them. So each file
has a name on the disk at every moment, and recovery gives those their lasting name that a power cut took it from
(docs/adr/0034).
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicom_node.logs import get_logger
from dicom_node.storage.instance_store import final_name
from dicom_node.storage.spool import RESERVED, Spool, fsync_folder, make_folder

log = get_logger(__name__)

NAMES_AT_ONCE: Final = 32
"""They share their first two digits, and so the folder that is synced for all of them."""
FEW_NAMES: Final = 8
"""With so few left the next ones are made, while others go on with these."""
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""The errors of file systems that know no second name for a file."""


@dataclass(frozen=True, slots=True)
class ReservedName:
    """A name in the spool, and the one that its file gets."""

    path: Path
    stored_as: str
    """Relative to the store's root."""


class ReservedNames:
    """The reserved names of one process. From any thread."""

    def __init__(self, spool: Spool, root: Path) -> None:
        self._spool = spool
        self._root = root
        self._guard = threading.Lock()
        self._ready: deque[ReservedName] = deque()
        self._published: list[ReservedName] = []
        """Their files have both names, the second one perhaps not on the disk."""
        self._is_making = False
        self._has_links = True

    def take(self) -> ReservedName | None:
        """A name for one file; None where another thread is just making the next ones. Raises OSError."""
        with self._guard:
            if not self._has_links:
                return None
            name = self._ready.popleft() if self._ready else None
            makes = not self._is_making and len(self._ready) < FEW_NAMES
            self._is_making = self._is_making or makes
        if not makes:
            return name
        try:
            self._make()
        except OSError:
            if name is None:
                raise
            # One is left: writing its file will tell whether the disk takes anything.
        finally:
            with self._guard:
                self._is_making = False
                if name is None and self._ready:
                    name = self._ready.popleft()
        return name

    def give_back(self, name: ReservedName) -> None:
        """Take a name back whose file was not finished. Never raises."""
        try:
            os.truncate(name.path, 0)
        except OSError:
            with suppress(OSError):
                name.path.unlink(missing_ok=True)
        else:
            with self._guard:
                self._ready.append(name)

    def publish(self, name: ReservedName) -> None:
        """Give a file that was synced its lasting name. Raises OSError; then it has none."""
        target = self._root / name.stored_as
        try:
            try:
                os.link(name.path, target)
            except FileNotFoundError:  # somebody removed the folder
                make_folder(target.parent)
                os.link(name.path, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            log.warning("this file system knows no second name for a file: each file waits for one more sync")
            self._has_links = False
            self._rename(name.path, target)
            return
        with self._guard:
            self._published.append(name)

    def _rename(self, path: Path, target: Path) -> None:
        path.rename(target)
        try:
            fsync_folder(target.parent)
        except OSError:
            target.unlink(missing_ok=True)  # what is not acknowledged must not stay
            raise

    def settle(self) -> None:
        """Sync the folders of the lasting names, once each, and remove the first names. Raises OSError."""
        with self._guard:
            published, self._published = self._published, []
        try:
            for folder in {(self._root / name.stored_as).parent for name in published}:
                if folder.is_dir():
                    fsync_folder(folder)
        except OSError:
            with self._guard:
                self._published = published + self._published
            raise
        for name in published:
            name.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Settle what was published; what could not be is left to recovery. Never raises."""
        with self._guard:
            self._ready.clear()
            self._is_making = True  # a file that begins now is none of this life
        try:
            self.settle()
        except OSError as error:
            log.error("names of stored files are not on the disk yet: recovery sees to them", why=str(error))
            self._spool.leave_to_recovery()

    def _make(self) -> None:
        """Make the next names, durably. Raises OSError."""
        folder = self._spool.claim_folder()
        shard = secrets.token_hex(1)
        names = []
        for _ in range(NAMES_AT_ONCE):
            digits = shard + secrets.token_hex(15)
            names.append(ReservedName(folder / f"{digits}{RESERVED}", final_name(digits)))
        for name in names:
            os.close(os.open(name.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        fsync_folder(folder)
        with self._guard:
            self._ready.extend(names)
        self.settle()
