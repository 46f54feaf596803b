"""Recovery at the start of a receiver from what an earlier life left: half-written files, files without a row, rows
without a file. A kill at any instant leaves only these."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.dicom.header import read_header
from dicom_node.dicom.part10 import FileMeta
from dicom_node.dicom.uids import is_uid
from dicom_node.errors import StorageError
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Instance, QuarantineReason
from dicom_node.logs import get_logger
from dicom_node.storage.instance_store import InstanceStore, StoredFile, hash_stored_file
from dicom_node.studies.received_instance import ReceivedInstance
from dicom_node.studies.register import Registered, register_instance
from dicom_node.studies.reopen import quarantine_instance, replace_lost

log = get_logger(__name__)

_T = TypeVar("_T")

_BATCH = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """Counts of what was found and done."""

    orphans_removed: int = 0
    """Half-written files of processes that are gone: nobody was told Success for them."""
    indexed: int = 0
    """Whole files without a row: killed between rename and commit."""
    surplus_removed: int = 0
    """Files without a row whose very bytes the index has in another file that is there."""
    set_apart: int = 0
    """Files without a row that contradict the index, or cannot be indexed: moved to quarantine, for a person."""
    unreadable: int = 0
    """Files without a row that could not be read just now: left where they are."""
    missing: tuple[str, ...] = ()
    """SOPInstanceUIDs of rows whose file is gone: somebody deleted it behind our back."""


def recover(database: Database, store: InstanceStore, *, clock: Callable[[], dt.datetime]) -> Recovered:
    """Bring store and index together. Safe beside running receivers; of several that start at once one does it."""
    with store.recovery() as is_ours:
        return _recover(database, store, clock) if is_ours else Recovered()


def _recover(database: Database, store: InstanceStore, clock: Callable[[], dt.datetime]) -> Recovered:
    orphans = store.remove_orphans(partial(_known_to_index, database))
    without_row, without_file = _differences(database, store)
    counts = Counter(_recover_row(database, store, path, clock()) for path in without_row)
    missing = _still_missing(database, store, without_file)
    recovered = Recovered(
        orphans_removed=orphans,
        indexed=counts[_Ended.INDEXED],
        surplus_removed=counts[_Ended.SURPLUS],
        set_apart=counts[_Ended.SET_APART],
        unreadable=counts[_Ended.UNREADABLE],
        missing=missing,
    )
    if recovered != Recovered():
        numbers = {name: value for name, value in asdict(recovered).items() if name != "missing"}
        log.warning("recovered", **numbers, rows_without_file=len(missing))
    if missing:
        log.error("instances of the index have lost their file", count=len(missing), sop_instance_uids=missing[:20])
    return recovered


def _known_to_index(database: Database, paths: list[str]) -> set[str]:
    with database.read() as session:
        return set(session.scalars(select(Instance.path).where(Instance.path.in_(paths))))


class _Ended(StrEnum):
    """The outcome of a file without a row."""

    INDEXED = "indexed"
    SURPLUS = "surplus"
    SET_APART = "set apart"
    UNREADABLE = "unreadable"


def _differences(database: Database, store: InstanceStore) -> tuple[list[str], list[str]]:
    """(files without a row, rows without a file), by walking both in the order of the path."""
    without_row: list[str] = []
    without_file: list[str] = []
    # A merge of two sorted walks: neither is ever held in memory as a whole.
    rows, files = _iterate_indexed_paths(database), store.iterate_paths()
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


def _iterate_indexed_paths(database: Database) -> Iterator[str]:
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
        # Paging by the last path seen, not by OFFSET: rows that come or go meanwhile shift no page.
        last = paths[-1]


def _recover_row(database: Database, store: InstanceStore, path: str, now: dt.datetime) -> _Ended:
    """Make the row that a kill prevented, or that an older index of a restore lacks.

    A file that was acknowledged is never deleted but for another one with the very same bytes: what cannot be read may
    be readable tomorrow, and what contradicts the index may be right.
    """
    try:
        with store.open(path) as stream:
            meta, stored, head = hash_stored_file(stream, path)
    except (StorageError, OSError) as error:
        log.error("a stored file cannot be read and is left", path=path, why=str(error))
        return _Ended.UNREADABLE
    header = read_header(head, meta.transfer_syntax_uid, max_bytes=len(head))
    if not _is_consistent(meta, header.sop_instance_uid, header.study_instance_uid, header.series_instance_uid):
        detail = "found without a row, and its UIDs are missing or contradict each other"
        return _set_apart(database, store, meta, stored, detail, now)
    with database.write() as session:
        registration = register_instance(session, _instance_of_file(meta, stored, head), now=now)
    # The path decides: a sibling that runs may have committed this very file meanwhile.
    if registration.outcome is Registered.NEW or registration.path == path:
        return _Ended.INDEXED
    if registration.outcome is Registered.DUPLICATE:
        return _adopt_or_delete(database, store, meta, stored, registration.path)
    detail = registration.detail or "found without a row, and the index contradicts it"
    return _set_apart(database, store, meta, stored, detail, now)


def _adopt_or_delete(database: Database, store: InstanceStore, meta: FileMeta, stored: StoredFile, held: str) -> _Ended:
    """Give the row this file where its own is gone; else it is one too many."""

    def run(work: Callable[[Session], _T]) -> _T:
        with database.write() as session:
            return work(session)

    if replace_lost(
        store,
        run,
        lost=held,
        stored=stored,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
    ):
        return _Ended.INDEXED
    store.delete(stored.path)
    return _Ended.SURPLUS


def _set_apart(
    database: Database, store: InstanceStore, meta: FileMeta, stored: StoredFile, detail: str, now: dt.datetime
) -> _Ended:
    """Move a file to quarantine, where a notice tells of it."""
    moved = replace(stored, path=store.quarantine(stored.path))
    with database.write() as session:
        quarantine_instance(
            session,
            reason=QuarantineReason.CONFLICT if is_uid(meta.sop_instance_uid) else QuarantineReason.BAD_UID,
            detail=detail,
            stored=moved,
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            calling_ae_title="RECOVERY",
            address="",
            now=now,
        )
    return _Ended.SET_APART


def _is_consistent(meta: FileMeta, sop_instance_uid: str, study_uid: str, series_uid: str) -> bool:
    return sop_instance_uid == meta.sop_instance_uid and all(map(is_uid, (sop_instance_uid, study_uid, series_uid)))


def _instance_of_file(meta: FileMeta, stored: StoredFile, head: bytes) -> ReceivedInstance:
    header = read_header(head, meta.transfer_syntax_uid, max_bytes=len(head))
    return ReceivedInstance.from_meta(meta, stored, header)


def _still_missing(database: Database, store: InstanceStore, paths: list[str]) -> tuple[str, ...]:
    """SOPInstanceUIDs of rows whose file is really gone (a retention run may have removed both meanwhile)."""
    lost_paths = iter([path for path in paths if not store.has(path)])
    missing: list[str] = []
    while batch := list(islice(lost_paths, 500)):
        with database.read() as session:
            missing += session.scalars(select(Instance.sop_instance_uid).where(Instance.path.in_(batch)))
    return tuple(missing)
