"""The elements of an encoded data set (PS3.5 section 7), found in one pass without recursion, however odd the peer is.

What DCMTK and pydicom read is read here: sequences written as UN (CP-246, PS3.5 section 6.2.2 note 2), VRs that do not
exist, implicit VR where explicit was announced, elements out of order, stray delimiters. Nothing here raises.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

UNDEFINED: Final = 0xFFFFFFFF
ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
PIXEL_DATA: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Float, Double Float and Pixel Data."""

_LONG_VRS: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_SHORT_VRS: Final = frozenset(
    (
        *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS"),
        *(b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
    )
)
_KNOWN_VRS: Final = _LONG_VRS | _SHORT_VRS
_VR_TEXTS: Final = {vr: vr.decode("ascii") for vr in _KNOWN_VRS}
_TAG_AND_LENGTH: Final = {"<": struct.Struct("<HHI"), ">": struct.Struct(">HHI")}
"""Group, element and the four bytes behind them, by byte order."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encoding of a data set."""

    implicit: bool
    big_endian: bool = False

    @property
    def order(self) -> str:
        """The byte order as `struct` names it."""
        return ">" if self.big_endian else "<"


IMPLICIT: Final = Encoding(implicit=True)


class Element(NamedTuple):
    """One element and where its value lies."""

    tag: int
    vr: str
    """"" in implicit VR."""
    start: int
    end: int
    """Behind the value or, for an undefined length, its delimiter. Past the data's end where the value is cut off."""
    is_undefined: bool
    """True if the length was undefined: a sequence, or encapsulated pixel data."""


Ends = dict[int, int]
"""Where the sequences and items of undefined length end, by where their values begin. To find the end of one is to walk
over all that is nested in it: without the notes of that walk, each level would walk over the same bytes again."""
_MAX_NOTED: Final = 100_000


def elements(data: bytes, start: int, end: int, encoding: Encoding, ends: Ends | None = None) -> Iterator[Element]:
    """The elements between two offsets, those of nested items excepted, as they stand (so perhaps out of order).

    Ends at Pixel Data, after yielding it with an empty value; at an element that is cut off, after yielding it with an
    `end` behind the data; and silently at bytes that cannot be an element.
    """
    position = start
    while position + 8 <= end:
        head = _head(data, position, end, encoding)
        if head is None:
            return
        tag, vr, length, begin = head
        if tag == 0 or tag >> 16 == 0xFFFF:
            return  # padding with zeros, or no data set
        if tag >> 16 == 0xFFFE:
            position = begin  # a delimiter or item that belongs to nothing: DCMTK passes over it too
            continue
        if tag in PIXEL_DATA:
            yield Element(tag, vr, begin, begin, length == UNDEFINED)
            return
        if length == UNDEFINED:
            inner = IMPLICIT if vr == "UN" else encoding
            behind = sequence_end(data, begin, end, inner, ends)
        else:
            behind = begin + length
        yield Element(tag, vr, begin, behind, length == UNDEFINED)
        if behind > end:
            return
        position = behind


def items(data: bytes, element: Element, encoding: Encoding, ends: Ends | None = None) -> Iterator[tuple[int, int]]:
    """(start, end) of the elements of each item of a sequence. Ends at what is no item."""
    position, end = element.start, min(element.end, len(data))
    while position + 8 <= end:
        tag, length = _tag_and_length(data, position, encoding.order)
        position += 8
        # A delimiter ends a sequence of undefined length only; in one with a length it is a writer's mistake, and
        # passed over.
        if tag == SEQUENCE_END and element.is_undefined:
            return
        if tag in (SEQUENCE_END, ITEM_END):
            continue
        if tag != ITEM:
            return
        # An item says its length, or ends at its own delimiter, which must be looked for (PS3.5 7.5.2).
        behind = _item_end(data, position, end, encoding, ends) if length == UNDEFINED else position + length
        yield position, min(behind, end)
        position = behind


def sequence_end(data: bytes, position: int, end: int, encoding: Encoding, ends: Ends | None = None) -> int:
    """The offset behind a sequence of undefined length whose first item is at `position`; past `end` if it has none."""
    return _end_of_level(data, position, end, _Level(False, encoding, position), ends)


def _item_end(data: bytes, position: int, end: int, encoding: Encoding, ends: Ends | None = None) -> int:
    """As `sequence_end`, for an item of undefined length."""
    return _end_of_level(data, position, end, _Level(True, encoding, position), ends)


class _Level(NamedTuple):
    """An open sequence or item of undefined length."""

    is_item: bool
    encoding: Encoding
    start: int


def _end_of_level(data: bytes, position: int, end: int, level: _Level, ends: Ends | None) -> int:
    noted: Ends = {} if ends is None else ends
    behind = noted.get(position)
    if behind is None:
        behind = _skip_levels(data, position, end, [level], noted)
    return behind if behind <= end else max(end, len(data)) + 1


def _skip_levels(data: bytes, position: int, end: int, stack: list[_Level], ends: Ends) -> int:
    """Walk until the stack of open levels is empty, and note where each ended; no recursion, so no depth."""

    def close() -> None:
        level = stack.pop()
        if len(ends) < _MAX_NOTED:
            ends[level.start] = position

    past = max(end, len(data)) + 1
    while stack:
        in_item, encoding, _ = stack[-1]
        if position + 8 > end:
            return past
        if in_item:
            head = _head(data, position, end, encoding)
            if head is None:
                return past
            tag, vr, length, position = head
        else:
            vr = ""
            tag, length = _tag_and_length(data, position, encoding.order)
            position += 8
        if tag == ITEM_END and in_item:
            close()
        elif tag == SEQUENCE_END:
            close()
            if in_item and stack:
                close()  # the item's own delimiter is missing
        elif tag >> 16 == 0xFFFE:
            if length != UNDEFINED:
                position += length
            elif tag == ITEM and not in_item:
                stack.append(_Level(True, encoding, position))
        elif not in_item:
            return past  # an element where an item must be
        elif length == UNDEFINED:
            stack.append(_Level(False, IMPLICIT if vr == "UN" else encoding, position))
        else:
            position += length
    return position if position <= end else past


def _tag_and_length(data: bytes, position: int, order: str) -> tuple[int, int]:
    group, element, length = _TAG_AND_LENGTH[order].unpack_from(data, position)
    return group << 16 | element, length


def _head(data: bytes, position: int, end: int, encoding: Encoding) -> tuple[int, str, int, int] | None:
    """(tag, VR, length, offset of the value) of the element at `position`; None if there is no whole head."""
    tag, long_length = _tag_and_length(data, position, encoding.order)
    vr = data[position + 4 : position + 6]
    if tag >> 16 == 0xFFFE:
        return tag, "", long_length, position + 8
    if encoding.implicit:
        # Announced as implicit, written as explicit: then the VR's letters make a length that no value here can have.
        if vr not in _KNOWN_VRS or long_length == UNDEFINED or position + 8 + long_length <= end:
            return tag, "", long_length, position + 8
    elif vr not in _KNOWN_VRS:
        return _head_of_unknown_vr(data, position, end, encoding, tag, vr)
    if vr not in _LONG_VRS:
        # The length has the last two of the four bytes that were read as one number.
        length = long_length & 0xFFFF if encoding.big_endian else long_length >> 16
        return tag, _VR_TEXTS[vr], length, position + 8
    return _long_head(data, position, end, encoding, tag, _VR_TEXTS[vr])


def _long_head(
    data: bytes, position: int, end: int, encoding: Encoding, tag: int, vr: str
) -> tuple[int, str, int, int] | None:
    """The head of an element whose length has four bytes behind two reserved ones (PS3.5 table 7.1-1)."""
    if position + 12 > end:
        return None
    (length,) = struct.unpack_from(encoding.order + "I", data, position + 8)
    return tag, vr, length, position + 12


def _head_of_unknown_vr(
    data: bytes, position: int, end: int, encoding: Encoding, tag: int, vr: bytes
) -> tuple[int, str, int, int] | None:
    """The head of an element whose VR does not exist, read as DCMTK does; what cannot be a VR means implicit VR.

    Two upper-case letters are a VR of the future, which has a long length; two question marks, or other printable
    characters, were written by software that used a short one.
    """
    if vr.isalpha() and vr.isupper() and data[position + 6 : position + 8] == b"\x00\x00":
        return _long_head(data, position, end, encoding, tag, "UN")
    if all(32 <= byte < 127 for byte in vr):
        (length,) = struct.unpack_from(encoding.order + "H", data, position + 6)
        if position + 8 + length <= end:
            return tag, "UN", length, position + 8
    (long_length,) = struct.unpack_from(encoding.order + "I", data, position + 4)
    if long_length != UNDEFINED and position + 8 + long_length > end:
        return None
    return tag, "", long_length, position + 8
