"""From the index to what a snapshot holds: labelled images with the prior of service, each in its patient's split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.index.tables.core import Instance, Outcome, Result, Series, Study
from dicom_node.index.tables.retrain import RetrainItem, RetrainPatient, RetrainSplit
from dicom_node.retrain.site_export import ensure_site_key, export_site, pseudonym
from dicom_node.retrain.splits import Assignment, SplitShares, assign
from dicom_node.retrain.types import Contents, Film, Item, RetrainError
from training.readers.site import read_site
from training.records.drops import DataError, DropReport
from training.records.record import Record

_BATCH = 500
"""SQLite takes a limited number of parameters."""


def gather(node: NodeContext, folder: Path) -> Contents:
    """Everything that is labelled now; writes the site export into `folder`. Raises RetrainError, StorageError.

    The export and its reader decide what a label is, so a snapshot says the same as `dicom-node train export`.
    """
    contents, export = Contents(), folder / "site.jsonl"
    report = DropReport()
    export_site(node, export, report)
    _note(contents, report)
    report = DropReport()
    try:
        records = {record.current.image_id: record for record in read_site(export, report)}
    except DataError as error:
        raise RetrainError(str(error)) from error
    _note(contents, report)
    lines = {image["image"]: (image, line) for image, line in _lines(export) if image["image"] in records}
    with node.database.read() as session:
        films, patients = _films(session, node, _describe_lines(lines))
        known = {row.patient: row.split for row in session.scalars(select(RetrainPatient))}
        analysed = _find_analysed_images(session)
        evaluated = _find_evaluated_images(session)
    usable = _usable(contents, lines, films, analysed)
    links = [(patients[uid], patients[image["prior_image"] or uid]) for uid, image in usable.items()]
    section = node.settings.retrain
    shares = SplitShares(
        frozen_patients=section.frozen_patients, frozen=section.frozen_share, validate=section.validate_share
    )
    assigned = assign(links, known, shares)
    old = {patients[uid] for uid in usable} & {p for p, split in known.items() if split is RetrainSplit.FROZEN}
    # A full frozen set takes no new films of its patients: champion and challenger are compared on the same films.
    full = len(old - assigned.conflicts) >= section.frozen_patients
    contents.new_patients = {p: split for p, split in assigned.split.items() if p not in known}
    for uid, image in usable.items():
        patient = patients[uid]
        if not _has_place(contents, uid, patient, assigned, evaluated if full else None):
            continue
        contents.items.append(
            _item(image, lines[uid][1], records[uid], films, patient=patient, split=assigned.split[patient])
        )
    return contents


def _has_place(contents: Contents, uid: str, patient: str, made: Assignment, evaluated: frozenset[str] | None) -> bool:
    """True if the image may be used. evaluated: what the frozen set holds once it is full; None before."""
    if patient in made.conflicts:
        contents.drop("its patient's IDs, known now to be one person's, stand on both sides of the split", uid)
        return False
    frozen = made.split[patient] is RetrainSplit.FROZEN
    if frozen and evaluated is not None and uid not in evaluated:
        contents.drop(
            "new image of a patient of the frozen set, which has its size: neither trained nor judged on", uid
        )
        return False
    return True


def _usable(
    contents: Contents,
    lines: Mapping[str, tuple[dict[str, Any], str]],
    films: Mapping[str, Film],
    analysed: frozenset[str],
) -> dict[str, dict[str, Any]]:
    usable = {}
    for uid, (image, _) in lines.items():
        if uid not in analysed:
            contents.drop("the node gave no answer on it", uid)
        elif uid not in films or (image["prior_image"] and image["prior_image"] not in films):
            contents.drop("film is no longer in the index", uid)
        else:
            usable[uid] = image
    return usable


def _item(
    image: Mapping[str, Any],
    line: str,
    record: Record,
    films: Mapping[str, Film],
    *,
    patient: str,
    split: RetrainSplit,
) -> Item:
    words = json.dumps(image["words"], sort_keys=True, ensure_ascii=False)
    return Item(
        split=split,
        patient=patient,
        current=films[image["image"]],
        prior=films[image["prior_image"]] if image["prior_image"] else None,
        label_version=hashlib.sha256(words.encode()).hexdigest(),
        sources=tuple(sorted({word["source"] for word in image["words"]})),
        findings=tuple(_iterate_taught(record)),
        line=line,
    )


def _iterate_taught(record: Record) -> Iterator[tuple[str, str, str]]:
    for key, truth in record.truth.findings.items():
        if truth.current is not None:
            yield key, "presence", "present" if truth.current.present else "absent"
        if record.truth.has_prior and truth.change_answer is not None:
            yield key, "change", truth.change_answer


def _lines(export: Path) -> Iterator[tuple[dict[str, Any], str]]:
    with export.open(encoding="utf-8") as file:
        next(file)  # the header
        for line in file:
            yield json.loads(line), line


def _describe_lines(lines: Mapping[str, tuple[dict[str, Any], str]]) -> list[str]:
    uids = set(lines) | {image["prior_image"] for image, _ in lines.values() if image["prior_image"]}
    return sorted(uids)


def _films(session: Session, node: NodeContext, uids: list[str]) -> tuple[dict[str, Film], dict[str, str]]:
    """Films by SOP Instance UID, and the pseudonym of each film's patient."""
    key = ensure_site_key(node.settings.node.data_dir)
    films: dict[str, Film] = {}
    patients: dict[str, str] = {}
    for start in range(0, len(uids), _BATCH):
        rows = session.execute(
            select(Instance, Study)
            .join(Series, Instance.series_pk == Series.id)
            .join(Study, Series.study_pk == Study.id)
            .where(Instance.sop_instance_uid.in_(uids[start : start + _BATCH]))
        )
        for instance, study in rows:
            films[instance.sop_instance_uid] = Film(
                sop_instance_uid=instance.sop_instance_uid,
                study_instance_uid=study.study_instance_uid,
                sha256=instance.sha256,
                path=node.store.path(instance.path),
            )
            patients[instance.sop_instance_uid] = pseudonym(study, key)
    return films, patients


def _find_analysed_images(session: Session) -> frozenset[str]:
    answered = (Outcome.COMPARED, Outcome.FINDINGS_ONLY)
    rows: Iterable[str] = session.scalars(
        select(Result.sop_instance_uid).where(Result.is_current, Result.outcome.in_(answered))
    )
    return frozenset(rows)


def _find_evaluated_images(session: Session) -> frozenset[str]:
    frozen = select(RetrainItem.sop_instance_uid).where(RetrainItem.split == RetrainSplit.FROZEN).distinct()
    return frozenset(session.scalars(frozen))


def _note(contents: Contents, report: DropReport) -> None:
    for reason, count in report.dropped.items():
        contents.left_out[reason] += count
        contents.examples.setdefault(reason, []).extend(report.examples.get(reason, []))
