"""Feedback from a table (CSV): every row becomes one word, is known already, or is rejected with line and reason."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.errors import UsageError
from dicom_node.feedback import record as feedback
from dicom_node.feedback.record import Aspect, FeedbackWord, Source
from dicom_node.index.queries import study_by_uid
from dicom_node.index.tables.core import Feedback, Result, Study, Verdict

COLUMNS = (
    "study_instance_uid",
    "accession_number",
    "patient_id",
    "sop_instance_uid",
    "finding",
    "aspect",
    "verdict",
    "value",
    "comment",
    "author",
    "role",
)
"""The columns in docs/feedback.md. Needed: aspect, verdict, author, and a study by UID or by number and patient."""
NEEDED = ("aspect", "verdict", "author")
MAX_BYTES = 64 << 20
DEFAULT_ROLE = "radiologist"


@dataclass(slots=True, kw_only=True)
class TableImport:
    """The outcome of the rows. rejected: (line of the file, reason)."""

    added: int = 0
    known: int = 0
    rejected: list[tuple[int, str]] = field(default_factory=list)


def import_table(session: Session, text: str, *, now: dt.datetime) -> TableImport:
    """Add every good row in the caller's transaction; the same table twice adds nothing. Raises UsageError.

    text: comma or semicolon separated, with a header line. UsageError where the header is not of this form.
    """
    imported = TableImport()
    for line, row in _rows(text):
        try:
            # DictReader keeps surplus fields under the key None, and gives None for missing ones.
            if None in row or any(value is None for value in row.values()):
                raise UsageError("it has more or fewer fields than the header")
            if any("\x00" in value or any("\ud800" <= c <= "\udfff" for c in value) for value in row.values()):
                raise UsageError("a text holds characters that no text may hold")
            if _add(session, {name: value.strip() for name, value in row.items()}, now=now):
                imported.added += 1
            else:
                imported.known += 1
        except UsageError as error:
            imported.rejected.append((line, str(error)))
    return imported


def _rows(text: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    text = text.removeprefix("\ufeff")
    head = text.split("\n", 1)[0]
    # Spreadsheets write semicolons where the comma is the decimal sign.
    separator = ";" if head.count(";") > head.count(",") else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    names = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    unknown = sorted(set(names) - set(COLUMNS))
    if unknown or len(set(names)) != len(names):
        raise UsageError(f"unknown or double columns: {', '.join(unknown) or names}; allowed: {', '.join(COLUMNS)}")
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise UsageError(f"columns are missing: {', '.join(missing)}")
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UsageError(f"line {reader.line_num}: no CSV: {error}") from error


def _add(session: Session, row: Mapping[str, str], *, now: dt.datetime) -> bool:
    """Add the word of one row; False if it is known. Raises UsageError naming what is wrong with the row."""
    word = _word(row)
    feedback.check(word)
    result, study = _result(session, row)
    stated = feedback.value_in_result(result, word.finding, word.aspect)
    if word.verdict is not Verdict.CORRECT and not stated:
        raise UsageError(f'the result says nothing of {word.finding} {word.aspect}: only "correct" is possible')
    author, role = row["author"], row.get("role") or DEFAULT_ROLE
    if not author or len(author) > 255 or len(role) > 64:
        raise UsageError("author has 1 to 255 characters, role at most 64")
    newest = session.scalars(
        select(Feedback)
        .where(Feedback.study_instance_uid == study.study_instance_uid, Feedback.withdrawn_at.is_(None))
        .where(Feedback.sop_instance_uid == result.sop_instance_uid, Feedback.finding == word.finding)
        .where(Feedback.aspect == word.aspect, Feedback.author == author, Feedback.source == Source.CSV)
        .order_by(Feedback.id.desc())
    ).first()
    # The same file given twice adds nothing; a changed word is a new one.
    same = newest is not None and (newest.verdict, newest.value, newest.comment, newest.stated) == (
        *(word.verdict, word.value, word.comment, stated),
    )
    if same:
        return False
    feedback.record(session, result, study, word, author=author, role=role, source=Source.CSV, now=now)
    return True


def _word(row: Mapping[str, str]) -> FeedbackWord:
    try:
        aspect, verdict = Aspect(row["aspect"].lower()), Verdict(row["verdict"].lower())
    except ValueError as error:
        raise UsageError(
            f"{error}; aspect is one of {', '.join(Aspect)}, verdict one of {', '.join(Verdict)}"
        ) from error
    return FeedbackWord(
        finding=row.get("finding", ""),
        aspect=aspect,
        verdict=verdict,
        value=row.get("value", ""),
        comment=row.get("comment", ""),
    )


def _result(session: Session, row: Mapping[str, str]) -> tuple[Result, Study]:
    """The one current result that the row is on."""
    uid, number, patient = (row.get(name, "") for name in ("study_instance_uid", "accession_number", "patient_id"))
    if uid:
        study = study_by_uid(session, uid)
        if study is None:
            raise UsageError(f"no study {uid}")
        if patient and study.patient_id and patient != study.patient_id:
            raise UsageError("the study is another patient's")
    # An accession number is unique within one department at best: without a patient it proves nothing.
    elif number and patient:
        studies = session.scalars(
            select(Study).where(Study.accession_number == number, Study.patient_id == patient)
        ).all()
        if len(studies) != 1:
            raise UsageError(f"{len(studies) or 'no'} studies have this accession number and patient")
        study = studies[0]
    else:
        raise UsageError("a study_instance_uid is needed, or an accession_number with a patient_id")
    results = [result for result in study.results if result.is_current]
    image = row.get("sop_instance_uid", "")
    if image:
        results = [result for result in results if result.sop_instance_uid == image]
    if len(results) != 1:
        raise UsageError(f"{len(results) or 'no'} current results fit; where there are several, name sop_instance_uid")
    return results[0], study
