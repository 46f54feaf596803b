"""Writing received instances into the index: study, series and instance rows, idempotent under every repetition."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from dicom_node.header import InstanceHeader
from dicom_node.index.tables import Base, Document, Instance, Quarantine, QuarantineReason, Series, Study, StudyState
from dicom_node.sop_classes import is_image
from dicom_node.store import StoredFile

ROUTED = "routed"
PRIOR = "prior"


class Registered(StrEnum):
    """What became of an instance that was to be registered."""

    NEW = "new"
    """A row was made; it names the given file."""
    DUPLICATE = "duplicate"
    """The same bytes are there already: success, and the given file is one too many unless the row names it."""
    CONFLICT = "conflict"
    """Its SOPInstanceUID names other content: quarantine and alarm."""
    MISMATCH = "mismatch"
    """Its study or series belongs to another patient or study in the index: quarantine and alarm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedInstance:
    """One stored file and what its header says. The UIDs must have passed as UIDs before."""

    stored: StoredFile
    header: InstanceHeader
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str = ""
    purpose: str = ROUTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """The outcome, with the name of the file that the row now holds ("" where there is no row)."""

    outcome: Registered
    path: str = ""
    study_pk: int = 0
    detail: str = ""


def register_instance(session: Session, received: ReceivedInstance, *, now: dt.datetime) -> Registration:
    """Bring one durable file into the index, in the caller's transaction. May run twice, and in several processes.

    A new image of a study that was complete or analysed re-opens it (tables.StudyState, transition C), unless it came
    as comparison material. Documents and presentation states only mark activity while the study is open.
    """
    known = _known(session, received)
    if known is not None:
        _promote(session, known, received, now)
        return known
    study = _study(session, received, now)
    if mismatch := _study_mismatch(study, received.header):
        return Registration(outcome=Registered.MISMATCH, detail=mismatch, study_pk=study.id)
    series_pk = _series(session, study.id, received.header)
    if series_pk is None:
        return Registration(
            outcome=Registered.MISMATCH, detail="its series belongs to another study in the index", study_pk=study.id
        )
    made = _insert_or_none(session, Instance, _instance_values(received, series_pk, now), "sop_instance_uid")
    if made is None:  # another process was faster
        known = _known(session, received)
        assert known is not None
        return known
    _note_activity(session, study, received, now)
    return Registration(outcome=Registered.NEW, path=received.stored.path, study_pk=study.id)


def quarantine_instance(
    session: Session,
    *,
    reason: QuarantineReason,
    detail: str,
    stored: StoredFile,
    sop_class_uid: str,
    sop_instance_uid: str,
    calling_ae_title: str,
    address: str,
    now: dt.datetime,
) -> bool:
    """Note an object that is kept apart. False where the same bytes were noted before: the file is not needed then."""
    known = session.execute(
        update(Quarantine)
        .where(
            Quarantine.sop_instance_uid == sop_instance_uid[:255],
            Quarantine.sha256 == stored.sha256,
            Quarantine.reason == reason,
        )
        .values(times=Quarantine.times + 1, received_at=now)
        .returning(Quarantine.id)
        .execution_options(synchronize_session=False)
    )
    if known.first() is not None:
        return False
    session.add(
        Quarantine(
            reason=reason,
            detail=detail,
            sop_instance_uid=sop_instance_uid[:255],
            sop_class_uid=sop_class_uid[:255],
            path=stored.path,
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
            calling_ae_title=calling_ae_title,
            address=address,
            received_at=now,
        )
    )
    return True


def is_own_document(session: Session, sop_instance_uid: str) -> bool:
    """Whether this is an object that this node made: the loop guard's question."""
    return session.scalar(select(Document.id).where(Document.sop_instance_uid == sop_instance_uid)) is not None


def _known(session: Session, received: ReceivedInstance) -> Registration | None:
    row = session.execute(
        select(
            Instance.sha256,
            Instance.transfer_syntax_uid,
            Instance.path,
            Series.study_pk,
            Study.purpose,
            Study.study_instance_uid,
        )
        .join(Series, Instance.series_pk == Series.id)
        .join(Study, Series.study_pk == Study.id)
        .where(Instance.sop_instance_uid == received.sop_instance_uid)
    ).one_or_none()
    if row is None:
        return None
    same = row.sha256 == received.stored.sha256 and row.transfer_syntax_uid == received.transfer_syntax_uid
    # An archive gives a retrieved image in a syntax and with demographics of its own choice: of an image that came as
    # comparison material, the same study's UID is all that can be asked for.
    retrieved = (
        PRIOR in (row.purpose, received.purpose) and row.study_instance_uid == received.header.study_instance_uid
    )
    if same or retrieved:
        return Registration(outcome=Registered.DUPLICATE, path=row.path, study_pk=row.study_pk)
    return Registration(
        outcome=Registered.CONFLICT,
        study_pk=row.study_pk,
        detail="the index holds other content under this SOPInstanceUID",
    )


def _promote(session: Session, known: Registration, received: ReceivedInstance, now: dt.datetime) -> None:
    """A study that was fetched as a prior is now sent to us: it is analysed like any other, known as its images are."""
    if known.outcome is not Registered.DUPLICATE or received.purpose != ROUTED or not is_image(received.sop_class_uid):
        return
    session.execute(
        update(Study)
        .where(Study.id == known.study_pk, Study.purpose == PRIOR)
        .values(
            purpose=ROUTED,
            state=StudyState.OPEN,
            opened_at=now,
            last_instance_at=now,
            completed_at=None,
            completed_by="",
        )
        .execution_options(synchronize_session=False)
    )


def _study(session: Session, received: ReceivedInstance, now: dt.datetime) -> Study:
    """The study's row, made where it is missing, locked against other receivers."""
    header = received.header
    wanted = select(Study).where(Study.study_instance_uid == header.study_instance_uid).with_for_update()
    study = session.scalar(wanted)
    if study is None:
        _insert_or_none(session, Study, _study_values(received, now), "study_instance_uid")
        study = session.scalar(wanted)
        assert study is not None
    return study


def _series(session: Session, study_pk: int, header: InstanceHeader) -> int | None:
    """The series' primary key, made where it is missing; None where it is another study's."""
    wanted = select(Series.id, Series.study_pk).where(Series.series_instance_uid == header.series_instance_uid)
    row = session.execute(wanted).one_or_none()
    if row is None:
        _insert_or_none(session, Series, _series_values(study_pk, header), "series_instance_uid")
        row = session.execute(wanted).one()
    return row.id if row.study_pk == study_pk else None


def _study_mismatch(study: Study, header: InstanceHeader) -> str:
    """Why an instance cannot be of this study although it says so, or ""."""
    for name in ("patient_id", "issuer_of_patient_id", "patient_birth_date"):
        ours, theirs = getattr(study, name), getattr(header, name)
        if ours and theirs and ours != theirs:
            return f"its {name} differs from that of the study in the index"
    return ""


def _note_activity(session: Session, study: Study, received: ReceivedInstance, now: dt.datetime) -> None:
    values: dict[str, Any] = {"last_instance_at": now}
    if received.purpose == ROUTED:
        if study.state is not StudyState.OPEN and is_image(received.sop_class_uid):
            values |= {
                "state": StudyState.OPEN,
                "revision": Study.revision + 1,
                "opened_at": now,
                "completed_at": None,
                "completed_by": "",
            }
        if study.purpose != ROUTED and is_image(received.sop_class_uid):
            values["purpose"] = ROUTED
    elif study.state is not StudyState.OPEN:
        return
    session.execute(
        update(Study).where(Study.id == study.id).values(**values).execution_options(synchronize_session=False)
    )


def _insert_or_none(session: Session, table: type[Base], values: dict[str, Any], unique: str) -> int | None:
    """Insert, or leave it where the unique column is taken; returns the new primary key or None."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    made = session.execute(
        insert(table).values(**values).on_conflict_do_nothing(index_elements=[unique]).returning(table.__table__.c.id)
    )
    return made.scalar_one_or_none()


def _study_values(received: ReceivedInstance, now: dt.datetime) -> dict[str, Any]:
    header = received.header
    return {
        "study_instance_uid": header.study_instance_uid,
        "patient_id": header.patient_id,
        "issuer_of_patient_id": header.issuer_of_patient_id,
        "patient_name": header.patient_name,
        "patient_birth_date": header.patient_birth_date,
        "patient_sex": header.patient_sex,
        "other_patient_ids": [dict(other) for other in header.other_patient_ids],
        "accession_number": header.accession_number,
        "study_id": header.study_id,
        "study_date": header.study_date,
        "study_time": header.study_time,
        "study_description": header.study_description,
        "first_instance_at": now,
        "last_instance_at": now,
        "calling_ae_title": received.calling_ae_title,
        "purpose": received.purpose,
        "state": StudyState.OPEN,
        "revision": 1,
        "completed_by": "",
    }


def _series_values(study_pk: int, header: InstanceHeader) -> dict[str, Any]:
    return {
        "study_pk": study_pk,
        "series_instance_uid": header.series_instance_uid,
        "modality": header.modality,
        "series_number": header.series_number,
        "series_description": header.series_description,
        "body_part_examined": header.body_part_examined,
    }


def _instance_values(received: ReceivedInstance, series_pk: int, now: dt.datetime) -> dict[str, Any]:
    header = received.header
    return {
        "series_pk": series_pk,
        "sop_instance_uid": received.sop_instance_uid,
        "sop_class_uid": received.sop_class_uid,
        "transfer_syntax_uid": received.transfer_syntax_uid,
        "path": received.stored.path,
        "sha256": received.stored.sha256,
        "size_bytes": received.stored.size_bytes,
        "received_at": now,
        "calling_ae_title": received.calling_ae_title,
        "view_position": header.view_position,
        "presentation_intent_type": header.presentation_intent_type,
        "image_type": header.image_type,
        "rows": header.rows,
        "columns": header.columns,
        "instance_number": header.instance_number,
        "acquired_at": header.acquired_at,
        "pixel_sha256": "",
    }
