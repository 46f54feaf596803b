"""Locking a snapshot: its studies are held, every image is hashed again, files and rows say the same.

Order: holds first (from then on retention leaves the studies alone), then hashes, then files, then the rows. A crash
before the rows leaves holds without a snapshot, which the next run releases.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.dicom.part10 import read_meta
from dicom_node.errors import StorageError
from dicom_node.index.tables.core import Hold
from dicom_node.index.tables.retrain import RetrainItem, RetrainPatient, RetrainSnapshot, RetrainSplit
from dicom_node.index.upsert import insert_if_absent
from dicom_node.logs import get_logger
from dicom_node.retrain.site_export import FORMAT, VERSION
from dicom_node.retrain.types import MANIFEST_FILE, SPLIT_FILES, Contents, Film, Item, RetrainError, folders_of
from dicom_node.storage.spool import fsync_folder

log = get_logger(__name__)

MANIFEST_FORMAT = "dicom-node-snapshot"
MOST_DAMAGED = 0.05
"""A larger share of missing or changed images is no accident: the store needs a look before anything is trained."""

Progress = Callable[[int, int], None]
"""Told (done, of how many)."""


def holder_of(name: str) -> str:
    """Whom the holds of a snapshot are for."""
    return f"snapshot {name}"


def lock(
    node: NodeContext,
    name: str,
    contents: Contents,
    *,
    progress: Progress = lambda done, total: None,
    also: Callable[[Session, RetrainSnapshot], None] = lambda session, snapshot: None,
) -> int:
    """Make the snapshot `name`; returns its key. also: what belongs into the same transaction.

    Raises RetrainError where too many images are damaged.
    """
    folder = folders_of(node).snapshots / name
    with node.database.write() as session:
        _release_orphans(session)
        # First held, then hashed: hashing takes long, and retention must not remove a film meanwhile.
        _hold(session, name, contents.items, node)
    damage = find_damaged((film for item in contents.items for film in films_of(item)), progress=progress)
    _leave_out(contents, damage)
    if damage:
        log.error("images of the snapshot are missing or changed", count=len(damage), images=sorted(damage)[:20])
    manifest = _write(folder, name, contents, node)
    with node.database.write() as session:
        _hold(session, name, contents.items, node, renew=True)
        _assign_patients(session, contents, node)
        snapshot = RetrainSnapshot(
            name=name,
            folder=f"snapshots/{name}",
            manifest_sha256=manifest,
            counts=contents.counts(),
            created_at=node.clock(),
            items=[_row(item) for item in contents.items],
        )
        session.add(snapshot)
        session.flush()
        also(session, snapshot)
        return snapshot.id


def _assign_patients(session: Session, contents: Contents, node: NodeContext) -> None:
    # A patient keeps the split that it was once given, or the frozen set would leak into training.
    known = set(session.scalars(select(RetrainPatient.patient)))
    session.add_all(
        RetrainPatient(patient=patient, split=split, assigned_at=node.clock())
        for patient, split in contents.new_patients.items()
        if patient not in known
    )


def find_damaged(films: Iterable[Film], *, progress: Progress = lambda done, total: None) -> dict[str, str]:
    """SOP Instance UID → what is wrong, for every film whose file is not what the index says. Reads all bytes."""
    unique = {film.sop_instance_uid: film for film in films}
    wrong: dict[str, str] = {}
    for number, (uid, film) in enumerate(unique.items(), start=1):
        problem = _problem(film)
        if problem:
            wrong[uid] = problem
        progress(number, len(unique))
    return wrong


def films_of(item: Item) -> list[Film]:
    """The image and its prior."""
    return [item.current, *([item.prior] if item.prior is not None else [])]


def release(session: Session, name: str) -> int:
    """Let retention have a snapshot's studies again; returns how many holds went."""
    released = session.execute(delete(Hold).where(Hold.holder == holder_of(name)).returning(Hold.id))
    return len(released.all())


def verify_files(folder: Path, manifest_sha256: str) -> None:
    """Raise RetrainError where a file of the snapshot is not the one that was locked."""
    manifest = folder / MANIFEST_FILE
    try:
        content = manifest.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest_sha256:
            raise RetrainError(f"{manifest} was changed since the snapshot was locked")
        files: Mapping[str, str] = json.loads(content)["files"]
        for name, digest in files.items():
            if _sha256(folder / name) != digest:
                raise RetrainError(f"{folder / name} was changed since the snapshot was locked")
    except OSError as error:
        raise RetrainError(f"the snapshot cannot be read: {error}") from error


def _problem(film: Film) -> str:
    try:
        with film.path.open("rb") as stream:
            read_meta(stream)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return "file is missing"
    except (OSError, StorageError) as error:
        return f"file cannot be read ({type(error).__name__})"
    return "" if digest == film.sha256 else "file was changed (other SHA-256 than when it was received)"


def _leave_out(contents: Contents, damage: Mapping[str, str]) -> None:
    kept = []
    for item in contents.items:
        bad = [film.sop_instance_uid for film in films_of(item) if film.sop_instance_uid in damage]
        if bad:
            contents.drop(damage[bad[0]], bad[0])
        else:
            kept.append(item)
    lost = len(contents.items) - len(kept)
    if lost > MOST_DAMAGED * len(contents.items):
        named = ", ".join(f"{uid}: {problem}" for uid, problem in list(damage.items())[:5])
        raise RetrainError(f"{lost} of {len(contents.items)} labelled images are missing or changed: {named}")
    contents.items = kept


def _hold(session: Session, name: str, items: Iterable[Item], node: NodeContext, *, renew: bool = False) -> None:
    """Hold every study of the items; `renew` first lets go of what was left out since."""
    if renew:
        session.execute(delete(Hold).where(Hold.holder == holder_of(name)))
    for study in sorted({film.study_instance_uid for item in items for film in films_of(item)}):
        values = {"study_instance_uid": study, "holder": holder_of(name), "created_at": node.clock()}
        insert_if_absent(session, Hold, values, unique=["study_instance_uid", "holder"])


def _release_orphans(session: Session) -> None:
    """Holds of a snapshot that never came to be: its process died between holding and writing the rows."""
    names = {holder_of(name) for name in session.scalars(select(RetrainSnapshot.name))}
    holders = set(session.scalars(select(Hold.holder).where(Hold.holder.startswith("snapshot ")).distinct()))
    for holder in holders - names:
        session.execute(delete(Hold).where(Hold.holder == holder))
        log.warning("holds of a snapshot that was never finished are released", holder=holder)


def _write(folder: Path, name: str, contents: Contents, node: NodeContext) -> str:
    """The split files and, last, the manifest; the folder appears whole. Returns the manifest's SHA-256."""
    partial = folder.with_name(f"{name}.part")  # beside it: the paths in the exports are relative to the folder
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write_splits(partial, contents, node)
        manifest = {
            "format": MANIFEST_FORMAT,
            "version": 1,
            "name": name,
            "created_at": node.clock().isoformat(),
            "label_rules": f"{FORMAT} {VERSION}",
            "prior_rules": node.settings.priors.model_dump(mode="json"),
            "files": {file: _sha256(partial / file) for file in SPLIT_FILES.values()},
            "counts": contents.counts(),
            "left_out": contents.examples,
            "items": [item.as_json() for item in contents.items],
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        _write_durably(partial / MANIFEST_FILE, text)
        partial.rename(folder)
        fsync_folder(folder.parent)
    except OSError as error:
        raise StorageError(f"the snapshot cannot be written: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def write_splits(folder: Path, contents: Contents, node: NodeContext) -> None:
    """One site export for each split."""
    header = json.dumps({"format": FORMAT, "version": VERSION, "exported_at": node.clock().isoformat()})
    for split in RetrainSplit:
        lines = [header + "\n", *(item.line for item in contents.of(split))]
        _write_durably(folder / SPLIT_FILES[split], "".join(lines))


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _row(item: Item) -> RetrainItem:
    prior = item.prior
    return RetrainItem(
        split=item.split,
        patient=item.patient,
        study_instance_uid=item.current.study_instance_uid,
        sop_instance_uid=item.current.sop_instance_uid,
        sha256=item.current.sha256,
        prior_study_instance_uid=prior.study_instance_uid if prior else "",
        prior_sop_instance_uid=prior.sop_instance_uid if prior else "",
        prior_sha256=prior.sha256 if prior else "",
        label_version=item.label_version,
        label_sources=list(item.sources),
    )
