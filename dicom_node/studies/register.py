"""Writing received instances into the index: study, series and instance rows, idempotent under every repetition."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, cast

from sqlalchemy import Table, bindparam, select, update
from sqlalchemy.orm import Session

from dicom_node.dicom.header import InstanceHeader
from dicom_node.dicom.sop_classes import REPORT_TEXTS, is_image
from dicom_node.index.prepared import PreparedStatement
from dicom_node.index.tables.core import Base, CompletedBy, Document, Instance, Series, Study, StudyPurpose, StudyState
from dicom_node.index.upsert import insert_if_absent
from dicom_node.studies.received_instance import (
    PRIOR,
    REPORT_ONLY,
    ROUTED,
    ReceivedInstance,
    instance_values,
    series_values,
    study_values,
)
from dicom_node.studies.received_reports import note_report
from dicom_node.studies.reopen import reopen_resting_on


class Registered(StrEnum):
    """The outcome of registering an instance."""

    NEW = "new"
    """A row was made; it names the given file."""
    DUPLICATE = "duplicate"
    """The same bytes are there already: success, and the given file is one too many unless the row names it."""
    REPLACED = "replaced"
    """It took the place of a rendition that was fetched as a prior; the row names the given file."""
    CONFLICT = "conflict"
    """Its SOPInstanceUID names other content: quarantine and alarm."""
    MISMATCH = "mismatch"
    """Its study or series belongs to another patient or study in the index: quarantine and alarm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """The outcome, with the name of the file that the row now holds ("" where there is no row)."""

    outcome: Registered
    path: str = ""
    study_pk: int = 0
    detail: str = ""
    disputes: str = ""
    """StudyInstanceUID of what the index holds, where the conflicting object claims it for another patient."""
    replaced: str = ""
    """The file of a fetched rendition that this object replaces; it is not needed after the commit."""


def register_instance(session: Session, received: ReceivedInstance, *, now: dt.datetime) -> Registration:
    """Bring one durable file into the index, in the caller's transaction. May run twice, and in several processes.

    A new image of a study that was complete or analysed re-opens it (tables.StudyState, transition C), unless it came
    as comparison material. Documents and presentation states only mark activity while the study is open. A Structured
    Report that may be a radiologist's gets its row and job in the same transaction. What a study's first object left
    empty of patient and date, a later one fills. A rejection note has every result made anew that rests on its study.
    """
    header = received.header
    # The common case first, an instance of a known series: three statements, built once, for speed.
    place = _place(session, header)
    if place is None or place.series_pk is None:
        # Looked at before anything is made: a duplicate may claim another study.
        known = _find_known(session, received, now)
        if known is not None:
            return known
    if place is None:
        _insert_or_none(session, Study, study_values(received, now))
        place = _place(session, header)
        assert place is not None
    if mismatch := _study_mismatch(place, header):
        return _find_known(session, received, now) or _mismatch(place.study_pk, mismatch)
    if received.is_rejection_note and place.patient_id and header.patient_id != place.patient_id:
        return _mismatch(place.study_pk, "a rejection note that does not name the patient of the study")
    series_pk, series_study_pk = place.series_pk, place.series_study_pk
    if series_pk is None:
        _insert_or_none(session, Series, series_values(place.study_pk, header))
        row = session.execute(_SELECT_SERIES, {"uid": header.series_instance_uid}).one()
        series_pk, series_study_pk = row.id, row.study_pk
    if series_study_pk != place.study_pk:
        why = "its series belongs to another study in the index"
        return _find_known(session, received, now) or _mismatch(place.study_pk, why)
    if _insert_or_none(session, Instance, instance_values(received, series_pk, now)) is None:
        known = _find_known(session, received, now)
        assert known is not None
        return known
    _fill(session, place, header)
    _note_activity(session, place, received, now)
    _act_on_note_or_report(session, received, now)
    return Registration(outcome=Registered.NEW, path=received.stored.path, study_pk=place.study_pk)


def _act_on_note_or_report(session: Session, received: ReceivedInstance, now: dt.datetime) -> None:
    if received.is_rejection_note:
        reopen_resting_on(session, received.header.study_instance_uid, now=now)
    if received.sop_class_uid in REPORT_TEXTS and received.may_teach:
        note_report(session, received.sop_instance_uid, received.header.study_instance_uid, now=now)


def is_own_document(session: Session, sop_instance_uid: str) -> bool:
    """Tell whether this is an object that this node made: the loop guard's question."""
    return bool(_SELECT_DOCUMENT.execute(session, {"uid": sop_instance_uid}))


class _InstancePlace(Protocol):
    """Where an instance belongs: its study's row, and its series' where there is one."""

    study_pk: int
    state: StudyState
    purpose: StudyPurpose
    patient_id: str
    issuer_of_patient_id: str
    patient_birth_date: str
    patient_sex: str
    patient_name: str
    study_date: str
    study_time: str
    accession_number: str
    series_pk: int | None
    series_study_pk: int | None


def _place(session: Session, header: InstanceHeader) -> _InstancePlace | None:
    """The study's row, locked against other receivers, and the series'."""
    uids = {"study_uid": header.study_instance_uid, "series_uid": header.series_instance_uid}
    rows: list[_InstancePlace] = _SELECT_PLACE.execute(session, uids)
    return rows[0] if rows else None


def _find_known(session: Session, received: ReceivedInstance, now: dt.datetime) -> Registration | None:
    """The index's row on this SOPInstanceUID, None where there is none."""
    row = session.execute(_SELECT_KNOWN, {"uid": received.sop_instance_uid}).one_or_none()
    if row is None:
        return None
    mismatch = _study_mismatch(row, received.header)
    same = row.sha256 == received.stored.sha256 and row.transfer_syntax_uid == received.transfer_syntax_uid
    # An archive gives a retrieved image in a syntax and with a header of its own choice: of an image that is being
    # fetched, the same study's UID is all that can be asked for, and that it is no other patient's. What is held stays.
    same_image = row.study_instance_uid == received.header.study_instance_uid and not mismatch
    retrieved = received.purpose == PRIOR and same_image
    comes_anew = row.purpose in _AFTER_ROUTING and received.purpose == ROUTED
    if not same and comes_anew and same_image and received.is_trusted:
        return _replace_rendition(session, row, received, now)
    if same or retrieved:
        if comes_anew and is_image(received.sop_class_uid):
            # Fetched, now sent to us: it is analysed like any other study, known as its images are.
            session.execute(_AFTER_ROUTING[row.purpose], {"pk": row.study_pk, "now": now})
        return Registration(outcome=Registered.DUPLICATE, path=row.path, study_pk=row.study_pk)
    return Registration(
        outcome=Registered.CONFLICT,
        study_pk=row.study_pk,
        detail=f"the index holds other content under this SOPInstanceUID{f'; {mismatch}' if mismatch else ''}",
        disputes=row.study_instance_uid if mismatch else "",
    )


def _replace_rendition(session: Session, row: Any, received: ReceivedInstance, now: dt.datetime) -> Registration:
    """Put the object that a named peer routes in place of the rendition that an archive gave for it earlier."""
    values = instance_values(received, row.series_pk, now)
    for kept in ("series_pk", "sop_instance_uid", "received_at"):
        del values[kept]
    session.execute(update(_instance).where(_instance.c.sop_instance_uid == received.sop_instance_uid).values(**values))
    if is_image(received.sop_class_uid):
        session.execute(_AFTER_ROUTING[row.purpose], {"pk": row.study_pk, "now": now})
    return Registration(
        outcome=Registered.REPLACED, path=received.stored.path, study_pk=row.study_pk, replaced=row.path
    )


def _mismatch(study_pk: int, detail: str) -> Registration:
    return Registration(outcome=Registered.MISMATCH, detail=detail, study_pk=study_pk)


class _Identified(Protocol):
    """A study row's word on whose it is."""

    patient_id: str
    issuer_of_patient_id: str
    patient_birth_date: str


def _study_mismatch(place: _Identified, header: InstanceHeader) -> str:
    """Why an instance cannot be of this study although it says so, or ""."""
    for name in ("patient_id", "issuer_of_patient_id", "patient_birth_date"):
        ours, theirs = getattr(place, name), getattr(header, name)
        if ours and theirs and ours != theirs:
            return f"its {name} differs from that of the study in the index"
    return ""


def _fill(session: Session, place: _InstancePlace, header: InstanceHeader) -> None:
    """A study's first object may be a note or a film typed in by hand: what it left empty a later one says."""
    filled = {name: getattr(header, name) for name in _FILLED if not getattr(place, name)}
    if filled := {name: value for name, value in filled.items() if value}:
        session.execute(update(_study).where(_study.c.id == place.study_pk).values(**filled))


def _note_activity(session: Session, place: _InstancePlace, received: ReceivedInstance, now: dt.datetime) -> None:
    is_open = place.state is StudyState.OPEN
    # A new image of a study that was settled opens it again; one that came as a prior is analysed once it is routed.
    if received.purpose == ROUTED and received.brings_image and not (is_open and place.purpose == ROUTED):
        session.execute(_REOPEN if not is_open else _TAKE_AS_ROUTED, {"pk": place.study_pk, "now": now})
    elif place.purpose == REPORT_ONLY and received.brings_image:
        session.execute(_TAKE_AS_PRIOR, {"pk": place.study_pk, "now": now})
    elif is_open or (received.purpose == ROUTED and received.sop_class_uid not in REPORT_TEXTS):
        _TOUCH_PREPARED.execute(session, {"pk": place.study_pk, "now": now})


_FILLED = (
    *("patient_id", "issuer_of_patient_id", "patient_birth_date", "patient_sex", "patient_name"),
    *("study_date", "study_time", "accession_number"),
)
_study = cast(Table, Study.__table__)
_series = cast(Table, Series.__table__)
_instance = cast(Table, Instance.__table__)
_document = cast(Table, Document.__table__)

_SELECT_PLACE = PreparedStatement(
    select(
        _study.c.id.label("study_pk"),
        *(_study.c.state, _study.c.purpose),
        *(_study.c[name] for name in _FILLED),
        _series.c.id.label("series_pk"),
        _series.c.study_pk.label("series_study_pk"),
    )
    .select_from(_study.outerjoin(_series, _series.c.series_instance_uid == bindparam("series_uid")))
    .where(_study.c.study_instance_uid == bindparam("study_uid"))
    .with_for_update(of=_study)
)
_SELECT_SERIES = select(_series.c.id, _series.c.study_pk).where(_series.c.series_instance_uid == bindparam("uid"))
_SELECT_KNOWN = (
    select(
        *(_instance.c.sha256, _instance.c.transfer_syntax_uid, _instance.c.path, _instance.c.series_pk),
        _series.c.study_pk,
        *(_study.c.purpose, _study.c.study_instance_uid),
        *(_study.c.patient_id, _study.c.issuer_of_patient_id, _study.c.patient_birth_date),
    )
    .select_from(
        _instance.join(_series, _instance.c.series_pk == _series.c.id).join(_study, _series.c.study_pk == _study.c.id)
    )
    .where(_instance.c.sop_instance_uid == bindparam("uid"))
)
_SELECT_DOCUMENT = PreparedStatement(
    select(_document.c.id).where(_document.c.sop_instance_uid == bindparam("uid")).limit(1)
)
_TOUCH = update(_study).where(_study.c.id == bindparam("pk")).values(last_instance_at=bindparam("now"))
_TOUCH_PREPARED = PreparedStatement(_TOUCH)
_TAKE_AS_ROUTED = _TOUCH.values(purpose=ROUTED)
_TAKE_AS_PRIOR = _TOUCH.values(purpose=PRIOR)
_OPENED: Mapping[str, Any] = {"state": StudyState.OPEN, "completed_at": None, "completed_by": CompletedBy.NOTHING}
_PROMOTE = _TAKE_AS_ROUTED.values(opened_at=bindparam("now"), **_OPENED)
_REOPEN = _PROMOTE.values(revision=_study.c.revision + 1)
_AFTER_ROUTING: Mapping[StudyPurpose, Any] = {StudyPurpose.PRIOR: _PROMOTE, StudyPurpose.BACKFILL: _REOPEN}
"""The update of a fetched study once it is sent to this node; one that was analysed already gets another revision."""
_UNIQUE: Mapping[type[Base], tuple[str, ...]] = {
    Study: ("study_instance_uid",),
    Series: ("series_instance_uid",),
    Instance: ("sop_instance_uid",),
}


def _insert_or_none(session: Session, table: type[Base], values: dict[str, Any]) -> int | None:
    """Insert, or leave it where the unique column is taken; returns the new primary key or None."""
    return insert_if_absent(session, table, values, unique=_UNIQUE[table])
