"""Compressed pixel data before they are decoded: where each frame begins, and how large it says it is."""

from __future__ import annotations

import itertools
import struct
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.encaps import parse_basic_offsets, parse_fragments

# SOF0 to SOF15 without DHT (C4), JPG (C8) and DAC (CC), which lie among them (ISO/IEC 10918-1 table B.1); F7 is the
# frame header of JPEG-LS (ISO/IEC 14495-1).
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
EMPTY_TABLE = struct.pack("<HHL", 0xFFFE, 0xE000, 0)


def drop_wrong_offset_tables(dataset: Dataset, *, frames: int) -> None:
    """Empty a Basic Offset Table that contradicts the fragments, and drop the Extended one, which is not needed.

    Writers get them wrong: offsets counted from the start of the file, those of another object, of a frame too many.
    The fragments themselves say where they begin, so a table is believed only where it agrees with them (PS3.5 section
    A.4). Afterwards a single frame is all fragments, and of several frames with one fragment each the order counts.
    Raises ValueError, EOFError or struct.error where the fragments themselves cannot be told apart.
    """
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            delattr(dataset, keyword)
    stream = BytesIO(dataset.PixelData)
    offsets = parse_basic_offsets(stream)
    begin = stream.tell()
    _, starts = parse_fragments(stream)
    is_rising = all(before < after for before, after in itertools.pairwise(offsets))
    # Offsets are counted from the first byte after the table's item (PS3.5 A.4).
    possible = {start - begin for start in starts}
    is_right = len(offsets) == frames and offsets[0] == 0 and is_rising and possible.issuperset(offsets)
    if offsets and not is_right:
        dataset["PixelData"].value = EMPTY_TABLE + dataset.PixelData[begin:]


def jpeg_2000_start(codestream: bytes) -> int | None:
    """Offset of the SOC marker of a JPEG 2000 or HTJ2K codestream; None where it is neither."""
    start = codestream.find(b"\xff\x4f\xff\x51")
    return start if 0 <= start < 512 else None  # SIZ follows SOC at once; up to here there may be JP2 boxes


def codestream_size(codestream: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 codestream says of itself; None where it says nothing."""
    start = jpeg_2000_start(codestream)
    if start is not None:
        if len(codestream) < start + 24:
            return None
        # Xsiz, Ysiz, XOsiz and YOsiz of the SIZ segment (ISO/IEC 15444-1 A.5.1): the image is what lies right of and
        # below its offset on the reference grid.
        right, bottom, left, top = struct.unpack(">4I", codestream[start + 8 : start + 24])
        return bottom - top, right - left
    if not codestream.startswith(b"\xff\xd8"):
        return None
    position = 2
    while position + 9 <= len(codestream):
        if codestream[position] != 0xFF:
            return None
        marker = codestream[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _JPEG_FRAME_MARKERS:
            # Behind marker, length and sample precision (ISO/IEC 10918-1 B.2.2).
            rows, columns = struct.unpack(">HH", codestream[position + 5 : position + 9])
            return rows, columns
        position += 2 + int(struct.unpack(">H", codestream[position + 2 : position + 4])[0])
    return None
