"""A compressed picture that is cut off or has a hole: decoders fill it up and say so on the standard error, if at all.

Half a picture would be read like a whole one: GDCM gives 70 % made-up pixels for a JPEG that ends after a third and
bears its end marker, and every decoder of JPEG 2000 leaves a missing tile grey. What the bytes themselves tell is
checked before decoding; what only the entropy decoder finds is taken from what it writes while it decodes.
"""

from __future__ import annotations

import os
import re
import struct
import threading
from collections.abc import Callable
from typing import TypeVar

from model.images.codestream import jpeg_2000_start

_SOT, _EOC, _EOI = b"\xff\x90", b"\xff\xd9", b"\xff\xd9"
_MIN_TILE_PART_BYTES = 14
"""A SOT segment and a SOD marker."""
_MAX_TILES = 65_535
"""ISO/IEC 15444-1 A.4.2: Isot has two bytes."""
_COMPLAINT = re.compile(rb"(Corrupt JPEG data: (?!\d+ extraneous bytes)[^\n]*|Premature end of (?:JPEG|input) file)")
"""Words of libjpeg in GDCM. Bytes between the segments cost no pixel and are no complaint."""
_MAX_WORDS_BYTES = 64 << 10
_stderr_lock = threading.Lock()
_T = TypeVar("_T")


def missing_part(codestream: bytes) -> str | None:
    """Words for what a JPEG, JPEG-LS, JPEG 2000 or HTJ2K codestream lacks; None where nothing is seen to be missing.

    A JPEG needs its end marker (ISO/IEC 10918-1 B.1.1.3). A JPEG 2000 needs each tile of its grid, each tile-part
    whole and as many of them as it announces (ISO/IEC 15444-1 A.4.2), and its end marker.
    """
    start = jpeg_2000_start(codestream)
    if start is not None:
        try:
            return _missing_tiles(codestream, start)
        except (struct.error, ZeroDivisionError):
            return "its header is cut off"
    scan = codestream.find(b"\xff\xda")
    return "its end is missing" if codestream.find(_EOI, scan) < 0 or scan < 0 else None


def _missing_tiles(codestream: bytes, start: int) -> str | None:
    expected = _tile_count(codestream, start)
    if not 0 < expected <= _MAX_TILES:
        return "its tiles cannot be counted"
    parts_seen: dict[int, int] = {}
    announced: dict[int, int] = {}
    position = _first_tile_part(codestream, start)
    while codestream[position : position + 2] == _SOT:
        # SOT: tile, length of the part (0: up to the end of the codestream), its number, and how many parts the tile
        # has.
        tile, length, _, parts = struct.unpack(">HIBB", codestream[position + 4 : position + 12])
        end = position + length if length else codestream.rfind(_EOC, position + _MIN_TILE_PART_BYTES)
        if end < position + _MIN_TILE_PART_BYTES or end > len(codestream):
            return "it ends within a tile"
        parts_seen[tile] = parts_seen.get(tile, 0) + 1
        announced[tile] = max(parts, announced.get(tile, 0))
        position = end
    if codestream[position : position + 2] != _EOC:
        return "its end is missing"
    if len(parts_seen) < expected:
        return f"{expected - len(parts_seen)} of {expected} tiles are missing"
    if any(parts_seen[tile] < parts for tile, parts in announced.items()):
        return "a part of a tile is missing"
    return None


def _tile_count(codestream: bytes, start: int) -> int:
    """By the image and tile sizes of the SIZ segment (ISO/IEC 15444-1 B.3)."""
    right, bottom, _, _, width, height, left, top = struct.unpack(">8I", codestream[start + 8 : start + 40])
    # Counted from the origin of the tile grid, not of the image; a tile that has only begun counts.
    columns, rows = -(-(right - left) // width), -(-(bottom - top) // height)
    return int(columns * rows) if columns > 0 and rows > 0 else 0


def _first_tile_part(codestream: bytes, start: int) -> int:
    """Offset behind the segments of the main header."""
    position = start + 2
    while codestream[position : position + 2] != _SOT:
        position += 2 + int(struct.unpack(">H", codestream[position + 2 : position + 4])[0])
    return position


def decode_and_listen(decode: Callable[[], _T]) -> tuple[_T, str | None]:
    """The result of `decode`, and the complaint of a JPEG library about data that it made up; None where it had none.

    The libraries write to the standard error of the process, which is held for so long and then gets what was written.
    """
    with _stderr_lock:
        # A file in memory and no pipe: nobody reads while the decoder runs, and a full pipe would stop it for ever.
        heard = os.memfd_create("decoder")
        kept = os.dup(2)
        try:
            os.dup2(heard, 2)
            try:
                result = decode()
            finally:
                os.dup2(kept, 2)
                words = os.pread(heard, _MAX_WORDS_BYTES, 0)
                os.write(2, words)
        finally:
            os.close(kept)
            os.close(heard)
    complaint = _COMPLAINT.search(words)
    return result, complaint[1].decode("ascii", "replace") if complaint else None
