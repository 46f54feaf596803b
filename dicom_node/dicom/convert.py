"""Elements to values, each converted at once: one that cannot be costs its own element and nothing more."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Final, cast

from pydicom import Dataset, Sequence
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.filewriter import correct_ambiguous_vr_element
from pydicom.hooks import hooks
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.valuerep import AMBIGUOUS_VR

from dicom_node.dicom.elements import IMPLICIT, PIXEL_DATA, Element, Encoding, Ends, elements, items
from dicom_node.dicom.text import TEXT_VRS, character_sets, decode_text, encodings_that_decode
from dicom_node.errors import UnreadableObjectError

MAX_DEPTH: Final = 32
"""Of nested sequences; content trees of Structured Reports have about ten. A deeper one costs its element."""
MAX_VALUES: Final = 50_000
"""Elements, items and values of multi-valued elements together."""
MAX_VALUE_BYTES: Final = 4 << 20
"""Of one element that is no sequence; a longer one, such as an overlay or a private blob, is left out."""
_CHARACTER_SET: Final = 0x00080005
_STRING_VRS: Final = TEXT_VRS | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UR"}
"""Not UI: a UID with a NUL inside is none, and without it another object's."""


@dataclass(slots=True)
class ReadBudget:
    """The number of elements and values that may still be read."""

    left: int = MAX_VALUES
    ends: Ends = field(default_factory=dict)
    """Where nested sequences of these bytes end, so that no byte is walked over at each of its levels."""

    def spend(self, count: int = 1) -> None:
        """Raise UnreadableObjectError when it is used up."""
        self.left -= count
        if self.left < 0:
            raise UnreadableObjectError(f"it has more than {MAX_VALUES} elements and values")


def convert_values(data_set: Dataset) -> Dataset:
    """Convert every value of a data set that pydicom parsed, such as a C-FIND identifier, and drop what cannot be."""
    budget = ReadBudget()
    with no_warnings():
        return _convert_data_set(data_set, budget, [], 0)


def convert_elements(
    data: bytes, found: list[Element], encoding: Encoding, budget: ReadBudget, declared: list[str], depth: int
) -> Dataset:
    """Elements as a data set with every value converted. declared: the character sets of the data set around it."""
    data_set = Dataset()
    data_set.set_original_encoding(encoding.implicit, not encoding.big_endian)
    # Looked for first: elements may come in any order, and the texts before it need it too.
    for element in found:
        if element.tag == _CHARACTER_SET and not element.is_undefined:
            declared = character_sets(data[element.start : element.end])
            break
    for element in found:
        if element.tag in data_set:
            continue  # the first one counts, as in the index
        converted = _convert_element(data, element, encoding, data_set, budget, declared, depth)
        if converted is not None:
            data_set[element.tag] = converted
    return data_set


def _convert_element(
    data: bytes,
    element: Element,
    encoding: Encoding,
    data_set: Dataset,
    budget: ReadBudget,
    declared: list[str],
    depth: int,
) -> DataElement | None:
    """One element with its value; None for what cannot be converted, nests too deep or is too long."""
    if element.tag in PIXEL_DATA:
        return DataElement(Tag(element.tag), "OW", b"")
    # What a UN of undefined length holds is implicit VR little endian, whatever is around it (PS3.5 section 6.2.2 note
    # 2).
    inner = IMPLICIT if element.vr == "UN" else encoding
    if element.is_undefined or element.vr == "SQ":
        return _sequence(data, element, encoding if element.vr == "SQ" else inner, budget, declared, depth)
    if element.end - element.start > MAX_VALUE_BYTES and element.vr:
        return None
    # One byte more than is allowed, by which `_leaf` sees that the value is too long.
    value = data[element.start : min(element.end, element.start + MAX_VALUE_BYTES + 1)]
    raw = RawDataElement(
        Tag(element.tag),
        element.vr or None,
        len(value),
        value,
        element.start,
        not element.vr,
        not encoding.big_endian,
    )
    if _vr_of(raw, data_set) == "SQ":
        return _sequence(data, element, inner if element.vr else encoding, budget, declared, depth)
    return _leaf(raw, data_set, budget, declared)


def _sequence(
    data: bytes, element: Element, encoding: Encoding, budget: ReadBudget, declared: list[str], depth: int
) -> DataElement | None:
    # A file may nest as deep as it likes; Python's stack may not.
    if depth >= MAX_DEPTH:
        return None
    read = []
    for start, end in items(data, element, encoding, budget.ends):
        # Items and elements cost alike: millions of empty ones would take memory without any value in them.
        budget.spend()
        inner = []
        for inside in elements(data, start, end, encoding, budget.ends):
            budget.spend()
            if inside.end <= end:
                inner.append(inside)
        read.append(convert_elements(data, inner, encoding, budget, declared, depth + 1))
    return DataElement(Tag(element.tag), "SQ", Sequence(read))


def _vr_of(raw: RawDataElement, data_set: Dataset) -> str:
    """The VR as pydicom finds it for implicit VR and UN, from its dictionaries."""
    if raw.VR not in (None, "UN"):
        return str(raw.VR)
    answer: dict[str, str] = {}
    try:
        hooks.raw_element_vr(raw, answer, ds=data_set)
    except Exception:  # noqa: BLE001 (the edge of `_leaf`: what pydicom cannot name stays unknown)
        return "UN"
    return answer["VR"]


def _leaf(raw: RawDataElement, data_set: Dataset, budget: ReadBudget, declared: list[str]) -> DataElement | None:
    value = raw.value or b""
    if len(value) > MAX_VALUE_BYTES:
        return None
    # Counted before pydicom splits it: a megabyte of backslashes would become a million objects.
    budget.spend(value.count(b"\\"))
    vr = _vr_of(raw, data_set)
    if b"\0" in value and vr in _STRING_VRS:
        # The index drops it too, and PostgreSQL refuses every sentence and statistic in which one stands.
        value = value.replace(b"\0", b"")
        raw = raw._replace(value=value, length=len(value))
    encodings = encodings_that_decode(value, declared) if vr in TEXT_VRS else declared or ["iso8859"]
    try:
        converted: Any = convert_raw_data_element(raw, encoding=encodings, ds=data_set)
        if converted.VR in AMBIGUOUS_VR:
            converted = correct_ambiguous_vr_element(converted, data_set, raw.is_little_endian)
        str(converted.value)  # person names are decoded when they are looked at
    except Exception:  # noqa: BLE001 (the edge to a stranger's bytes: what pydicom raises at a value costs that value)
        return None
    return cast(DataElement, converted)


def _convert_data_set(data_set: Dataset, budget: ReadBudget, declared: list[str], depth: int) -> Dataset:
    result = Dataset()
    if (raw := data_set.get_item(_CHARACTER_SET)) is not None:
        value = raw.value
        if not isinstance(value, bytes):
            value = "\\".join([value] if isinstance(value, str) else map(str, value or ())).encode("ascii", "replace")
        declared = character_sets(value)
    for tag in data_set.keys():  # noqa: SIM118 (iterating a data set would convert its values)
        budget.spend()
        element: Any = data_set.get_item(tag)
        if isinstance(element, RawDataElement) and _vr_of(element, data_set) != "SQ":
            converted = _leaf(element, result, budget, declared)
        else:
            converted = _convert_sequence(data_set, tag, budget, declared, depth)
        if converted is not None:
            result[tag] = converted
    return result


def _convert_sequence(
    data_set: Dataset, tag: int, budget: ReadBudget, declared: list[str], depth: int
) -> DataElement | None:
    try:
        element = data_set[tag]
        if element.VR != "SQ":
            return _read_again(element, declared) if element.VR in TEXT_VRS and not declared else element
        inside = list(element.value)
    except Exception:  # noqa: BLE001 (the edge of `_leaf`)
        return None
    if depth >= MAX_DEPTH:
        return None
    return DataElement(
        Tag(tag), "SQ", Sequence([_convert_data_set(item, budget, declared, depth + 1) for item in inside])
    )


def _read_again(element: DataElement, declared: list[str]) -> DataElement:
    """A text that pydicom has read as Latin-1 already, for want of a declared character set, read as here."""
    values = list(element.value) if isinstance(element.value, MultiValue) else [element.value]
    try:
        texts = [decode_text(str(value).encode("latin-1"), declared) for value in values if value is not None]
    except UnicodeError:
        return element  # it was not read as Latin-1
    return DataElement(element.tag, element.VR, texts if isinstance(element.value, MultiValue) else "".join(texts))


def no_warnings() -> warnings.catch_warnings[None]:
    """pydicom warns of each odd value, quoting it; what is odd is dropped here or read as it stands."""
    return warnings.catch_warnings(action="ignore")
