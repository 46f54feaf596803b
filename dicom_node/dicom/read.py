"""The one tolerant reader: a stored object, or bytes of a peer, becomes a pydicom data set that raises nothing later.

pydicom converts values when they are first looked at, and raises some twenty types of error then, from `struct.error`
to `RecursionError`. Here every value is converted at once. A value that cannot be converted costs its own element and
nothing more; what is no data set, or needs more than the limits, is an UnreadableObjectError and nothing else.

The pixels are not read. Limits: bytes before the pixel data (also after inflating), depth of nested sequences, and the
number of elements and values together, which bounds time and memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from dicom_node.dicom.convert import ReadBudget, convert_elements, no_warnings
from dicom_node.dicom.elements import PIXEL_DATA, Element, Encoding, elements
from dicom_node.dicom.header import encoding_of
from dicom_node.dicom.part10 import FileMeta, read_meta
from dicom_node.errors import StorageError, UnreadableObjectError

MAX_BYTES: Final = 32 << 20
"""Before the pixel data."""
_FIRST_BYTES: Final = 256 << 10


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
        data_set = _read_until_whole(stream, syntax)
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
            # Explicit VR has two letters where implicit VR has the low bytes of the length.
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


def _read_until_whole(stream: BinaryIO, syntax: str) -> Dataset:
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
    # Negative: raw deflate without zlib's header (PS3.5 A.5).
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    for chunk in chunks:
        rest = chunk
        while rest and total < MAX_BYTES and not inflater.eof:
            try:
                piece = inflater.decompress(rest, _FIRST_BYTES)
            except zlib.error as error:
                raise UnreadableObjectError("its deflated data set is damaged") from error
            # What it did not take yet: decompress stops at the size that it was given, so that a bomb costs one piece
            # at a time.
            rest = inflater.unconsumed_tail
            total += len(piece)
            if piece:
                yield piece
    if not inflater.eof:
        raise _NeedsMoreError


def _read(data: bytes, encoding: Encoding, *, may_end_early: bool, is_cut_off: bool) -> Dataset:
    """Read the header. Raises _NeedsMoreError where the data end inside it, or may do so (`is_cut_off`: there is
    more)."""
    read_elements: list[Element] = []
    has_pixels = False
    budget = ReadBudget()
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
    with no_warnings():
        data_set = convert_elements(data, read_elements, encoding, budget, [], 0)
    if not len(data_set):
        raise UnreadableObjectError("none of its elements can be read")
    return data_set
