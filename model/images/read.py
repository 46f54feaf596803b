"""Reading a stored image object: what is refused before anything is decoded, and the stored values of one frame."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.utils import get_nr_frames, pixel_array
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from model.errors import PixelError
from model.images import jpeg12 as pixels_jpeg12
from model.images.codestream import codestream_size, drop_wrong_offset_tables
from model.images.completeness import decode_and_listen, missing_part

pixels_jpeg12.install()

MAX_FILE_BYTES = 1 << 30
MAX_SIDE = 16_384  # pixels; the largest chest detectors have about 4,300 on a side
MAX_FRAME_PIXELS = 64_000_000
MAX_TOTAL_PIXELS = 512_000_000
"""Rows × Columns × NumberOfFrames × SamplesPerPixel."""
MAX_INFLATED_BYTES = 256 << 20
"""Of a deflated object: a film of 64 million pixels has 128 MiB."""
_META_BYTES = 64 << 10
MIN_SIDE = 32  # pixels; below this nothing of a chest can be seen
COLOUR_TOLERANCE = 8
"""Greatest difference of the channels, in 8-bit levels, of a colour picture that only wraps a grey one (JPEG noise)."""

PARSER_ERRORS = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    NotImplementedError,
    BytesLengthException,
    RecursionError,
    EOFError,
    struct.error,
    zlib.error,
)
"""The exceptions of pydicom on mangled bytes, many of them only when the element is looked at."""

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def read_dataset(path: Path) -> Dataset:
    """The data set of a file, with or without the Part 10 preamble. Raises PixelError where it is no DICOM at all."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise PixelError(f"the file has {size} bytes; more than {MAX_FILE_BYTES} are not read")
        _refuse_deflate_bomb(path)
        dataset = dcmread(path, force=True)
    except (OSError, InvalidDicomError) as error:
        raise PixelError(f"the file cannot be read as DICOM: {_first_line(error)}") from error
    except PARSER_ERRORS as error:
        raise PixelError(f"the file is damaged: {_first_line(error)}") from error
    if len(dataset) == 0:
        with path.open("rb") as stream:
            is_part10 = stream.read(132).endswith(b"DICM")
        # pydicom gives nothing at all where a value of undefined length has no end
        raise PixelError("the file is damaged: its pixel data have no end" if is_part10 else "the file is not DICOM")
    return dataset


def _refuse_deflate_bomb(path: Path) -> None:
    """Raise PixelError for a deflated data set that inflates to more than any image of this kind needs.

    pydicom inflates the whole of it at once (PS3.5 section A.5): 1.5 MB may become 1.5 GB.
    """
    with path.open("rb") as stream:
        head = stream.read(_META_BYTES)
        # (0002,0010) Transfer Syntax UID, in explicit VR little endian like the whole meta header (PS3.10 section 7.1).
        marker = head.find(b"\x02\x00\x10\x00UI")
        if marker < 0 or not head[marker + 8 :].startswith(b"1.2.840.10008.1.2.1.99"):
            return
        # (0002,0000) counts the bytes of the meta header behind its own value: there the deflated data set begins.
        length = head.find(b"\x02\x00\x00\x00UL")
        if length < 0:
            return
        stream.seek(length + 12 + int.from_bytes(head[length + 8 : length + 12], "little"))
        # Raw deflate, without zlib's header (PS3.5 section A.5). At most 1 MiB comes out of a step, and what was not
        # yet used of the input waits in `unconsumed_tail`: the bomb is never in memory.
        inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while (chunk := inflater.unconsumed_tail or stream.read(_META_BYTES)) and not inflater.eof:
            total += len(inflater.decompress(chunk, 1 << 20))
            if total > MAX_INFLATED_BYTES:
                raise PixelError(f"the deflated object inflates to more than {MAX_INFLATED_BYTES >> 20} MiB")


@contextmanager
def damage_is_pixel_error() -> Iterator[None]:
    """The border to a stranger's bytes: whatever looking at an element raises there is a damaged object."""
    try:
        yield
    except PARSER_ERRORS as error:
        raise PixelError(f"the object is damaged: {_first_line(error)}") from error


def read_sniff(stream: BinaryIO) -> str:
    """ "png", "jpeg", "webp" or "dicom" by the first bytes; everything unknown is tried as DICOM."""
    head = stream.read(12)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"RIFF") and head.endswith(b"WEBP"):
        return "webp"
    return "jpeg" if head.startswith(b"\xff\xd8\xff") else "dicom"


def stored_frame(dataset: Dataset) -> tuple[NDArray[np.int32], int]:
    """Stored values int32 [rows, columns] of the shown frame, and its index.

    Everything that can be checked without decoding is checked first. Raises PixelError with words fit for a report.
    """
    check_header(dataset)
    frame = shown_frame(dataset)
    syntax = transfer_syntax(dataset)
    # Deflate compresses the data set as a whole and the parser has undone it, so its pixel data are native.
    if syntax.is_compressed and syntax != UID("1.2.840.10008.1.2.1.99"):
        _check_codestream(dataset, frame, syntax)
    else:
        _check_native_length(dataset)
    _complete_meta(dataset, syntax)
    values = _decode(dataset, frame)
    if values.ndim == 3:
        values = _grey_of_colour(values)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if values.shape != (rows, columns):
        raise PixelError(f"the pixel data hold {values.shape} pixels where the header says {rows} × {columns}")
    return _stored_bits(values.astype(np.int32), dataset), frame


def check_header(dataset: Dataset) -> None:
    """Refuse what cannot be or must not be decoded, from the header alone (PS3.3 section C.7.6.3)."""
    if "PixelData" not in dataset:
        other = [name for name in ("FloatPixelData", "DoubleFloatPixelData") if name in dataset]
        raise PixelError(f"{other[0]} is not supported" if other else "the object has no pixel data")
    rows, columns = _positive(dataset, "Rows"), _positive(dataset, "Columns")
    frames, samples = frame_count(dataset), _positive(dataset, "SamplesPerPixel", default=1)
    # Before anything is decoded: a header of a few bytes may ask for gigabytes.
    if max(rows, columns) > MAX_SIDE or rows * columns > MAX_FRAME_PIXELS:
        raise PixelError(f"the image is too large: {rows} × {columns} pixels")
    if rows * columns * frames * samples > MAX_TOTAL_PIXELS:
        raise PixelError(f"the image is too large: {rows} × {columns} pixels, {frames} frames, {samples} samples")
    allocated, stored = _positive(dataset, "BitsAllocated"), _positive(dataset, "BitsStored")
    if allocated not in (8, 16) or not 1 < stored <= allocated:
        raise PixelError(f"{stored} bits stored in {allocated} are not supported (8 or 16, all or part of them used)")
    high = dataset.get("HighBit")
    # Bits beside the value once held overlays (retired in 2004).
    if high is not None and high != stored - 1:
        raise PixelError(f"HighBit {high} with {stored} bits stored is a retired layout and not supported")
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if photometric not in _GREY and photometric not in _COLOUR:
        raise PixelError(f"photometric interpretation {photometric or 'missing'} is not supported")
    if (samples == 1) != (photometric in _GREY):
        raise PixelError(f"{samples} samples per pixel contradict photometric interpretation {photometric}")


def shown_frame(dataset: Dataset) -> int:
    """Index of the frame to show: the Representative Frame Number where the header has a valid one, else the first.

    A multi-frame chest object is a single exposure with derived frames or a sequence whose maker names the frame that
    stands for it (0028,6010); guessing another frame than a viewer shows first would make the report point elsewhere.
    """
    frames = frame_count(dataset)
    number = dataset.get("RepresentativeFrameNumber")
    return int(number) - 1 if isinstance(number, int) and 1 <= number <= frames else 0


def frame_count(dataset: Dataset) -> int:
    """NumberOfFrames, 1 where missing or empty; raises PixelError where it is no positive number."""
    try:
        return int(get_nr_frames(dataset, warn=False))
    except (TypeError, ValueError) as error:
        raise PixelError(f"NumberOfFrames is {dataset.get('NumberOfFrames')!r}") from error


def transfer_syntax(dataset: Dataset) -> UID:
    """From the meta header, else what the parser found the encoding to be (files without a meta header)."""
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and meta.get("TransferSyntaxUID"):
        return UID(str(meta.TransferSyntaxUID))
    implicit, little = dataset.original_encoding
    # PS3.5 section 10.1: Implicit VR Little Endian is the default transfer syntax.
    if implicit is None or implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _check_codestream(dataset: Dataset, frame: int, syntax: UID) -> None:
    """Compare the codestream's own size with the header: a small header must not hide a large picture.

    The offset tables are settled first, so that what is checked here is what the decoder is given.
    """
    try:
        drop_wrong_offset_tables(dataset, frames=frame_count(dataset))
        if syntax == RLELossless:
            return  # carries no size; its decoder is bounded by Rows × Columns
        frames = generate_frames(dataset.PixelData, number_of_frames=frame_count(dataset))
        codestream = next(data for index, data in enumerate(frames) if index == frame)
    except (StopIteration, ValueError, EOFError, struct.error) as error:
        raise PixelError(f"the compressed pixel data are damaged: {_first_line(error)}") from error
    size = codestream_size(codestream)
    if size is None:
        raise PixelError("the compressed pixel data are damaged: they do not begin with an image header")
    if size != (dataset.Rows, dataset.Columns):
        raise PixelError(
            f"the compressed picture is {size[0]} × {size[1]} pixels, "
            f"the header says {dataset.Rows} × {dataset.Columns}"
        )
    lacks = missing_part(codestream)
    if lacks is not None:
        raise PixelError(f"the compressed picture is not complete: {lacks}")


def _check_native_length(dataset: Dataset) -> None:
    samples = int(dataset.get("SamplesPerPixel", 1))
    per_pixel = dataset.BitsAllocated // 8 * samples
    if str(dataset.PhotometricInterpretation) == "YBR_FULL_422":
        per_pixel = 2  # two luminance samples share their chrominance
    needed = dataset.Rows * dataset.Columns * frame_count(dataset) * per_pixel
    if len(dataset.PixelData or b"") < needed:
        raise PixelError(f"the pixel data are cut off: {len(dataset.PixelData or b'')} of {needed} bytes")


def _complete_meta(dataset: Dataset, syntax: UID) -> None:
    """pydicom decodes by the meta header: give one to files that came without it."""
    if getattr(dataset, "file_meta", None) is None:
        dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax


def _decode(dataset: Dataset, frame: int) -> NDArray[np.generic]:
    for keyword, value in (("SamplesPerPixel", 1), ("PixelRepresentation", 0)):
        if dataset.get(keyword) is None:
            setattr(dataset, keyword, value)
    try:
        values: NDArray[np.generic]
        values, complaint = decode_and_listen(lambda: pixel_array(dataset, index=frame))
    except MemoryError as error:
        raise PixelError("the image needs more memory than a decoder is given") from error
    except (ValueError, RuntimeError, AttributeError, NotImplementedError, TypeError, IndexError, OSError) as error:
        if "MemoryError" in str(error) or "memory" in str(error).lower():  # pydicom wraps what its plugins raise
            raise PixelError("the image needs more memory than a decoder is given") from error
        raise PixelError(f"the pixel data cannot be decoded: {_first_line(error)}") from error
    except (EOFError, KeyError, struct.error, ZeroDivisionError, OverflowError) as error:
        raise PixelError(f"the pixel data are damaged: {_first_line(error)}") from error
    except BaseException as error:
        # the RLE decoder is written in Rust and panics on runs that do not fit; its exception is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise PixelError("the pixel data are damaged: the decoder gave up") from error
    if complaint is not None:
        raise PixelError(f"the compressed picture is not complete: {complaint}")
    return values


def _stored_bits(values: NDArray[np.int32], dataset: Dataset) -> NDArray[np.int32]:
    """The values of the bits that count. Not every decoder drops what stands above BitsStored, or extends the sign into
    it: pydicom does, but after JPEG-LS, where -1 in twelve bits came out as 4095."""
    span = 1 << int(dataset.BitsStored)
    low = -span // 2 if dataset.get("PixelRepresentation") == 1 else 0
    values -= low  # in place: the values are this module's own
    values &= span - 1
    values += low
    return values


def _grey_of_colour(values: NDArray[np.generic]) -> NDArray[np.int32]:
    """A grey picture that was stored as colour; a really coloured one is no radiograph."""
    channels = values.astype(np.int32)
    if int((channels.max(axis=2) - channels.min(axis=2)).max()) > COLOUR_TOLERANCE:
        raise PixelError("the picture is coloured, so it is no plain radiograph")
    grey: NDArray[np.int32] = (channels.sum(axis=2) + 1) // 3
    return grey


def _positive(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    value = dataset.get(keyword, default)
    if not isinstance(value, int) or value < 1:
        raise PixelError(f"{keyword} is {value!r}" if value is not None else f"{keyword} is missing")
    return int(value)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0][:200] if lines else "") or type(error).__name__
