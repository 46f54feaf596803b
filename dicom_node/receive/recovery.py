"""What a receiver does at its start with what an earlier life left: half-written files, files without a row, rows
without a file. A kill at any instant leaves only these."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import select

from dicom_node.dicom.header import HEADER_BYTES, read_header
from dicom_node.dicom.part10 import FileMeta
from dicom_node.dicom.uids import is_uid
from dicom_node.errors import StorageError
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Instance
from dicom_node.logs import get_logger
from dicom_node.storage.instance_store import InstanceStore, StoredFile, hashed
from dicom_node.studies.register import ReceivedInstance, Registered, register_instance
from dicom_node.system.file_lock import FileLock

log = get_logger(__name__)

_BATCH = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What was found and done."""

    orphans_removed: int = 0
    """Half-written files of processes that are gone: nobody was told Success for them."""
    indexed: int = 0
    """Whole files without a row: killed between rename and commit."""
    surplus_removed: int = 0
    """Files without a row that the index has already, or that cannot be indexed."""
    missing: tuple[str, ...] = ()
    """SOPInstanceUIDs of rows whose file is gone: somebody deleted it behind our back."""


def recover(database: Database, store: InstanceStore, *, clock: Callable[[], dt.datetime]) -> Recovered:
    """Bring store and index together. Safe beside running receivers; of several that start at once one does it."""
    store.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock.try_acquire(store.root / "recovery.lock")
    if lock is None:
        return Recovered()
    with lock:
        return _recover(database, store, clock)


def _recover(database: Database, store: InstanceStore, clock: Callable[[], dt.datetime]) -> Recovered:
    orphans = store.remove_orphans()
    without_row, without_file = _differences(database, store)
    indexed = surplus = 0
    for path in without_row:
        if _reindex(database, store, path, clock()):
            indexed += 1
        else:
            store.delete(path)
            surplus += 1
    missing = _still_missing(database, store, without_file)
    found = Recovered(orphans_removed=orphans, indexed=indexed, surplus_removed=surplus, missing=missing)
    if found != Recovered():
        log.warning(
            "recovered",
            orphans_removed=orphans,
            indexed=indexed,
            surplus_removed=surplus,
            rows_without_file=len(missing),
        )
    if missing:
        log.error("instances of the index have lost their file", count=len(missing), sop_instance_uids=missing[:20])
    return found


def _differences(database: Database, store: InstanceStore) -> tuple[list[str], list[str]]:
    """(files without a row, rows without a file), by walking both in the order of the path."""
    without_row: list[str] = []
    without_file: list[str] = []
    rows, files = _indexed_paths(database), store.stored_paths()
    row, file = next(rows, None), next(files, None)
    while row is not None or file is not None:
        if row == file:
            row, file = next(rows, None), next(files, None)
        elif row is None or (file is not None and file < row):
            assert file is not None
            without_row.append(file)
            file = next(files, None)
        else:
            without_file.append(row)
            row = next(rows, None)
    return without_row, without_file


def _indexed_paths(database: Database) -> Iterator[str]:
    """All paths of the index in order, without holding a transaction open over the walk."""
    last = ""
    while True:
        with database.read() as session:
            paths = list(
                session.scalars(select(Instance.path).where(Instance.path > last).order_by(Instance.path).limit(_BATCH))
            )
        yield from paths
        if len(paths) < _BATCH:
            return
        last = paths[-1]


def _reindex(database: Database, store: InstanceStore, path: str, now: dt.datetime) -> bool:
    """Make the row that a kill prevented; False where the file is not needed or not fit for the index."""
    try:
        with store.open(path) as stream:
            meta, stored, head = hashed(stream, path)
    except StorageError as error:
        log.error("a stored file cannot be read", path=path, why=str(error))
        return False
    header = read_header(head, meta.transfer_syntax_uid)
    if not _is_consistent(meta, header.sop_instance_uid, header.study_instance_uid, header.series_instance_uid):
        return False
    with database.write() as session:
        registration = register_instance(session, _received(meta, stored, head), now=now)
    # The path decides: a sibling that runs may have committed this very file meanwhile.
    return registration.outcome is Registered.NEW or registration.path == path


def _is_consistent(meta: FileMeta, sop_instance_uid: str, study_uid: str, series_uid: str) -> bool:
    return sop_instance_uid == meta.sop_instance_uid and all(map(is_uid, (sop_instance_uid, study_uid, series_uid)))


def _received(meta: FileMeta, stored: StoredFile, head: bytes) -> ReceivedInstance:
    return ReceivedInstance(
        stored=stored,
        header=read_header(head[:HEADER_BYTES], meta.transfer_syntax_uid),
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
    )


def _still_missing(database: Database, store: InstanceStore, paths: list[str]) -> tuple[str, ...]:
    """SOPInstanceUIDs of rows whose file is really gone (a retention run may have removed both meanwhile)."""
    gone = iter([path for path in paths if not store.path(path).exists()])
    missing: list[str] = []
    while batch := list(islice(gone, 500)):
        with database.read() as session:
            missing += session.scalars(select(Instance.sop_instance_uid).where(Instance.path.in_(batch)))
    return tuple(missing)
