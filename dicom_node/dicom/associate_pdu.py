"""A-ASSOCIATE PDUs of peers that are newer or sloppier than pynetdicom's decoder, made so that it reads them.

PS3.8 section 9.3 has an acceptor ignore what it does not know; DCMTK and fo-dicom do. pynetdicom aborts: at unknown
items and sub-items, at an Implementation Version Name above 16 characters, at AE titles with NULs, and it raises where
the Maximum Length is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from pynetdicom.pdu import A_ASSOCIATE_AC

FIXED_BYTES: Final = 74
"""PDU header, version, AE titles and reserved bytes, before the variable items."""
_TITLES: Final = ((10, 26), (26, 42))
_KNOWN_ITEMS: Final = frozenset({0x10, 0x20, 0x21, 0x50})
_USER_INFORMATION: Final = 0x50
_KNOWN_SUB_ITEMS: Final = frozenset(range(0x51, 0x5A))
_MAXIMUM_LENGTH, _VERSION_NAME = 0x51, 0x55
_MAX_VERSION_NAME: Final = 16
_DEFAULT_MAXIMUM_LENGTH: Final = 16_384


def normalise_associate_pdu(pdu: bytes) -> bytes:
    """The same A-ASSOCIATE-RQ or -AC with only what pynetdicom decodes; unchanged where its items do not fit."""
    if len(pdu) < FIXED_BYTES:
        return pdu
    head = bytearray(pdu[:FIXED_BYTES])
    for start, end in _TITLES:
        head[start:end] = _title(bytes(head[start:end]))
    try:
        items = b"".join(
            _item(kind, _user_information(value) if kind == _USER_INFORMATION else value)
            for kind, value in _items(pdu[FIXED_BYTES:])
            if kind in _KNOWN_ITEMS
        )
    except ValueError:
        return pdu
    # The PDU length counts from behind itself: six bytes less (PS3.8 9.3.2).
    head[2:6] = struct.pack(">I", FIXED_BYTES - 6 + len(items))
    return bytes(head) + items


def accept_odd_associate_acs() -> None:
    """Have pynetdicom, as requestor, read the A-ASSOCIATE-AC of such peers too. May be called more than once."""
    if A_ASSOCIATE_AC.decode is not _decode_normalised:
        A_ASSOCIATE_AC.decode = _decode_normalised


_decode_as_is: Final = A_ASSOCIATE_AC.decode


def _decode_normalised(self: A_ASSOCIATE_AC, bytestream: bytes) -> None:
    _decode_as_is(self, normalise_associate_pdu(bytestream))


def _user_information(value: bytes) -> bytes:
    sub_items = []
    has_maximum = False
    for kind, content in _items(value):
        if kind not in _KNOWN_SUB_ITEMS or (kind == _VERSION_NAME and not content.strip(b"\x00 ")):
            continue
        has_maximum = has_maximum or kind == _MAXIMUM_LENGTH
        sub_items.append(_item(kind, content[:_MAX_VERSION_NAME] if kind == _VERSION_NAME else content))
    # Some peers leave this sub-item out (Maximum Length, PS3.8 D.1), and pynetdicom asks for it.
    if not has_maximum:
        sub_items.insert(0, _item(_MAXIMUM_LENGTH, struct.pack(">I", _DEFAULT_MAXIMUM_LENGTH)))
    return b"".join(sub_items)


def _title(title: bytes) -> bytes:
    """Printable characters, padded with spaces; a blank title gets a word, because pynetdicom takes none."""
    printable = bytes(byte if 32 <= byte < 127 and byte != 0x5C else 32 for byte in title)
    return printable if printable.strip() else b"UNNAMED".ljust(16)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each item. Raises ValueError where the lengths do not fit."""
    position = 0
    while position < len(data):
        if position + 4 > len(data):
            raise ValueError("an item that is cut off")
        kind, _, length = struct.unpack_from(">BBH", data, position)
        position += 4
        if position + length > len(data):
            raise ValueError("an item that is longer than the PDU")
        yield kind, data[position : position + length]
        position += length


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value
