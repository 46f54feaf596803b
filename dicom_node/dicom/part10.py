"""The Part 10 header of a DICOM file (PS3.10 section 7.1): written exactly, read as tolerantly as pydicom reads it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol

from dicom_node.dicom.elements import Element, Encoding, elements
from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.errors import StorageError

_PREAMBLE_BYTES: Final = 132
_MAX_META_BYTES: Final = 64 << 10
"""Of a File Meta Information; private information that makes it longer is read as far as this."""
_EXPLICIT: Final = Encoding(implicit=False)
_GROUP_2_START: Final = (b"\x02\x00\x00\x00", b"\x02\x00\x01\x00", b"\x02\x00\x02\x00")


class ByteSource(Protocol):
    """Anything with `read(n) -> bytes`."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMeta:
    """The elements of a Part 10 header; "" for those that a file of another program leaves out."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def part10_header(meta: FileMeta) -> bytes:
    """Make preamble, prefix and File Meta Information of a file that this node writes."""
    group_2 = b"".join(
        (
            struct.pack("<HH2sHI2s", 0x0002, 0x0001, b"OB", 0, 2, b"\x00\x01"),
            _short_element(0x0002, b"UI", meta.sop_class_uid),
            _short_element(0x0003, b"UI", meta.sop_instance_uid),
            _short_element(0x0010, b"UI", meta.transfer_syntax_uid),
            _short_element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _short_element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
        )
    )
    group_length = struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(group_2))
    return bytes(128) + b"DICM" + group_length + group_2


def read_meta(stream: BinaryIO) -> FileMeta:
    """Read a Part 10 header and leave the stream at the first byte of the data set.

    The group length is not believed: many programs write a wrong one, or none. The elements of group 0002 are walked
    instead. A file without preamble, or without any File Meta Information, is read too, its values then being "".
    Raises StorageError for what begins neither with the prefix DICM nor with an element of group 0002 or 0008.
    """
    start = stream.tell()
    head = stream.read(_PREAMBLE_BYTES + _MAX_META_BYTES)
    if head[128:_PREAMBLE_BYTES] == b"DICM":
        begin = _PREAMBLE_BYTES
    elif head[:4] in _GROUP_2_START or head[:2] == b"\x08\x00" or head[:2] == b"\x00\x08":
        begin = 0
    else:
        raise StorageError("not a DICOM file: neither the prefix DICM nor an element of group 0002 or 0008 is there")
    values: dict[int, str] = {}
    behind = begin
    for element in _group_2(head, begin):
        behind = element.end
        if element.vr == "UI":
            text = head[element.start : element.end].rstrip(b"\x00 ").decode("ascii", "replace")
            # The first one counts, as for every element.
            values.setdefault(element.tag, text)
    stream.seek(start + behind)
    return FileMeta(
        sop_class_uid=values.get(0x00020002, ""),
        sop_instance_uid=values.get(0x00020003, ""),
        transfer_syntax_uid=values.get(0x00020010, ""),
    )


def _group_2(head: bytes, begin: int) -> Iterator[Element]:
    """The whole elements of group 0002 at the start of a file, explicit VR little endian."""
    for element in elements(head, begin, len(head), _EXPLICIT):
        if element.tag >> 16 != 2 or element.end > len(head):
            return
        yield element


def _short_element(element: int, vr: bytes, value: str) -> bytes:
    encoded = value.encode("ascii", "replace")
    if len(encoded) % 2:
        encoded += b"\x00" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, element, vr, len(encoded)) + encoded
