"""Rejection notes: Key Object Selections by which an archive or modality takes instances back (IHE RAD IOCM).

A film that was taken of another person than its header says is corrected in an archive by such a note ("Incorrect
Modality Worklist Entry"), beside which the wrong copy may live on here. So what a note names is neither analysed nor
compared with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import KeyObjectSelectionDocumentStorage

from dicom_node.dicom.part10 import FileMeta
from dicom_node.dicom.read import read_data_set
from dicom_node.errors import UnreadableObjectError

KEY_OBJECTS: Final = str(KeyObjectSelectionDocumentStorage)
TITLES: Final[Mapping[str, str]] = {
    "113001": "for its quality",
    "113037": "for patient safety",
    "113038": "because its worklist entry was wrong",
    "113039": "because its retention ended",
}
"""DCM codes of CID 7011 by which IOCM takes instances back, and why, in words."""


def is_rejection_note(data_set: bytes, meta: FileMeta) -> bool:
    """Tell whether the start of a data set, as its peer encoded it, is that of a rejection note. Never raises."""
    if meta.sop_class_uid != KEY_OBJECTS:
        return False
    try:
        return _why(read_data_set(data_set, meta.transfer_syntax_uid, is_start_only=True)) != ""
    except UnreadableObjectError:
        return False


def withdrawn_by(headers: Iterable[Dataset]) -> dict[tuple[str, str], str]:
    """(StudyInstanceUID, SOPInstanceUID) → why it may not be used, of what the rejection notes among `headers` name.

    A note acts in its own study only: that study's patient is the one that it was checked against on reception.
    """
    reasons: dict[tuple[str, str], str] = {}
    for header in headers:
        if str(header.get("SOPClassUID", "")) == KEY_OBJECTS and (why := _why(header)):
            for uid in _evidence_instances(header):
                reasons[str(header.get("StudyInstanceUID", "")), uid] = f"it was withdrawn {why} (rejection note)"
    return reasons


def _why(header: Dataset) -> str:
    """In words, "" where the document's title is none of `TITLES`."""
    for code in _items(header, "ConceptNameCodeSequence"):
        if str(code.get("CodingSchemeDesignator", "")) == "DCM":
            return TITLES.get(str(code.get("CodeValue", "")), "")
    return ""


def _evidence_instances(header: Dataset) -> Iterator[str]:
    """The instances in the note's evidence, which by PS3.3 section C.17.6.2 are those its content refers to."""
    for study in _items(header, "CurrentRequestedProcedureEvidenceSequence"):
        # A note rejects images of its own study only.
        if study.get("StudyInstanceUID") != header.get("StudyInstanceUID"):
            continue
        for series in _items(study, "ReferencedSeriesSequence"):
            for reference in _items(series, "ReferencedSOPSequence"):
                uid = reference.get("ReferencedSOPInstanceUID", "")
                yield str(uid[0] if isinstance(uid, MultiValue) else uid)


def _items(header: Dataset, keyword: str) -> list[Dataset]:
    value = header.get(keyword)
    return [item for item in value if isinstance(item, Dataset)] if isinstance(value, Iterable) else []
