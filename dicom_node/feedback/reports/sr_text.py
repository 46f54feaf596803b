"""A Structured Report of anybody's as plain text with headings, and who wrote it and how final it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from dicom_node.dicom.read import read_object
from dicom_node.dicom.sop_classes import NODE_MODEL
from dicom_node.dicom.uids import is_uid
from dicom_node.errors import ReportError, UnreadableObjectError
from dicom_node.report.patient import UNREADABLE, items_of, text_of
from dicom_node.report.render.sr_tree import MAX_DEPTH
from model.labeller.text.word_list import word_list

MAX_FILE_BYTES = 16 << 20
"""A larger object is no report that somebody wrote."""
MAX_ITEMS = 5000
MAX_TEXT = 100_000
_DEVICE, _PERSON_NAME = ("121007", "121008")
"""DCM codes: observer type "Device", name of the person observer (PS3.16 TID 1002)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportText:
    """The text of a Structured Report, by part.

    text: sections with a heading line each. written: ContentDate and ContentTime as digits. refusal: why it is no
    radiologist's final word, "" where it is one.
    """

    text: str
    author: str
    is_verified: bool
    written: str
    study_instance_uid: str
    accession_number: str
    patient_ids: tuple[tuple[str, str], ...]
    predecessors: tuple[str, ...]
    refusal: str = ""


def read_sr(path: Path) -> ReportText:
    """Read a stored SR. Raises ReportError where the object cannot be read at all."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ReportError(f"a report has at most {MAX_FILE_BYTES >> 20} MiB")
        return sr_text(read_object(path))
    except (UnreadableObjectError, OSError, *UNREADABLE) as error:
        raise ReportError(f"the report cannot be read: {type(error).__name__}: {error}") from error


def sr_text(dataset: Dataset) -> ReportText:
    """The text of an SR (PS3.3 section C.17): TEXT items of the content tree, each under its heading."""
    parts: list[str] = []
    size = 0
    for heading, words in _texts(dataset):
        part = f"{heading.upper()}:\n{words}" if heading else words
        size += len(part)
        # Whole parts only: half a sentence may say the opposite.
        if size > MAX_TEXT:
            break
        parts.append(part)
    verified = text_of(dataset, "VerificationFlag") == "VERIFIED"
    text = "\n\n".join(parts)
    issuer = text_of(dataset, "IssuerOfPatientID")
    patient = text_of(dataset, "PatientID")
    return ReportText(
        text=text,
        author=_author(dataset),
        is_verified=verified,
        written="".join(
            character
            for keyword in ("ContentDate", "ContentTime")
            for character in text_of(dataset, keyword)
            if character.isdigit()
        ),
        study_instance_uid=_uid(text_of(dataset, "StudyInstanceUID")),
        accession_number=text_of(dataset, "AccessionNumber"),
        patient_ids=((patient, issuer),) if patient else (),
        predecessors=tuple(_predecessors(dataset)),
        refusal=_refusal(dataset, text, verified=verified),
    )


def _refusal(dataset: Dataset, text: str, *, verified: bool) -> str:
    """A finished report of a person is wanted; an unverified one is taken until a verified one comes."""
    # Our own report, sent back: a machine that agrees with itself is no radiologist.
    if text_of(dataset, "ManufacturerModelName") == NODE_MODEL or (_is_by_device(dataset) and not verified):
        return "a machine wrote it"
    if text_of(dataset, "CompletionFlag") == "PARTIAL":
        return "it is partial; the complete report is waited for"
    if text_of(dataset, "PreliminaryFlag") == "PRELIMINARY":
        return "it is preliminary; the final report is waited for"
    return "" if text.strip() else "it holds no text"


def _texts(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """(heading, text) of the TEXT items in order. A name that tells of no finding ("History") goes before its place."""
    skipped = word_list().skipped
    # One count for the whole tree, not for each level: nested sequences multiply.
    left = [MAX_ITEMS]

    def walk(item: Dataset, heading: str, depth: int) -> Iterator[tuple[str, str]]:
        for child in items_of(item, "ContentSequence", MAX_ITEMS):
            left[0] -= 1
            if left[0] < 0 or depth > MAX_DEPTH:
                return
            name = _meaning(child)
            below = heading
            if text_of(child, "ValueType") == "TEXT":
                own = name if name.lower() in skipped or not heading else heading
                yield own, _long(child)
            elif text_of(child, "ValueType") == "CONTAINER":
                # What stands under "History" stays history, whatever its own parts are called.
                below = heading if heading.lower() in skipped else name or heading
            yield from walk(child, below, depth + 1)

    for heading, words in walk(dataset, "", 0):
        if words.strip():
            yield _plain(heading), _plain(words)


def _long(item: Dataset) -> str:
    """TextValue with its lines (`text_of` is for short elements)."""
    try:
        return str(item.get("TextValue", "") or "")[:MAX_TEXT]
    except UNREADABLE:
        return ""


def _plain(text: str) -> str:
    """Lines by "\\n", without what databases refuse."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in lines if (c >= " " or c in "\n\t") and not 0xD800 <= ord(c) <= 0xDFFF)


def _meaning(item: Dataset) -> str:
    for code in items_of(item, "ConceptNameCodeSequence", 1):
        return text_of(code, "CodeMeaning")[:40]
    return ""


def _is_by_device(dataset: Dataset) -> bool:
    """Tell whether the observer is a device (TID 1002 row 1) and no person is named beside it."""
    values = {
        text_of(code, "CodeValue")
        for item in items_of(dataset, "ContentSequence", MAX_ITEMS)
        if text_of(item, "RelationshipType") == "HAS OBS CONTEXT" and text_of(item, "ValueType") == "CODE"
        for code in items_of(item, "ConceptCodeSequence", 1)
    }
    return _DEVICE in values and not _author(dataset)


def _author(dataset: Dataset) -> str:
    """The verifying observer, else the author, else the person observer of the content; "" where none is named."""
    for sequence, keyword in (
        ("VerifyingObserverSequence", "VerifyingObserverName"),
        ("AuthorObserverSequence", "PersonName"),
    ):
        for item in items_of(dataset, sequence, 1):
            name = text_of(item, keyword, 255)
            if name:
                return _plain(name)
    for item in items_of(dataset, "ContentSequence", MAX_ITEMS):
        codes = [text_of(code, "CodeValue") for code in items_of(item, "ConceptNameCodeSequence", 1)]
        # TID 1002: observer context, person observer's name (121008, DCM).
        if text_of(item, "ValueType") == "PNAME" and codes == [_PERSON_NAME]:
            return _plain(text_of(item, "PersonName", 255))
    return ""


def _predecessors(dataset: Dataset) -> Iterator[str]:
    """SOPInstanceUIDs of the Predecessor Documents Sequence (PS3.3 table C.17-2)."""
    for study in items_of(dataset, "PredecessorDocumentsSequence", 16):
        for series in items_of(study, "ReferencedSeriesSequence", 16):
            for reference in items_of(series, "ReferencedSOPSequence", 16):
                uid = _uid(text_of(reference, "ReferencedSOPInstanceUID"))
                if uid:
                    yield uid


def _uid(text: str) -> str:
    return text if is_uid(text) else ""
