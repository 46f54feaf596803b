"""The Part 10 header of a DICOM file (PS3.10 section 7.1): write it, and read it without touching the data set."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.errors import StorageError

_MAX_META_BYTES: Final = 1 << 20
"""At most this much File Meta Information is read: its group length comes from the peer."""


class ByteSource(Protocol):
    """Anything with `read(n) -> bytes`."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMeta:
    """What the Part 10 header says (PS3.10 section 7.1)."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def part10_header(meta: FileMeta) -> bytes:
    """Preamble, prefix and File Meta Information of a file that we write (PS3.10 section 7.1)."""
    elements = b"".join(
        (
            struct.pack("<HH2sHI2s", 0x0002, 0x0001, b"OB", 0, 2, b"\x00\x01"),
            _short_element(0x0002, b"UI", meta.sop_class_uid),
            _short_element(0x0003, b"UI", meta.sop_instance_uid),
            _short_element(0x0010, b"UI", meta.transfer_syntax_uid),
            _short_element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _short_element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
        )
    )
    group_length = struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(elements))
    return bytes(128) + b"DICM" + group_length + elements


def read_meta(stream: ByteSource) -> FileMeta:
    """Read a Part 10 header and leave the stream at the first byte of the data set. Raises StorageError."""
    start = stream.read(132)
    if start[128:] != b"DICM":
        raise StorageError("not a DICOM file: the prefix DICM is missing")
    first = stream.read(12)
    if len(first) < 12 or first[:6] != b"\x02\x00\x00\x00UL":
        raise StorageError("not a DICOM file: the File Meta Information has no group length")
    elements = stream.read(min(int.from_bytes(first[8:12], "little"), _MAX_META_BYTES))
    values = dict(_meta_elements(elements))
    try:
        return FileMeta(
            sop_class_uid=values[0x0002], sop_instance_uid=values[0x0003], transfer_syntax_uid=values[0x0010]
        )
    except KeyError as error:
        raise StorageError(f"the File Meta Information lacks (0002,{error.args[0]:04X})") from error


def _meta_elements(data: bytes) -> Iterator[tuple[int, str]]:
    """The UI elements of group 0002 by element number, explicit VR little endian."""
    position = 0
    while position + 8 <= len(data):
        _, element, vr, length = struct.unpack_from("<HH2sH", data, position)
        position += 8
        if vr in (b"OB", b"UN", b"OW", b"UT", b"SQ"):
            if position + 4 > len(data):
                return
            (length,) = struct.unpack_from("<I", data, position)
            position += 4
        if vr == b"UI":
            yield element, data[position : position + length].rstrip(b"\x00 ").decode("ascii", "replace")
        position += length


def _short_element(element: int, vr: bytes, value: str) -> bytes:
    encoded = value.encode("ascii", "replace")
    if len(encoded) % 2:
        encoded += b"\x00" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, element, vr, len(encoded)) + encoded
