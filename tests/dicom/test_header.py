"""The index's reading of a header: what DCMTK and pydicom read is read, whatever was written oddly."""

from __future__ import annotations

import struct

import pytest

from dicom_node.dicom.header import HEADER_BYTES, LONG_HEADER_BYTES, read_header
from dicom_node.dicom.uids import is_uid

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
UNDEFINED = 0xFFFFFFFF


def _explicit(tag: tuple[int, int], vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", *tag, vr, len(value)) + value


def _implicit(tag: tuple[int, int], value: bytes) -> bytes:
    return struct.pack("<HHI", *tag, len(value)) + value


def _delimiter(element: int) -> bytes:
    return struct.pack("<HHI", 0xFFFE, element, 0)


def _un_sequence(tag: tuple[int, int]) -> bytes:
    """A sequence that was written as UN of undefined length: implicit VR inside (CP-246)."""
    inside = _implicit((8, 0x1150), b"1.2.840.10008.5.1.4.1.1.1\0") + _implicit((8, 0x1155), b"1.2.3.9\0")
    item = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED) + inside + _delimiter(0xE00D)
    return struct.pack("<HH2sHI", *tag, b"UN", 0, UNDEFINED) + item + _delimiter(0xE0DD)


def test_uid_with_a_nul_inside_is_not_read_as_another_uid() -> None:
    """Without the NUL it would be the UID of somebody else's study; what pads a UID is dropped."""
    study = _explicit((0x20, 0xD), b"UI", b"1.2.3\x001 ")
    header = read_header(_explicit((8, 0x18), b"UI", b"1.2.3.44\0 ") + study, EXPLICIT)
    assert header.sop_instance_uid == "1.2.3.44"
    assert not is_uid(header.study_instance_uid)


FIRST = _explicit((8, 0x18), b"UI", b"1.2.3.44") + _explicit((9, 0x10), b"LO", b"ACME")
PATIENT = _explicit((0x10, 0x20), b"LO", b"P1")
LAST = (
    _explicit((0x20, 0xD), b"UI", b"1.2.3.1\0")
    + _explicit((0x20, 0xE), b"UI", b"1.2.3.2\0")
    + _explicit((0x28, 0x10), b"US", b"\x08\x00")
)
ODD = {
    "CP-246 before the UIDs": FIRST + _un_sequence((9, 0x1001)) + PATIENT + LAST,
    "CP-246 in a public sequence": FIRST[:16] + _un_sequence((8, 0x1140)) + PATIENT + LAST,
    "CP-246 twice nested": FIRST
    + struct.pack("<HH2sHI", 9, 0x1002, b"SQ", 0, UNDEFINED)
    + struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
    + _un_sequence((9, 0x1003))
    + _delimiter(0xE00D)
    + _delimiter(0xE0DD)
    + PATIENT
    + LAST,
    "out of order": LAST + FIRST + PATIENT,
    "stray delimiter": FIRST + _delimiter(0xE0DD) + PATIENT + _delimiter(0xE00D) + LAST,
    "duplicate": FIRST + PATIENT + _explicit((0x10, 0x20), b"LO", b"P2") + LAST,
    "VR of question marks": FIRST + _explicit((0x10, 0x15), b"??", b"abcd") + PATIENT + LAST,
    "VR of the future": FIRST + struct.pack("<HH2sHI", 0x10, 0x15, b"XX", 0, 4) + b"abcd" + PATIENT + LAST,
    "VR of zeros": FIRST + _implicit((0x10, 0x15), b"abcd") + PATIENT + LAST,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_encoding_loses_nothing(name: str) -> None:
    header = read_header(ODD[name], EXPLICIT)
    found = (header.sop_instance_uid, header.study_instance_uid, header.series_instance_uid, header.patient_id)
    assert (found, header.rows) == (("1.2.3.44", "1.2.3.1", "1.2.3.2", "P1"), 8)


def test_explicit_data_set_announced_as_implicit_is_read() -> None:
    assert read_header(FIRST + PATIENT + LAST, IMPLICIT).study_instance_uid == "1.2.3.1"


def test_header_longer_than_the_window_says_so() -> None:
    blob = struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, 2 * HEADER_BYTES) + bytes(2 * HEADER_BYTES)
    data = FIRST + blob + PATIENT + LAST
    assert read_header(data, EXPLICIT).is_cut_short
    whole = read_header(data, EXPLICIT, max_bytes=LONG_HEADER_BYTES)
    assert whole.study_instance_uid == "1.2.3.1"


def test_header_that_ends_at_pixel_data_is_not_cut_short() -> None:
    data = FIRST + PATIENT + LAST + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 128)
    assert not read_header(data, EXPLICIT).is_cut_short
