"""Answers of the index to C-FIND keys: matching (PS3.4 section C.2.2.2) as SQL, rows as identifiers. No network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pydicom import Dataset
from pydicom.multival import MultiValue
from sqlalchemy import ColumnElement, Select, and_, distinct, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from dicom_node.dicom.dates import normalise_date, normalise_time
from dicom_node.index.tables.core import Instance, Series, Study
from dicom_node.receive.text_matching import like_condition, name_condition

MAX_VALUES: Final = 100
"""Of one key; each may become a condition of its own."""
MAX_MATCHES: Final = 5000
"""More answers than that help nobody and hold the index for long."""


class QueryLevel(StrEnum):
    """Levels of both information models; PATIENT only of the patient root."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


class Matching(StrEnum):
    """The kind of matching of a key."""

    EXACT = "exact"
    """UIDs and codes: one value or a list."""
    TEXT = "text"
    """Wildcards * and ?."""
    NAME = "name"
    """A person name: wildcards, any case, any component group."""
    DATE = "date"
    TIME = "time"
    NUMBER = "number"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """One attribute that can be asked for."""

    column: InstrumentedAttribute[Any]
    matching: Matching


_PATIENT: Final[Mapping[str, _Key]] = {
    "PatientID": _Key(column=Study.patient_id, matching=Matching.TEXT),
    "IssuerOfPatientID": _Key(column=Study.issuer_of_patient_id, matching=Matching.TEXT),
    "PatientName": _Key(column=Study.patient_name, matching=Matching.NAME),
    "PatientBirthDate": _Key(column=Study.patient_birth_date, matching=Matching.DATE),
    "PatientSex": _Key(column=Study.patient_sex, matching=Matching.TEXT),
}
_STUDY: Final[Mapping[str, _Key]] = {
    "StudyInstanceUID": _Key(column=Study.study_instance_uid, matching=Matching.EXACT),
    "StudyDate": _Key(column=Study.study_date, matching=Matching.DATE),
    "StudyTime": _Key(column=Study.study_time, matching=Matching.TIME),
    "AccessionNumber": _Key(column=Study.accession_number, matching=Matching.TEXT),
    "StudyID": _Key(column=Study.study_id, matching=Matching.TEXT),
    "StudyDescription": _Key(column=Study.study_description, matching=Matching.TEXT),
}
_SERIES: Final[Mapping[str, _Key]] = {
    "SeriesInstanceUID": _Key(column=Series.series_instance_uid, matching=Matching.EXACT),
    "Modality": _Key(column=Series.modality, matching=Matching.TEXT),
    "SeriesNumber": _Key(column=Series.series_number, matching=Matching.NUMBER),
    "SeriesDescription": _Key(column=Series.series_description, matching=Matching.TEXT),
    "BodyPartExamined": _Key(column=Series.body_part_examined, matching=Matching.TEXT),
}
_IMAGE: Final[Mapping[str, _Key]] = {
    "SOPInstanceUID": _Key(column=Instance.sop_instance_uid, matching=Matching.EXACT),
    "SOPClassUID": _Key(column=Instance.sop_class_uid, matching=Matching.EXACT),
    "InstanceNumber": _Key(column=Instance.instance_number, matching=Matching.NUMBER),
    "Rows": _Key(column=Instance.rows, matching=Matching.NUMBER),
    "Columns": _Key(column=Instance.columns, matching=Matching.NUMBER),
    "ViewPosition": _Key(column=Instance.view_position, matching=Matching.TEXT),
}
_MODALITIES: Final = _Key(column=Series.modality, matching=Matching.TEXT)
"""Of any series of the study; wildcards are allowed (PS3.4 section C.2.2.2.4)."""
KEYS_OF_LEVEL: Final[Mapping[QueryLevel, Mapping[str, _Key]]] = {
    QueryLevel.PATIENT: _PATIENT,
    QueryLevel.STUDY: {**_PATIENT, **_STUDY},
    QueryLevel.SERIES: {**_PATIENT, **_STUDY, **_SERIES},
    QueryLevel.IMAGE: {**_PATIENT, **_STUDY, **_SERIES, **_IMAGE},
}
_UNIQUE: Final[Mapping[QueryLevel, tuple[str, ...]]] = {
    QueryLevel.PATIENT: ("PatientID",),
    QueryLevel.STUDY: ("StudyInstanceUID",),
    QueryLevel.SERIES: ("StudyInstanceUID", "SeriesInstanceUID"),
    QueryLevel.IMAGE: ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
}


class TooManyMatchesError(Exception):
    """More than MAX_MATCHES rows match."""


class BadKeyError(Exception):
    """A key's value cannot be matched by the rules of its attribute. The message names the attribute."""


def find(session: Session, identifier: Dataset, level: QueryLevel) -> Iterator[Dataset]:
    """The identifiers that match, with the attributes asked for. Unknown keys are neither matched nor answered.

    Keys of all levels down to the asked one are matched, as in relational queries (PS3.4 section C.4.1.3.2.1), so no
    unique key of an upper level is needed. Raises TooManyMatchesError, BadKeyError.
    """
    asked = {keyword: key for keyword, key in KEYS_OF_LEVEL[level].items() if keyword in identifier}
    answered = {**asked, **{keyword: KEYS_OF_LEVEL[level][keyword] for keyword in _UNIQUE[level]}}
    statement = _join_tables(answered, level)
    for keyword, key in asked.items():
        condition = _condition(keyword, key, _values(identifier[keyword].value))
        if condition is not None:
            statement = statement.where(condition)
    modalities = _values(identifier["ModalitiesInStudy"].value) if "ModalitiesInStudy" in identifier else []
    # Modality is a CS, which has capital letters only (PS3.5 section 6.2): "dx" would match nothing.
    condition = _condition("ModalitiesInStudy", _MODALITIES, [value.upper() for value in modalities])
    if condition is not None and level is not QueryLevel.PATIENT:
        statement = statement.where(Study.id.in_(select(Series.study_pk).where(condition)))
    # One row more than may be answered says "too many" without counting them all.
    rows = session.execute(statement.limit(MAX_MATCHES + 1)).all()
    if len(rows) > MAX_MATCHES:
        raise TooManyMatchesError
    for row in rows:
        yield _identifier(session, dict(row._mapping), answered, identifier, level)


def _join_tables(answered: Mapping[str, _Key], level: QueryLevel) -> Select[Any]:
    """The rows of the level, with a column per attribute and the primary keys that counts need."""
    columns: list[ColumnElement[Any]] = [key.column.label(keyword) for keyword, key in answered.items()]
    if level is QueryLevel.PATIENT:
        # Patients have no table: each study repeats its patient's attributes, and equal rows are one match.
        return select(*columns).distinct().order_by("PatientID")
    statement = select(*columns, Study.id.label("study_pk"))
    if level is QueryLevel.STUDY:
        return statement.order_by(Study.id)
    statement = statement.add_columns(Series.id.label("series_pk")).join(Series, Series.study_pk == Study.id)
    if level is QueryLevel.SERIES:
        return statement.order_by(Series.id)
    return statement.join(Instance, Instance.series_pk == Series.id).order_by(Instance.id)


def _values(value: Any) -> list[str]:
    """The values of a key as text; [] for universal matching. A NUL inside, which PostgreSQL refuses, stays as "?"."""
    values = list(value) if isinstance(value, MultiValue | list) else [value]
    texts = (str(item).strip("\0 \t\r\n").replace("\0", "?") for item in values if item is not None)
    return [text for text in texts if text]


def _condition(keyword: str, key: _Key, values: Sequence[str]) -> ColumnElement[bool] | None:
    """The SQL of one key, None for universal matching."""
    # An empty value and a lone "*" both ask for every value (universal matching, PS3.4 section C.2.2.2.3).
    if not values or "*" in values:
        return None
    if len(values) > MAX_VALUES:
        raise BadKeyError(keyword)
    column: ColumnElement[Any] = key.column.expression
    if key.matching is Matching.EXACT:
        return column.in_(values)
    if key.matching is Matching.NUMBER:
        try:
            numbers = [int(value) for value in values]
        except ValueError as error:
            raise BadKeyError(keyword) from error
        if not all(-(2**31) <= number < 2**31 for number in numbers):
            raise BadKeyError(
                keyword
            )  # no element holds it (PS3.5 section 6.2, IS), and SQLite refuses more than 64 bits
        return column.in_(numbers)
    if key.matching is Matching.TEXT:
        return or_(*(like_condition(column, value) for value in values))
    if key.matching is Matching.NAME:
        return or_(*(name_condition(column, value) for value in values))
    return _range(keyword, column, values[0], key.matching)


def _range(keyword: str, column: ColumnElement[Any], value: str, matching: Matching) -> ColumnElement[bool]:
    """A single date or time, or a range with an open end (PS3.4 section C.2.2.2.5)."""
    first, dash, last = value.partition("-")
    if matching is Matching.DATE:
        # 2026.01.02 of ACR-NEMA days (PS3.5 section 6.2, DA) is a date too.
        first, last = (normalise_date(text) or text for text in (first, last))
    if matching is Matching.TIME:
        bounds = (normalise_time(first) if first else "", _latest(last if dash else first))
    else:
        bounds = (first, last if dash else first)
    given = (first, last if dash else first)
    for text, bound in zip(given, bounds, strict=True):
        digits = bound.replace(".", "")
        if text and not (digits.isdigit() and (matching is Matching.TIME or len(digits) == 8)):
            raise BadKeyError(keyword)
    lower, upper = bounds
    # An empty text sorts before every date, so a range with an open beginning would take in studies without a date.
    conditions = [column != ""]
    if lower:
        conditions.append(column >= lower)
    if upper:
        conditions.append(column <= upper)
    return and_(*conditions)


def _latest(text: str) -> str:
    """The last instant that a shortened TM can mean: 10 is until 105959.999999."""
    if not text:
        return ""
    if "." in text:
        return normalise_time(text)
    # What is left out is filled up with the end of it: "10" with 59 minutes and 59.999999 seconds.
    return normalise_time((text + "235959"[len(text) :]) + ".999999") if len(text) in (2, 4, 6) else ""


def _identifier(
    session: Session, row: Mapping[str, Any], answered: Mapping[str, _Key], asked: Dataset, level: QueryLevel
) -> Dataset:
    answer = Dataset()
    # The index holds Unicode, whatever character sets the instances came in: UTF-8 can say all of it (PS3.3 section
    # C.12.1.1.2).
    answer.SpecificCharacterSet = "ISO_IR 192"
    answer.QueryRetrieveLevel = level.value
    for keyword in answered:
        value = row[keyword]
        setattr(answer, keyword, "" if value is None else value)
    if level is not QueryLevel.PATIENT:
        _add_counts(session, row, asked, answer)
    return answer


def _add_counts(session: Session, row: Mapping[str, Any], asked: Dataset, answer: Dataset) -> None:
    """The attributes that are counted or collected, each only where it was asked for."""
    of_study = Series.study_pk == row["study_pk"]
    # Each count is a query of its own, and many tools ask for none: what was not asked is not counted.
    if "ModalitiesInStudy" in asked:
        modalities = session.scalars(select(distinct(Series.modality)).where(of_study).order_by(Series.modality))
        answer.ModalitiesInStudy = [modality for modality in modalities if modality]
    if "NumberOfStudyRelatedSeries" in asked:
        answer.NumberOfStudyRelatedSeries = session.scalar(select(func.count(Series.id)).where(of_study)) or 0
    instances = select(func.count(Instance.id)).join(Series, Instance.series_pk == Series.id)
    if "NumberOfStudyRelatedInstances" in asked:
        answer.NumberOfStudyRelatedInstances = session.scalar(instances.where(of_study)) or 0
    if "NumberOfSeriesRelatedInstances" in asked and "series_pk" in row:
        of_series = instances.where(Series.id == row["series_pk"])
        answer.NumberOfSeriesRelatedInstances = session.scalar(of_series) or 0
