"""`dicom-node import`: a folder of DICOM files becomes instances of the index, as if a peer had sent them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from sqlalchemy import select

from dicom_node.context import NodeContext
from dicom_node.dicom.header import HEADER_BYTES, LONG_HEADER_BYTES, InstanceHeader, read_header
from dicom_node.dicom.part10 import FileMeta, read_meta
from dicom_node.dicom.read import guess_transfer_syntax
from dicom_node.dicom.sop_classes import storage_classes
from dicom_node.dicom.uids import is_uid
from dicom_node.errors import StorageError, UnreadableObjectError
from dicom_node.index.tables.core import Instance, StudyPurpose
from dicom_node.studies.received_instance import ReceivedInstance
from dicom_node.studies.register import Registered, register_instance


class ImportOutcome(StrEnum):
    """The outcome of one file."""

    NEW = "new"
    """Stored and indexed."""
    THERE = "already there"
    """The index holds the instance; what makes an interrupted import resumable."""
    NOT_DICOM = "not a DICOM file"
    NO_SYNTAX = "no transfer syntax, and its pixel data are compressed"
    """The file does not tell its compression."""
    NOT_WANTED = "SOP class not wanted"
    """[receive] sop_classes leaves it out."""
    BAD_UID = "a UID that is not a UID"
    CONFLICT = "other content under the same UID"
    """Left where it is: nothing is overwritten."""
    UNREADABLE = "cannot be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The number of files by outcome, and the names of those that need a look."""

    counts: Counter[ImportOutcome] = field(default_factory=Counter)
    trouble: list[tuple[Path, ImportOutcome]] = field(default_factory=list)
    passed_over: list[tuple[Path, ImportOutcome]] = field(default_factory=list)
    """Files that are not DICOM, or of a class that is not wanted: named, but no failure."""


_TROUBLE = frozenset({ImportOutcome.BAD_UID, ImportOutcome.CONFLICT, ImportOutcome.NO_SYNTAX, ImportOutcome.UNREADABLE})


def files_below(folder: Path) -> list[Path]:
    """All files below `folder`, in a stable order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def import_files(
    files: list[Path], node: NodeContext, *, purpose: StudyPurpose
) -> Iterator[tuple[Path, ImportOutcome]]:
    """Take the files one by one, each durable and committed before the next; yields what became of each.

    purpose: PRIOR for comparison material, ROUTED for studies that are to be analysed. A file that was taken
    before is only looked up, so an import that was interrupted goes on where it ended. Raises StorageError where the
    store cannot take any more.
    """
    sop_classes = storage_classes(node.settings.receive.sop_classes)
    for path in files:
        yield path, _take(path, node, sop_classes, purpose)


def summary(taken: Iterator[tuple[Path, ImportOutcome]]) -> Imported:
    """Count everything and keep the names of what needs a look."""
    result = Imported()
    for path, outcome in taken:
        result.counts[outcome] += 1
        if outcome in _TROUBLE:
            result.trouble.append((path, outcome))
        elif outcome in (ImportOutcome.NOT_DICOM, ImportOutcome.NOT_WANTED):
            result.passed_over.append((path, outcome))
    return result


def _take(path: Path, node: NodeContext, wanted: frozenset[str], purpose: StudyPurpose) -> ImportOutcome:
    try:
        with path.open("rb") as stream:
            given = read_meta(stream)
            meta, header = _complete_meta(given, stream)
    except (StorageError, UnreadableObjectError):
        return ImportOutcome.NOT_DICOM
    except OSError:
        return ImportOutcome.UNREADABLE
    # A guessed transfer syntax does for plain pixels; compressed ones cannot be decoded by a guess.
    if not given.transfer_syntax_uid and header.has_compressed_pixels:
        return ImportOutcome.NO_SYNTAX
    if meta.sop_class_uid not in wanted:
        return ImportOutcome.NOT_WANTED
    uids = (header.sop_instance_uid, header.study_instance_uid, header.series_instance_uid)
    if not all(map(is_uid, uids)):
        return ImportOutcome.BAD_UID
    with node.database.read() as session:
        known = session.scalar(select(Instance.sha256).where(Instance.sop_instance_uid == meta.sop_instance_uid))
    # Known already: compared by its data set before it is stored, so that a second import costs no disk.
    if known is not None:
        return ImportOutcome.THERE if _data_set_sha256(path) == known else ImportOutcome.CONFLICT
    with path.open("rb") as stream:
        read_meta(stream)
        stored = node.store.put(stream, meta)
    received = ReceivedInstance.from_meta(meta, stored, header, calling_ae_title="IMPORT", purpose=purpose)
    with node.database.write() as session:
        registration = register_instance(session, received, now=node.clock())
    # The receiver may have stored the same object meanwhile; the row is of its file then.
    if registration.path != stored.path:
        node.store.delete(stored.path)
    if registration.outcome is Registered.NEW:
        return ImportOutcome.NEW
    return ImportOutcome.THERE if registration.outcome is Registered.DUPLICATE else ImportOutcome.CONFLICT


def _complete_meta(meta: FileMeta, stream: BinaryIO) -> tuple[FileMeta, InstanceHeader]:
    """Complete or correct the File Meta Information from the data set that the stream stands at.

    Raises UnreadableObjectError where the bytes are no data set.
    """
    syntax = meta.transfer_syntax_uid or guess_transfer_syntax(stream)
    if syntax == ImplicitVRLittleEndian and (guessed := guess_transfer_syntax(stream)) == ExplicitVRLittleEndian:
        syntax = guessed  # announced as implicit, written as explicit
    start = stream.read(HEADER_BYTES)
    header = read_header(start, syntax)
    if header.is_cut_short:
        header = read_header(start + stream.read(LONG_HEADER_BYTES), syntax, max_bytes=LONG_HEADER_BYTES)
    if header.elements == 0:
        raise UnreadableObjectError("no element could be read")
    completed = FileMeta(
        sop_class_uid=meta.sop_class_uid or header.sop_class_uid,
        # The index and every reference go by the UID of the object itself.
        sop_instance_uid=header.sop_instance_uid or meta.sop_instance_uid,
        transfer_syntax_uid=syntax,
    )
    return completed, header


def _data_set_sha256(path: Path) -> str:
    """Of the data set's bytes without the Part 10 header, as the index keeps it."""
    with path.open("rb") as stream:
        read_meta(stream)
        return hashlib.file_digest(stream, "sha256").hexdigest()
