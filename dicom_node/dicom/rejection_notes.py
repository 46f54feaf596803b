"""Rejection notes: Key Object Selections by which an archive or modality takes instances back (IHE RAD IOCM).

A film that was taken of another person than its header says is corrected in an archive by such a note ("Incorrect
Modality Worklist Entry"), beside which the wrong copy may live on here. So what a note names is neither analysed nor
compared with.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from typing import Final

from pydicom import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.uid import KeyObjectSelectionDocumentStorage

from dicom_node.dicom.part10 import FileMeta, part10_header

KEY_OBJECTS: Final = str(KeyObjectSelectionDocumentStorage)
TITLES: Final[Mapping[str, str]] = {
    "113001": "for its quality",
    "113037": "for patient safety",
    "113038": "because its worklist entry was wrong",
    "113039": "because its retention ended",
}
"""DCM codes of CID 7011 by which IOCM takes instances back, and why, in words."""
_TITLE: Final = 0x0040A043
"""Concept Name Code Sequence; what a note refers to comes behind it and may be long."""
_UNREADABLE = (
    BytesLengthException,
    InvalidDicomError,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    RecursionError,
)


def is_rejection_note(data_set: bytes, meta: FileMeta) -> bool:
    """Whether the start of a data set, as its peer encoded it, is that of a rejection note. Never raises."""
    if meta.sop_class_uid != KEY_OBJECTS:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = BytesIO(part10_header(meta) + data_set)
            return _why(read_partial(file, stop_when=lambda tag, _vr, _length: tag > _TITLE)) != ""
    except _UNREADABLE:
        return False


def withdrawn_by(headers: Iterable[Dataset]) -> dict[str, str]:
    """SOPInstanceUID → why it may not be used, of everything that the rejection notes among `headers` name."""
    found: dict[str, str] = {}
    for header in headers:
        try:
            if str(header.get("SOPClassUID", "")) == KEY_OBJECTS and (why := _why(header)):
                for uid in _named(header):
                    found[uid] = f"it was withdrawn {why} (rejection note)"
        except _UNREADABLE:
            continue
    return found


def _why(header: Dataset) -> str:
    """In words, "" where the document's title is none of `TITLES`."""
    for code in _items(header, "ConceptNameCodeSequence"):
        if str(code.get("CodingSchemeDesignator", "")) == "DCM":
            return TITLES.get(str(code.get("CodeValue", "")), "")
    return ""


def _named(header: Dataset) -> Iterator[str]:
    """What the note's evidence lists, which by PS3.3 section C.17.6.2 is what its content refers to."""
    for study in _items(header, "CurrentRequestedProcedureEvidenceSequence"):
        for series in _items(study, "ReferencedSeriesSequence"):
            for reference in _items(series, "ReferencedSOPSequence"):
                uid = reference.get("ReferencedSOPInstanceUID", "")
                yield str(uid[0] if isinstance(uid, MultiValue) else uid)


def _items(header: Dataset, keyword: str) -> list[Dataset]:
    value = header.get(keyword)
    return [item for item in value if isinstance(item, Dataset)] if isinstance(value, Iterable) else []
