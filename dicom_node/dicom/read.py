"""The one tolerant reader: a stored object, or bytes of a peer, becomes a pydicom data set that raises nothing later.

pydicom converts values when they are first looked at, and raises some twenty types of error then, from `struct.error`
to `RecursionError`. Here every value is converted at once. A value that cannot be converted costs its own element and
nothing more; what is no data set, or needs more than the limits, is an UnreadableObjectError and nothing else.

The pixels are not read. Limits: bytes before the pixel data (also after inflating), depth of nested sequences, and the
number of elements and values together, which bounds time and memory.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from pydicom import Dataset, Sequence
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import correct_ambiguous_vr_element
from pydicom.hooks import hooks
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian
from pydicom.valuerep import AMBIGUOUS_VR

from dicom_node.dicom.elements import IMPLICIT, PIXEL_DATA, Element, Encoding, Ends, elements, items
from dicom_node.dicom.header import encoding_of
from dicom_node.dicom.part10 import FileMeta, read_meta
from dicom_node.dicom.text import TEXT_VRS, character_sets, decode_text, encodings_that_decode
from dicom_node.errors import StorageError, UnreadableObjectError

MAX_BYTES: Final = 32 << 20
"""Before the pixel data."""
MAX_DEPTH: Final = 32
"""Of nested sequences; content trees of Structured Reports have about ten. A deeper one costs its element."""
MAX_VALUES: Final = 50_000
"""Elements, items and values of multi-valued elements together."""
MAX_VALUE_BYTES: Final = 4 << 20
"""Of one element that is no sequence; a longer one, such as an overlay or a private blob, is left out."""
_FIRST_BYTES: Final = 256 << 10
_CHARACTER_SET: Final = 0x00080005


@dataclass(slots=True)
class _Budget:
    """The number of elements and values that may still be read."""

    left: int = MAX_VALUES
    ends: Ends = field(default_factory=dict)
    """Where nested sequences of these bytes end, so that no byte is walked over at each of its levels."""

    def spend(self, count: int = 1) -> None:
        """Raise UnreadableObjectError when it is used up."""
        self.left -= count
        if self.left < 0:
            raise UnreadableObjectError(f"it has more than {MAX_VALUES} elements and values")


class _NeedsMoreError(Exception):
    """The header goes on behind the bytes that were read."""


def read_object(path: Path) -> Dataset:
    """Read a DICOM file up to its pixel data, with or without a Part 10 header.

    `PixelData` in the answer is an empty value that says that there are pixels. Raises UnreadableObjectError for what
    cannot be read, now or ever, and OSError where the file system failed, which may pass.
    """
    with path.open("rb") as stream:
        meta = _meta_of(stream)
        syntax = meta.transfer_syntax_uid if meta is not None else guess_transfer_syntax(stream)
        data_set = _grown(stream, syntax)
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = UID(syntax)
    return data_set


def read_data_set(data: bytes, transfer_syntax_uid: str, *, is_start_only: bool = False) -> Dataset:
    """Read an encoded data set up to its pixel data. Raises UnreadableObjectError, and nothing else.

    Parameters
    ----------
    data
        The data set as its peer encoded it.
    transfer_syntax_uid
        How it is encoded.
    is_start_only
        Whether `data` may end before the data set does; what is whole is read then.
    """
    is_cut_off = False
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        inflated = bytearray()
        try:
            for piece in _inflate(iter([data])):
                inflated += piece
        except _NeedsMoreError:
            is_cut_off = True
        data = bytes(inflated)
    try:
        return _read(data, encoding_of(transfer_syntax_uid), may_end_early=is_start_only, is_cut_off=is_cut_off)
    except _NeedsMoreError as error:
        raise UnreadableObjectError("it is cut off") from error


def convert_values(data_set: Dataset) -> Dataset:
    """Convert every value of a data set that pydicom parsed, such as a C-FIND identifier, and drop what cannot be."""
    budget = _Budget()
    with _no_warnings():
        return _convert_data_set(data_set, budget, [], 0)


def guess_transfer_syntax(stream: BinaryIO) -> str:
    """The encoding of a data set without a File Meta Information, by its first element; the stream stays there.

    Raises UnreadableObjectError where it does not begin with an element of group 0008 or below, as every object does.
    """
    start = stream.tell()
    head = stream.read(8)
    stream.seek(start)
    for big_endian, order in ((False, "little"), (True, "big")):
        group = int.from_bytes(head[:2], "little" if order == "little" else "big")
        if len(head) == 8 and group in (2, 8):
            is_explicit = head[4:6].isalpha() and head[4:6].isupper()
            if big_endian:
                return "1.2.840.10008.1.2.2"
            return "1.2.840.10008.1.2.1" if is_explicit else "1.2.840.10008.1.2"
    raise UnreadableObjectError("it is no DICOM object: it does not begin with an element of group 0008")


def _meta_of(stream: BinaryIO) -> FileMeta | None:
    """The File Meta Information; None, with the stream at its start, where there is none."""
    try:
        return read_meta(stream)
    except StorageError:
        stream.seek(0)
        return None


def _grown(stream: BinaryIO, syntax: str) -> Dataset:
    """Read more and more of a file until its header is whole: most headers have some kilobytes."""
    encoding = encoding_of(syntax)
    deflated = syntax == DeflatedExplicitVRLittleEndian
    pieces = _inflate(_chunks(stream)) if deflated else _chunks(stream)
    data, limit, is_at_end, is_cut_off = bytearray(), _FIRST_BYTES, False, False
    while True:
        while len(data) < limit and not is_at_end:
            try:
                piece = next(pieces, b"")
            except _NeedsMoreError:
                piece, is_cut_off = b"", True
            is_at_end = not piece
            data += piece
        try:
            return _read(bytes(data), encoding, may_end_early=False, is_cut_off=is_cut_off or not is_at_end)
        except _NeedsMoreError as error:
            if is_at_end:
                raise UnreadableObjectError(f"it is cut off after {len(data)} bytes") from error
            if len(data) >= MAX_BYTES:
                raise UnreadableObjectError(f"its header has more than {MAX_BYTES >> 20} MiB") from error
        # Each try reads from the start again; growing eightfold, all earlier ones together cost a seventh of the last.
        limit = min(8 * limit, MAX_BYTES)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(_FIRST_BYTES):
        yield chunk


def _inflate(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Inflate piece by piece, never more than MAX_BYTES in all (PS3.5 section A.5).

    Raises UnreadableObjectError for what is not deflated, and _NeedsMoreError at the end of a stream that is cut off.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    for chunk in chunks:
        rest = chunk
        while rest and total < MAX_BYTES and not inflater.eof:
            try:
                piece = inflater.decompress(rest, _FIRST_BYTES)
            except zlib.error as error:
                raise UnreadableObjectError("its deflated data set is damaged") from error
            rest = inflater.unconsumed_tail
            total += len(piece)
            if piece:
                yield piece
    if not inflater.eof:
        raise _NeedsMoreError


def _read(data: bytes, encoding: Encoding, *, may_end_early: bool, is_cut_off: bool) -> Dataset:
    """Raises _NeedsMoreError where the data end inside the header, or may do so (`is_cut_off`: there is more)."""
    read_elements: list[Element] = []
    has_pixels = False
    budget = _Budget()
    for element in elements(data, 0, len(data), encoding, budget.ends):
        budget.spend()
        if element.tag in PIXEL_DATA:
            has_pixels = True
        elif element.end > len(data):
            if not may_end_early:
                raise _NeedsMoreError
            break
        read_elements.append(element)
    behind = read_elements[-1].end if read_elements else 0
    if not has_pixels and not may_end_early and (is_cut_off or any(data[behind : behind + _FIRST_BYTES])):
        # Bytes that are no element: the head of one that was cut off, or what only looked like a data set.
        raise _NeedsMoreError
    if not read_elements:
        raise UnreadableObjectError("it has no element")
    with _no_warnings():
        data_set = _data_set(data, read_elements, encoding, budget, [], 0)
    if not len(data_set):
        raise UnreadableObjectError("none of its elements can be read")
    return data_set


def _data_set(
    data: bytes, found: list[Element], encoding: Encoding, budget: _Budget, declared: list[str], depth: int
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
    budget: _Budget,
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
    data: bytes, element: Element, encoding: Encoding, budget: _Budget, declared: list[str], depth: int
) -> DataElement | None:
    if depth >= MAX_DEPTH:
        return None
    read = []
    for start, end in items(data, element, encoding, budget.ends):
        budget.spend()
        inner = []
        for inside in elements(data, start, end, encoding, budget.ends):
            budget.spend()
            if inside.end <= end:
                inner.append(inside)
        read.append(_data_set(data, inner, encoding, budget, declared, depth + 1))
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


def _leaf(raw: RawDataElement, data_set: Dataset, budget: _Budget, declared: list[str]) -> DataElement | None:
    value = raw.value or b""
    if len(value) > MAX_VALUE_BYTES:
        return None
    # Counted before pydicom splits it: a megabyte of backslashes would become a million objects.
    budget.spend(value.count(b"\\"))
    vr = _vr_of(raw, data_set)
    encodings = encodings_that_decode(value, declared) if vr in TEXT_VRS else declared or ["iso8859"]
    try:
        converted: Any = convert_raw_data_element(raw, encoding=encodings, ds=data_set)
        if converted.VR in AMBIGUOUS_VR:
            converted = correct_ambiguous_vr_element(converted, data_set, raw.is_little_endian)
        str(converted.value)  # person names are decoded when they are looked at
    except Exception:  # noqa: BLE001 (the edge to a stranger's bytes: what pydicom raises at a value costs that value)
        return None
    return cast(DataElement, converted)


def _convert_data_set(data_set: Dataset, budget: _Budget, declared: list[str], depth: int) -> Dataset:
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
    data_set: Dataset, tag: int, budget: _Budget, declared: list[str], depth: int
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


def _no_warnings() -> warnings.catch_warnings[None]:
    """pydicom warns of each odd value, quoting it; what is odd is dropped here or read as it stands."""
    return warnings.catch_warnings(action="ignore")
