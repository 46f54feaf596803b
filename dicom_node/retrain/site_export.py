"""The site's own studies with feedback as one file for training, read by `training.readers.site`."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.errors import StorageError
from dicom_node.feedback import consensus as opinions
from dicom_node.feedback.record import Aspect
from dicom_node.index.tables.core import Feedback, Instance, Result, Study, Verdict
from dicom_node.index.tables.models import PairStatistics
from dicom_node.storage.spool import fsync_folder

FORMAT, VERSION = "dicom-node-site", 1
"""The format that docs/site-export.md describes; the reader in `training` refuses any other."""
KEY_NAME = "pseudonym.key"
"""In the data directory: the key of the patients' pseudonyms. It stays on this machine; with it they can be traced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ExportedFilm:
    """An instance as the export names it."""

    path: str
    when: str
    view: str | None


class Counts(Protocol):
    """Counts what is exported and what is not (training.records.drops.DropReport)."""

    def drop(self, reason: str, which: str) -> None:
        """One that is left out, and why."""
        ...

    def keep(self) -> None:
        """One that is written."""
        ...


def export_site(node: NodeContext, target: Path, report: Counts, *, everything: bool = False) -> int:
    """Write every analysed image that somebody has said something of; returns how many. The file appears whole or not.

    everything: also images without feedback (they give no truth, but a snapshot may want them). What cannot be
    exported (film deleted by retention) is counted. Raises StorageError.
    """
    key = ensure_site_key(node.settings.node.data_dir)
    temporary = target.with_name(target.name + ".part")
    count = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(f'{{"format": "{FORMAT}", "version": {VERSION}, "exported_at": "{node.clock().isoformat()}"}}\n')
            with node.database.read() as session:
                for image in _images(session, node, target.parent, key, report, everything=everything):
                    file.write(json.dumps(image, ensure_ascii=False) + "\n")
                    report.keep()
                    count += 1
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        fsync_folder(target.parent)
    except OSError as error:
        raise StorageError(f"the export cannot be written: {error}") from error
    return count


def _images(
    session: Session, node: NodeContext, folder: Path, key: bytes, report: Counts, *, everything: bool
) -> Iterator[dict[str, Any]]:
    rows = session.execute(
        select(Result, Study, PairStatistics.manufacturer)
        .join(Study, Study.id == Result.study_pk)
        # Outer: a result may have no statistics of its images.
        .outerjoin(PairStatistics, PairStatistics.result_pk == Result.id)
        .where(Result.is_current, Result.sop_instance_uid != "")
        .order_by(Result.id)
    )
    for result, study, manufacturer in rows:
        words = _standing_feedback(session, study, result)
        if not words and not everything:
            continue
        current = _film(session, node, folder, result.sop_instance_uid)
        prior = _film(session, node, folder, result.prior_sop_instance_uid) if result.prior_sop_instance_uid else None
        if current is None or (result.prior_sop_instance_uid and prior is None):
            report.drop("film is no longer in the store", result.sop_instance_uid)
            continue
        yield {
            "patient": pseudonym(study, key),
            "study": study.study_instance_uid,
            "image": result.sop_instance_uid,
            "when": current.when,
            "path": current.path,
            "view": current.view,
            "manufacturer": manufacturer or "",
            "prior_image": result.prior_sop_instance_uid if prior else "",
            "prior_path": prior.path if prior else "",
            "prior_when": prior.when if prior else "",
            "prior_view": prior.view if prior else None,
            "said": _statements(result),
            "words": list(_words(words, result, report)),
        }


def _standing_feedback(session: Session, study: Study, result: Result) -> list[Feedback]:
    """Feedback on the image that was not withdrawn."""
    query = select(Feedback).where(
        Feedback.study_instance_uid == study.study_instance_uid,
        Feedback.sop_instance_uid == result.sop_instance_uid,
        Feedback.withdrawn_at.is_(None),
    )
    return list(session.scalars(query))


def _statements(result: Result) -> list[dict[str, Any]]:
    names = ("presence", "probability", "change", "location", "level")
    return [
        {"finding": item["key"], **{name: item.get(name) for name in names}}
        for item in result.prediction.get("findings", [])
    ]


def _words(rows: list[Feedback], result: Result, report: Counts) -> Iterator[dict[str, str]]:
    """The feedback, without what sources contradict each other in (counted, and listed by `feedback list`).

    A word on a whole result counts for that result alone: a later one may state something else. Beside a contradiction
    it is written out for the statements that nobody else spoke of, so that it does not decide what is contested.
    """
    settled = opinions.settle(rows, {result.id: result.prediction})
    contested = {(opinion.finding, opinion.aspect) for opinion in settled if opinion.contradictory}
    for finding, aspect in sorted(contested):
        report.drop("sources contradict each other", f"{result.sop_instance_uid}: {finding} {aspect}")
    for finding, aspect in list(contested):
        if aspect == Aspect.PRESENCE:  # whoever says how it changed says that it is there
            contested |= {(finding, other) for other in opinions.ASPECTS}
    spoken = {(row.finding, row.aspect) for row in rows}
    for row in rows:
        if row.aspect == Aspect.RESULT and row.result_pk != result.id:
            report.drop("word on a whole result that was replaced", row.sop_instance_uid)
        elif row.aspect == Aspect.RESULT and row.verdict is Verdict.AGREE and contested:
            for statement in _statements(result):
                for aspect in opinions.ASPECTS:
                    is_stated = statement["presence"] in ("present", "absent") and statement.get(aspect)
                    if is_stated and (statement["finding"], aspect) not in spoken | contested:
                        yield _word(row, finding=statement["finding"], aspect=aspect, stated=str(statement[aspect]))
        elif (row.finding, row.aspect) not in contested:
            yield _word(row, finding=row.finding, aspect=row.aspect, stated=row.stated)


def _word(row: Feedback, *, finding: str, aspect: str, stated: str) -> dict[str, str]:
    return {
        "finding": finding,
        "aspect": aspect,
        "stated": stated,
        "verdict": row.verdict.value,
        "value": row.value,
        "author": row.author,
        "role": row.role,
        "source": row.source,
        "at": row.created_at.isoformat(),
    }


def _film(session: Session, node: NodeContext, folder: Path, sop_instance_uid: str) -> _ExportedFilm | None:
    instance = session.scalars(select(Instance).where(Instance.sop_instance_uid == sop_instance_uid)).first()
    if instance is None:
        return None
    path = node.store.path(instance.path)
    if not path.is_file():
        return None
    view = instance.view_position if instance.view_position in ("AP", "PA") else None
    return _ExportedFilm(path=os.path.relpath(path, folder), when=instance.acquired_at, view=view)


def pseudonym(study: Study, key: bytes) -> str:
    """A keyed hash of issuer and PatientID; a study without PatientID is a person of its own."""
    # A control character, which neither part can hold: issuer "A" with ID "BC" is not issuer "AB" with ID "C".
    person = f"{study.issuer_of_patient_id}\x1f{study.patient_id}" if study.patient_id else study.study_instance_uid
    return hmac.new(key, person.encode(), hashlib.sha256).hexdigest()[:32]


def ensure_site_key(data_dir: Path) -> bytes:
    """The site's key, made on first use, readable by its owner alone."""
    path = data_dir / KEY_NAME
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        key = secrets.token_bytes(32)
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    return key
