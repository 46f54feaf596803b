"""Fast writing of data sets that this node makes: Explicit VR Little Endian, UTF-8, the same bytes as pydicom's.

pydicom's writer resolves ambiguous VRs, character sets and transfer syntaxes for every element. A report has hundreds
of nested items and needs none of that, so the recursion below takes about a tenth of the time. What it does not know
it leaves to pydicom.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, MutableSequence
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from typing import Any, Final

from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.uid import ExplicitVRLittleEndian

_UTF_8: Final = "ISO_IR 192"
_TEXT: Final = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)
_BINARY: Final = frozenset({"OB", "OW", "UN"})
_NUMBERS: Final[Mapping[str, str]] = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_LONG: Final = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
"""VRs with two reserved bytes and a length of four (PS3.5 section 7.1.2)."""
KEPT_ENCODING: Final = "kept_encoding"
"""The attribute of an item that `keep_encoding` was called for."""
_ITEM: Final = b"\xfe\xff\x00\xe0"
_MAX_SHORT_LENGTH: Final = 0xFFFF
_SHORT_LENGTH: Final = struct.Struct("<H")
_LONG_LENGTH: Final = struct.Struct("<I")


class _UnknownFormError(Exception):
    """The data set holds something that only pydicom writes."""


def part10_bytes(dataset: Dataset) -> bytes:
    """Encode a data set with its `file_meta` as a Part 10 file (PS3.10 section 7.1)."""
    header = BytesIO()
    body = b""
    if dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian and dataset.get("SpecificCharacterSet") == _UTF_8:
        try:
            body = b"".join(_elements(dataset))
        except _UnknownFormError:
            body = b""
    if not body:
        dataset.save_as(header, enforce_file_format=True)
        return header.getvalue()
    # pydicom writes preamble and File Meta Information; the data set behind them is already encoded.
    bare = Dataset()
    bare.file_meta = dataset.file_meta
    bare.save_as(header, enforce_file_format=True)
    return header.getvalue() + body


def _elements(dataset: Dataset) -> Iterable[bytes]:
    # The values as they lie in the data set: its own look-up of each tag takes as long as all the rest.
    for element in sorted(dataset.values(), key=_number_of):
        yield _element(element if isinstance(element, DataElement) else dataset[element.tag])


def _number_of(element: DataElement | RawDataElement) -> int:
    """The tag as a plain number: pydicom's own compares in Python."""
    return int(element.tag)


def _element(element: DataElement) -> bytes:
    vr = element.VR
    value = _ENCODERS.get(vr, _unknown)(element.value, vr)
    head = _head(int(element.tag), vr)
    if vr in _LONG:
        return head + _LONG_LENGTH.pack(len(value)) + value
    if len(value) > _MAX_SHORT_LENGTH:
        raise _UnknownFormError
    return head + _SHORT_LENGTH.pack(len(value)) + value


@lru_cache(maxsize=1024)
def _head(tag: int, vr: str) -> bytes:
    """Tag and VR, and the reserved bytes of a VR that has them."""
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode("ascii") + (b"\0\0" if vr in _LONG else b"")


def _unknown(_value: object, _vr: str) -> bytes:
    raise _UnknownFormError


def keep_encoding(item: Dataset) -> None:
    """Encode an item that will never be changed, so that writing the documents which share it need not."""
    with suppress(_UnknownFormError):
        # With the item that it is of: a copy takes the attribute along, and may then be changed.
        item.__dict__[KEPT_ENCODING] = (id(item), b"".join(_elements(item)))


def _content(item: Dataset) -> bytes:
    owner, content = item.__dict__.get(KEPT_ENCODING, (0, b""))
    return content if owner == id(item) else b"".join(_elements(item))


def _sequence(value: Any, _vr: str) -> bytes:
    parts = []
    for item in value or ():
        content = _content(item)
        parts.append(_ITEM + _LONG_LENGTH.pack(len(content)) + content)
    return b"".join(parts)


def _text(value: Any, vr: str) -> bytes:
    if value is None:
        return b""
    values = value if isinstance(value, MutableSequence | tuple) else [value]  # a PersonName can be iterated too
    encoded = "\\".join(map(str, values)).encode()
    if len(encoded) % 2:
        encoded += b"\0" if vr == "UI" else b" "
    return encoded


def _numbers(value: Any, vr: str) -> bytes:
    if value is None:
        return b""
    values = list(value) if isinstance(value, MutableSequence | tuple) else [value]
    return struct.pack(f"<{len(values)}{_NUMBERS[vr]}", *values)


def _binary(value: Any, _vr: str) -> bytes:
    if not isinstance(value, bytes | None):
        raise _UnknownFormError  # a buffer that pydicom reads from
    content = value or b""
    return content + b"\0" * (len(content) % 2)


_ENCODERS: Final[Mapping[str, Callable[[Any, str], bytes]]] = {
    "SQ": _sequence,
    **dict.fromkeys(_TEXT, _text),
    **dict.fromkeys(_NUMBERS, _numbers),
    **dict.fromkeys(_BINARY, _binary),
}
