"""Needs of a worker's own machine before it claims a job: the store, a place to write, /tmp, and a model.

Each fault is a sentence for the page and the log. A job that is claimed on a broken machine fails for a reason that is
not its own; a job that is left alone is done by another machine.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from sqlalchemy import select

from dicom_node.context import NodeContext
from dicom_node.errors import StorageError
from dicom_node.index.tables.core import Instance, JobKind
from dicom_node.index.tables.models import ModelServing
from dicom_node.system.process_identity import ProcessIdentity, this_process

VALID_SECONDS = 30.0
"""The time for which a result is used: the checks write a file."""
MIN_FREE_BYTES = 64 * 2**20
NEWEST_LOOKED_AT = 3
MODEL_SEEN = dt.timedelta(minutes=1)


class SelfCheck:
    """The faults of this machine, looked for at most every VALID_SECONDS."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self._guard = threading.Lock()
        self._faults: dict[JobKind, tuple[float, str]] = {}

    def fault(self, kind: JobKind) -> str:
        """Return why no job of this kind should be claimed here; "" where nothing is wrong."""
        with self._guard:
            # Looked for under the guard: of several threads that ask at once one writes its probe, and the others take
            # the answer.
            valid_until, fault = self._faults.get(kind, (0.0, ""))
            if time.monotonic() >= valid_until:
                fault = machine_fault(self._node) or (model_fault(self._node) if kind is JobKind.ANALYSE else "")
                self._faults[kind] = (time.monotonic() + VALID_SECONDS, fault)
            return fault

    def forget(self) -> None:
        """Look again at the next question: something failed that should not."""
        with self._guard:
            self._faults.clear()


def machine_fault(node: NodeContext) -> str:
    """Return the first thing that is wrong with this machine's folders, or "". Raises IndexUnavailableError."""
    return (
        _store_fault(node)
        or (
            _writing_fault(node.documents_dir, "the documents' folder")
            if node.settings.storage.kind == "folder"
            else ""
        )
        or _writing_fault(Path(tempfile.gettempdir()), "the folder for temporary files")
    )


def model_fault(node: NodeContext) -> str:
    """Return why this worker should leave analyses to others: its model does not load, and another worker's answers.

    Where no worker's model answers, the jobs are tried all the same: they end in a report that says so (ADR 0002).
    """
    fresh = node.clock() - MODEL_SEEN
    with node.database.read() as session:
        rows = list(session.scalars(select(ModelServing).where(ModelServing.seen_at >= fresh)))
    # This process's own row says whether the model loads here; the others' whether it does elsewhere.
    is_own = [ProcessIdentity.parse(row.worker) == this_process() for row in rows]
    error = next((row.error for row, own in zip(rows, is_own, strict=True) if own), "")
    others = any(row.device_uid and not row.error for row, own in zip(rows, is_own, strict=True) if not own)
    return f"the model does not load here, and answers on another machine: {error}" if error and others else ""


def _store_fault(node: NodeContext) -> str:
    """A mount that is gone looks like an empty folder, so the files of the newest instances are looked for.

    One that is missing may have been deleted by somebody; only all of them speak of the mount.
    """
    with node.database.read() as session:
        newest = select(Instance.path).order_by(Instance.id.desc()).limit(NEWEST_LOOKED_AT)
        paths = list(session.scalars(newest))
    try:
        if paths and not any(node.store.has(path) for path in paths):
            return (
                f"none of the {len(paths)} newest instances is in the store {node.store.place()}: is it mounted here?"
            )
    except StorageError as error:
        return str(error)
    return ""


def _writing_fault(folder: Path, name: str) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"self-check")
            probe.flush()
            # Without it the write ends in memory, and a full or broken disk shows much later.
            os.fsync(probe.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{name} {folder} cannot be written: {error.strerror or error}"
    return "" if free >= MIN_FREE_BYTES else f"{name} {folder} has only {free // 2**20} MiB free"
