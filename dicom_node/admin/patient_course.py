"""One line for each finding over a patient's films: what the current results of one checkpoint say, oldest first."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.admin.degrees import degree_word
from dicom_node.admin.formats import presence_word
from dicom_node.index.tables.core import Result, Study

MAX_STUDIES = 12
"""Of a patient, the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoursePlace:
    """The word of one study on a finding. seen: as in result.json, "" where it says nothing; word: seen, for people."""

    study_instance_uid: str
    study_date: str
    study_time: str
    seen: str
    word: str
    level: str
    change: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseRow:
    """A finding that was seen on at least one film, with its place in each study, oldest first."""

    name: str
    places: tuple[CoursePlace, ...]


def patient_course(session: Session, study: Study, device_uid: str) -> tuple[CourseRow, ...]:
    """The findings of a patient's studies by one checkpoint; none for fewer than two studies or without an ID.

    Of several images of a study the result that was stored first counts, as it does in the work list.
    """
    if not study.patient_id or not device_uid:
        return ()
    rows = session.execute(
        select(Study, Result.prediction)
        .join(Result, Result.study_pk == Study.id)
        .where(
            Study.patient_id == study.patient_id,
            Study.issuer_of_patient_id == study.issuer_of_patient_id,
            Result.is_current,
            Result.device_uid == device_uid,
        )
        .order_by(Study.study_date.desc(), Study.study_time.desc(), Study.id.desc(), Result.id)
    ).all()
    newest: dict[int, tuple[Study, dict[str, dict[str, object]]]] = {}
    for of, prediction in rows:
        findings = prediction.get("findings") or []
        if findings and (of.id in newest or len(newest) < MAX_STUDIES):
            # Rows of one study come by result id, so the result that was stored first stays.
            newest.setdefault(of.id, (of, {str(finding["key"]): finding for finding in findings}))
    films = list(newest.values())[::-1]
    if len(films) < 2:
        return ()
    keys = dict.fromkeys(key for _, by_key in films for key, finding in by_key.items() if finding.get("seen") == "seen")
    names = {key: str(by_key[key]["name"]) for _, by_key in films for key in keys if key in by_key}
    return tuple(
        CourseRow(name=names[key], places=tuple(_place(of, by_key.get(key, {})) for of, by_key in films))
        for key in keys
    )


def _place(study: Study, said: dict[str, object]) -> CoursePlace:
    return CoursePlace(
        study_instance_uid=study.study_instance_uid,
        study_date=study.study_date,
        study_time=study.study_time,
        seen=str(said.get("seen") or ""),
        word=presence_word(said) if said.get("seen") else "",
        level=degree_word(said),
        change=str(said.get("change") or ""),
    )
