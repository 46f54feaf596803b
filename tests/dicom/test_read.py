"""The tolerant reader: it agrees with pydicom on real files, and on mangled ones it returns or raises one error."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from functools import cache
from pathlib import Path

import pydicom.data
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.dicom.convert import MAX_DEPTH, MAX_VALUES, convert_values
from dicom_node.dicom.elements import Encoding, Ends, elements, items
from dicom_node.dicom.header import read_header
from dicom_node.dicom.part10 import FileMeta, part10_header, read_meta
from dicom_node.dicom.read import MAX_BYTES, read_data_set, read_object
from dicom_node.dicom.rejection_notes import withdrawn_by
from dicom_node.errors import StorageError, UnreadableObjectError
from dicom_node.priors import facts_of
from tests.support.common import SHARED
from tests.support.receiver import radiograph

EXPLICIT, IMPLICIT = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)
DEFLATED = str(DeflatedExplicitVRLittleEndian)
EXPLICIT_ENCODING = Encoding(implicit=False)
UNDEFINED = 0xFFFFFFFF
LIMIT_MIB = 200
ICON = 0x00880200
"""Icon Image Sequence, whose pixels are not read either."""


@cache
def _real_files() -> tuple[Path, ...]:
    """The files that pydicom's tests read, and the shared radiographs where they are."""
    folders = [Path(pydicom.data.__file__).parent, SHARED / "data" / "dicom"]
    return tuple(path for folder in folders for path in sorted(folder.rglob("*")) if _is_dicom(path))


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return read_meta(stream).transfer_syntax_uid != ""
    except StorageError:
        return False


@cache
def _encoded_headers() -> tuple[tuple[bytes, str], ...]:
    """(the first 20 KiB of a data set, its transfer syntax) of each real file."""
    found = []
    for path in _real_files():
        with path.open("rb") as stream:
            syntax = read_meta(stream).transfer_syntax_uid
            found.append((stream.read(20 << 10), syntax))
    return tuple(found)


def _element(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    long = vr in (b"SQ", b"OW", b"OB", b"UN", b"UT")
    head = struct.pack("<HH2sHI", group, element, vr, 0, len(value)) if long else None
    return (head or struct.pack("<HH2sH", group, element, vr, len(value))) + value


def _nested(depth: int) -> bytes:
    head = struct.pack("<HH2sHI", 0x40, 0x275, b"SQ", 0, UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
    ends = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return head * depth + ends * depth


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def _film() -> bytes:
    """The elements of a radiograph before its pixel data, explicit VR."""
    film = radiograph()
    del film.PixelData
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_dataset(stream, film)
    return stream.getvalue()


def _use(data_set: Dataset) -> None:
    """Look at everything, as the analysis does."""
    for element in data_set.iterall():
        str(element.value)
    facts_of(data_set)
    withdrawn_by([data_set])
    str(data_set)


def test_real_files_read_as_pydicom_reads_them() -> None:
    """Element by element; texts without a declared character set excepted, which pydicom reads as Latin-1."""
    compared, refused = 0, {}
    for path in _real_files():
        try:
            wanted = dcmread(path, stop_before_pixels=True, force=True)
            tags = [
                element.tag for element in wanted if element.VR not in ("OB", "OW", "UN", "OF") and element.tag != ICON
            ]
        except (InvalidDicomError, NotImplementedError, OSError):
            continue
        try:
            found = read_object(path)
        except UnreadableObjectError as error:
            refused[path.name] = str(error)
            continue
        for tag in tags:
            if tag in found or len(str(wanted[tag].value)) < 1 << 16:
                assert str(found[tag].value) == str(wanted[tag].value), (path.name, tag)
                compared += 1
    assert compared > 2000
    # pydicom passes over what is cut off without a word.
    assert all("cut off" in why for why in refused.values()), refused


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_mangled_header_returns_or_raises_one_error(data: st.DataObject) -> None:
    original, syntax = data.draw(st.sampled_from(_encoded_headers()))
    mangled = bytearray(original)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, max(len(mangled) - 1, 0)))
        change = data.draw(st.sampled_from(["cut", "flip", "length", "insert", "repeat", "vr"]))
        if change == "cut":
            del mangled[at:]
        elif change == "flip" and mangled:
            mangled[at] = data.draw(st.integers(0, 255))
        elif change == "length":
            mangled[at : at + 4] = data.draw(
                st.sampled_from([b"\xff" * 4, b"\x00" * 4, b"\xfe\xff\xff\x7f", b"SQ\x00\x00"])
            )
        elif change == "insert":
            mangled[at:at] = data.draw(st.binary(max_size=40))
        elif change == "repeat":
            mangled[at:at] = mangled[at : at + 64]
        elif change == "vr":
            mangled[at : at + 2] = data.draw(
                st.sampled_from([b"SQ", b"UN", b"PN", b"DS", b"IS", b"AT", b"FD", b"UI", b"??"])
            )
    changed_syntax = data.draw(st.sampled_from([syntax, syntax, syntax, IMPLICIT, EXPLICIT, DEFLATED]))
    read_header(bytes(mangled), changed_syntax)
    for is_start_only in (False, True):
        try:
            found = read_data_set(bytes(mangled), changed_syntax, is_start_only=is_start_only)
        except UnreadableObjectError:
            continue
        _use(found)
        _use(convert_values(found))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([EXPLICIT, IMPLICIT, DEFLATED, "1.2.840.10008.1.2.2"]))
def test_any_bytes_return_or_raise_one_error(data: bytes, syntax: str) -> None:
    read_header(data, syntax)
    try:
        _use(read_data_set(data, syntax))
    except UnreadableObjectError:
        return


@pytest.mark.parametrize("keep", [4, 11, 60, 200, 400])
def test_cut_off_header_is_unreadable(keep: int) -> None:
    with pytest.raises(UnreadableObjectError, match=r"cut off|element"):
        read_data_set(_film()[:keep] + b"\x08\x00", EXPLICIT)


def test_cut_off_deflated_header_is_unreadable() -> None:
    packed = _deflated(_film())
    with pytest.raises(UnreadableObjectError):
        read_data_set(packed[: len(packed) // 2], DEFLATED)


def test_deep_nesting_costs_its_element_only() -> None:
    found = read_data_set(_film() + _nested(250), EXPLICIT)
    assert found.PatientID
    _use(found)
    level, depth = found, 0
    while "RequestAttributesSequence" in level and level.RequestAttributesSequence:
        level, depth = level.RequestAttributesSequence[0], depth + 1
    assert depth == MAX_DEPTH


def test_sequences_20_000_deep_cost_their_element_only() -> None:
    found = read_data_set(_film() + _nested(20_000), EXPLICIT)
    assert found.PatientID
    _use(found)


def test_one_walk_over_nested_sequences_finds_the_ends_of_all() -> None:
    """Without that each level is walked over once more: 20,000 took more than four seconds, and take a third of one."""
    ends: Ends = {}
    data, depth = _nested(100), 100
    (outer,) = elements(data, 0, len(data), EXPLICIT_ENCODING, ends)
    assert len(ends) == 2 * depth, "of every sequence and of its item"
    assert ends[outer.start] == outer.end == len(data)
    ((start, end),) = items(data, outer, EXPLICIT_ENCODING, ends)
    assert list(elements(data, start, end, EXPLICIT_ENCODING, ends)) == list(
        elements(data, start, end, EXPLICIT_ENCODING)
    )


def test_value_that_is_no_value_costs_its_element_only() -> None:
    broken = _element(0x0008, 0x0104, b"LO", b"x ") + _element(0x0010, 0x1002, b"SQ", b"\xfe\xff\x00")
    odd = _element(0x0018, 0x1164, b"DS", b"no number ") + _element(0x0018, 0x9073, b"FD", b"abc")
    found = read_data_set(broken + _element(0x0010, 0x0020, b"LO", b"P1") + odd, EXPLICIT)
    assert found.PatientID == "P1"
    assert "AcquisitionDuration" not in found
    assert facts_of(found).patient.other_keys == ()


def test_first_of_two_elements_counts_as_in_the_index() -> None:
    twice = _element(0x0010, 0x0020, b"LO", b"P1") + _element(0x0010, 0x0020, b"LO", b"P2")
    assert read_data_set(twice, EXPLICIT).PatientID == read_header(twice, EXPLICIT).patient_id == "P1"


@pytest.mark.parametrize("declared", [b"", b"ISO_IR 6 ", b"ISO_IR 192"])
def test_utf8_name_reads_alike_in_index_and_reader(declared: bytes) -> None:
    name = "Müller^Jörg".encode()
    data = _element(8, 5, b"CS", declared) if declared else b""
    data += _element(0x10, 0x10, b"PN", name + b" " * (len(name) % 2))
    parsed = read_dataset(io.BytesIO(data), is_implicit_VR=False, is_little_endian=True)
    for value in (read_data_set(data, EXPLICIT).PatientName, convert_values(parsed).PatientName):
        assert str(value).strip() == read_header(data, EXPLICIT).patient_name == "Müller^Jörg"


def test_deflate_bomb_is_read_within_the_limit() -> None:
    bomb = _deflated(_film() + struct.pack("<HH2sHI", 0x0021, 0x1001, b"OW", 0, 80 << 20) + bytes(80 << 20))
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    with pytest.raises(UnreadableObjectError):
        read_data_set(bomb, DEFLATED)
    peak = tracemalloc.get_traced_memory()[1] >> 20
    tracemalloc.stop()
    assert peak < LIMIT_MIB


def test_bomb_in_pixel_data_leaves_the_header_readable(tmp_path: Path) -> None:
    packed = _deflated(_film() + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 80 << 20) + bytes(80 << 20))
    meta = FileMeta(sop_class_uid="1.2", sop_instance_uid="1.2.3", transfer_syntax_uid=DEFLATED)
    (tmp_path / "film.dcm").write_bytes(part10_header(meta) + packed)
    tracemalloc.start()
    found = read_object(tmp_path / "film.dcm")
    peak = tracemalloc.get_traced_memory()[1] >> 20
    tracemalloc.stop()
    assert found.PatientID
    assert peak < LIMIT_MIB


@pytest.mark.parametrize(
    "data",
    [
        _element(0x0040, 0x0275, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 0) * (MAX_VALUES + 1)),
        b"".join(_element(0x0009 + 2 * (i >> 16), i & 0xFFFF, b"CS", b"") for i in range(MAX_VALUES + 2)),
        _element(0x0008, 0x0008, b"UT", b"\\" * (MAX_VALUES + 1)),
    ],
    ids=["items", "elements", "values"],
)
def test_more_than_the_limit_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableObjectError, match="more than"):
        read_data_set(data, EXPLICIT)


def test_header_above_the_limit_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "long.dcm"
    with path.open("wb") as file:
        file.write(part10_header(FileMeta(sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid=EXPLICIT)))
        file.write(_film() + struct.pack("<HH2sHI", 0x0029, 0x1001, b"OB", 0, 2 * MAX_BYTES))
        file.truncate(3 * MAX_BYTES)
    with pytest.raises(UnreadableObjectError, match="more than"):
        read_object(path)


def test_file_that_cannot_be_opened_is_no_unreadable_object(tmp_path: Path) -> None:
    """An error of the file system may pass, so it is raised as another type and the job is retried."""
    with pytest.raises(OSError, match="No such file"):
        read_object(tmp_path / "gone.dcm")
