"""Patient and study of the images, cleaned on a copy: what is valid is kept, what is not stands empty and is named.

Images come with missing type 2 elements, values that their VR forbids and undeclared character sets. None of that may
stop a result, and none of it may be handed on: PS3.5 section 6.2 says what each value representation allows.
"""

from __future__ import annotations

import datetime as dt
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue

from dicom_node.dicom.uids import is_uid

# What pydicom raises on values that it cannot convert; NotImplementedError and AttributeError come from odd VRs, and
# BytesLengthException stands outside the tree of ValueError.
UNREADABLE = (
    BytesLengthException,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    ArithmeticError,
    RecursionError,
)

MAX_ITEMS = 16
"""More requests than this behind one image are not believed."""

_ONE_VALUED = frozenset({"PatientID", "IssuerOfPatientID", "AccessionNumber", "RequestedProcedureID"})
"""Of several values none is believed: which of them it is nobody said."""
_TIME = re.compile(r"([01]\d|2[0-3])(?:([0-5]\d)(?:([0-5]\d|60)(\.\d{1,6})?)?)?")
_ZONE = re.compile(r"[+-](?:0\d|1[0-4])[0-5]\d")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CleanHeader:
    """elements: only valid Unicode values, type 2 elements empty where there is none. faults: keywords of the rest."""

    elements: Dataset
    faults: tuple[str, ...]


def clean_header(header: Dataset) -> CleanHeader:
    """The patient and study elements that a report carries. Never raises."""
    clean, faults = Dataset(), []
    for keyword, (check, required) in _ELEMENTS.items():
        raw, readable = _raw(header, keyword)
        value = check(raw)
        missing = required and keyword not in header
        # Padding (space, and NUL for UIDs, PS3.5 6.2) is no fault.
        if missing or not readable or value != raw.strip("\0 "):
            faults.append(keyword)
        # Type 2 elements must be there, even empty (PS3.5 7.4.3).
        if value or required:
            setattr(clean, keyword, value)
    requests = _requests(header, clean)
    if requests:
        clean.ReferencedRequestSequence = requests
    issuer = items_of(header, "IssuerOfAccessionNumberSequence")
    if issuer and clean.AccessionNumber and (entity := _entity(issuer[0])):
        clean.IssuerOfAccessionNumberSequence = [entity]
    qualifiers = items_of(header, "IssuerOfPatientIDQualifiersSequence")
    if qualifiers and (entity := _entity(qualifiers[0], local=False)):
        clean.IssuerOfPatientIDQualifiersSequence = [entity]
    return CleanHeader(elements=clean, faults=tuple(faults))


def text_of(header: Dataset, keyword: str, limit: int = 64) -> str:
    """One text element as clean Unicode, "" where there is none or it cannot be read."""
    return _text(limit)(_raw(header, keyword)[0])


def name_text(value: str) -> str:
    """A person name for a page: "family, given"; the ideographic group (PS3.5 section 6.2.1) after it in brackets."""
    # Groups are separated by "=": alphabetic, ideographic, phonetic; their components by "^".
    groups = [[part for part in group.split("^") if part] for group in value.split("=")]
    alphabetic = ", ".join(filter(None, (" ".join(groups[0][:1]), " ".join(groups[0][1:]))))
    ideographic = " ".join(groups[1]) if len(groups) > 1 else ""
    return f"{alphabetic} ({ideographic})" if alphabetic and ideographic else alphabetic or ideographic


def whole_number(header: Dataset, keyword: str) -> int:
    """An element such as Rows, 0 where it is missing or no whole number."""
    value = _raw(header, keyword)[0].strip("\0 ")
    return int(value) if value.isascii() and value.isdigit() else 0


def _raw(header: Dataset, keyword: str) -> tuple[str, bool]:
    """(text, could be read): the element's first value as text, whatever it really is; of `_ONE_VALUED` all of them."""
    if keyword not in header:
        return "", True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of each odd value; we name them in the report instead
            value = header[keyword].value
            if isinstance(value, MultiValue | list):
                if keyword in _ONE_VALUED and len(value) > 1:
                    return "\\".join(map(str, value)), True
                value = value[0] if len(value) else ""
            return ("" if value is None else str(value)), True
    except UNREADABLE:
        stored = header.get_item(tag_for_keyword(keyword) or 0)
        content = getattr(stored, "value", b"")
        return (content.decode("ascii", "replace") if isinstance(content, bytes) else ""), False


def items_of(header: Dataset, keyword: str, limit: int = MAX_ITEMS) -> list[Dataset]:
    """At most `limit` items of a sequence, none where it is missing or no sequence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = header[keyword].value if keyword in header else []
            return [item for item in value if isinstance(item, Dataset)][:limit]
    except UNREADABLE:
        return []


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8: PS3.5 counts characters, but validators and databases count bytes. Not for what
    says who it is: a name or an ID that is legal stays as it is."""
    return text.encode("utf-8")[:limit].decode("utf-8", "ignore")


def _text(limit: int) -> Callable[[str], str]:
    """LO and SH: no backslash, no control characters, at most `limit` characters."""

    def check(value: str) -> str:
        kept = "".join(c for c in value if c != "\\" and c.isprintable() and not 0xD800 <= ord(c) <= 0xDFFF)
        return _cut(kept.strip(" "), limit).rstrip(" ")

    return check


def _identifier(limit: int) -> Callable[[str], str]:
    """LO and SH that say whose or which order's it is: whole or not at all, because a part of it is another one's."""

    def check(value: str) -> str:
        stripped = value.strip("\0 ")
        return stripped if len(stripped) <= limit and _text(4 * limit)(stripped) == stripped else ""

    return check


def _name(value: str) -> str:
    """PN: up to three groups of up to five components, each group at most 64 characters."""
    groups = []
    for group in _text(10_000)(value).split("=")[:3]:
        components = [component.strip(" ") for component in group.split("^")][:5]
        groups.append("^".join(components)[:64].rstrip("^ "))
    return "=".join(groups).rstrip("=")


def _date(value: str) -> str:
    """DA, also in the ACR-NEMA form YYYY.MM.DD; "" for days that no calendar has."""
    day = value.strip("\0 ").replace(".", "")
    if not re.fullmatch(r"[0-9]{8}", day, re.ASCII):
        return ""
    try:
        dt.datetime.strptime(day, "%Y%m%d")  # noqa: DTZ007 - only its validity matters
    except ValueError:
        return ""
    return day


def _time(value: str) -> str:
    """TM, also in the ACR-NEMA form HH:MM:SS."""
    time = value.strip("\0 ").replace(":", "")
    return time if _TIME.fullmatch(time) else ""


def _sex(value: str) -> str:
    """CS of the three values that PS3.3 section C.7.1.1 allows."""
    return value.strip("\0 ") if value.strip("\0 ") in {"M", "F", "O"} else ""


def _zone(value: str) -> str:
    return value.strip("\0 ") if _ZONE.fullmatch(value.strip("\0 ")) else ""


def _requests(header: Dataset, clean: Dataset) -> list[Dataset]:
    """Referenced Request Sequence: the image's own, else its request attributes, else the accession number alone."""
    sources = items_of(header, "ReferencedRequestSequence") or items_of(header, "RequestAttributesSequence")
    if not sources and clean.AccessionNumber:
        sources = [Dataset()]
    requests = []
    for source in sources:
        # An item without a valid Study Instance UID (type 1) cannot be written, and is left out.
        study = _raw(source, "StudyInstanceUID")[0].strip("\0 ") or _raw(header, "StudyInstanceUID")[0].strip("\0 ")
        if not is_uid(study):
            continue
        item = Dataset()
        item.StudyInstanceUID = study
        item.ReferencedStudySequence = []
        item.AccessionNumber = _identifier(16)(_raw(source, "AccessionNumber")[0]) or clean.AccessionNumber
        item.PlacerOrderNumberImagingServiceRequest = _identifier(64)(
            _raw(source, "PlacerOrderNumberImagingServiceRequest")[0]
        )
        item.FillerOrderNumberImagingServiceRequest = _identifier(64)(
            _raw(source, "FillerOrderNumberImagingServiceRequest")[0]
        )
        item.RequestedProcedureID = _identifier(16)(_raw(source, "RequestedProcedureID")[0])
        item.RequestedProcedureDescription = text_of(source, "RequestedProcedureDescription")
        item.RequestedProcedureCodeSequence = _codes(source, "RequestedProcedureCodeSequence")
        requests.append(item)
    return requests


def _codes(source: Dataset, keyword: str) -> list[Dataset]:
    """The first complete code of a code sequence; half of a code says nothing."""
    for code in items_of(source, keyword):
        value, scheme = text_of(code, "CodeValue", 16), text_of(code, "CodingSchemeDesignator", 16)
        meaning = text_of(code, "CodeMeaning")
        if value and scheme and meaning and value == _raw(code, "CodeValue")[0].strip(" "):
            item = Dataset()
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
            return [item]
    return []


def _entity(source: Dataset, *, local: bool = True) -> Dataset | None:
    """HL7v2 Hierarchic Designator Macro (PS3.3 table 10-17); None where it would be empty."""
    item = Dataset()
    if local and (name := text_of(source, "LocalNamespaceEntityID")):
        item.LocalNamespaceEntityID = name
    universal, kind = text_of(source, "UniversalEntityID"), text_of(source, "UniversalEntityIDType", 16)
    # The ID and its type are of use together only (type 1C, PS3.3 table 10-17).
    if universal and kind in {"DNS", "EUI64", "ISO", "URI", "UUID", "X400", "X500"}:
        item.UniversalEntityID, item.UniversalEntityIDType = universal, kind
    return item if len(item) else None


_ELEMENTS: dict[str, tuple[Callable[[str], str], bool]] = {
    "PatientName": (_name, True),
    "PatientID": (_identifier(64), True),
    "IssuerOfPatientID": (_identifier(64), False),
    "PatientBirthDate": (_date, True),
    "PatientSex": (_sex, True),
    "StudyDate": (_date, True),
    "StudyTime": (_time, True),
    "ReferringPhysicianName": (_name, True),
    "StudyID": (_text(16), True),
    "AccessionNumber": (_identifier(16), True),
    "StudyDescription": (_text(64), False),
    "TimezoneOffsetFromUTC": (_zone, False),
}
"""Keyword → (how it is checked, whether the report must have it: PS3.3 type 2)."""
