"""A compressed picture of which a part is missing is refused by words: decoders would fill it up and say nothing."""

from __future__ import annotations

import copy
import io
import os
import struct
from functools import cache
from pathlib import Path

import gdcm
import numpy as np
import pytest
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, HTJ2KLossless, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from model.errors import PixelError
from model.images.completeness import decode_and_listen, missing_part
from model.images.read import stored_frame
from model.images.sandbox import decode_in_child
from tests.support.rendering import image_dataset, written

EOC = EOI = b"\xff\xd9"
NOISE = np.random.default_rng(17)


def _film(rows: int = 96, columns: int = 112) -> NDArray[np.uint16]:
    ramp = np.linspace(0, 3800, rows * columns).reshape(rows, columns)
    return (ramp + NOISE.normal(0, 60, ramp.shape)).clip(0, 4095).astype("<u2")


VALUES = _film()


@cache
def _frame(codec: str) -> tuple[bytes, Dataset]:
    """The codestream of a film in one codec, and a data set that it belongs into."""
    dataset = image_dataset(VALUES, stored=12)
    if codec in ("JPEG 2000", "JPEG-LS", "RLE"):
        dataset.compress({"JPEG 2000": JPEG2000Lossless, "JPEG-LS": JPEGLSLossless, "RLE": RLELossless}[codec])
        return next(generate_frames(dataset.PixelData, number_of_frames=1)), dataset
    if codec == "HTJ2K":
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
        return Path(__file__).with_name("waves_12bit.jhc").read_bytes(), dataset
    if codec == "JPEG":
        grey = (VALUES >> 4).astype("u1")
        dataset = image_dataset(grey)
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        stream = io.BytesIO()
        Image.fromarray(grey).save(stream, "JPEG", quality=95)
        return stream.getvalue(), dataset
    dataset.file_meta.TransferSyntaxUID = UID(str(gdcm.TransferSyntax(GDCM_SYNTAXES[codec])))
    return _frame_by_gdcm(GDCM_SYNTAXES[codec]), dataset


GDCM_SYNTAXES = {
    "JPEG, twelve bits": gdcm.TransferSyntax.JPEGExtendedProcess2_4,
    "JPEG lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
}
CODECS = ["JPEG", "JPEG-LS", "JPEG 2000", "HTJ2K", "RLE", *GDCM_SYNTAXES]


def _frame_by_gdcm(syntax: int) -> bytes:
    descriptor = os.memfd_create("film")
    with os.fdopen(descriptor, "wb") as stream:
        image_dataset(VALUES, stored=12).save_as(stream, enforce_file_format=True)
        stream.flush()
        reader = gdcm.ImageReader()
        reader.SetFileName(f"/proc/self/fd/{descriptor}")
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(f"/proc/self/fd/{descriptor}")
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return next(generate_frames(dcmread(f"/proc/self/fd/{descriptor}").PixelData, number_of_frames=1))


def _with_frame(dataset: Dataset, codestream: bytes) -> Dataset:
    dataset = copy.deepcopy(dataset)
    dataset.PixelData = encapsulate([codestream + bytes(len(codestream) % 2)])
    dataset["PixelData"].VR = "OB"
    return dataset


@pytest.mark.parametrize("codec", CODECS)
def test_whole_picture_lacks_nothing(codec: str) -> None:
    codestream, dataset = _frame(codec)
    assert codec == "RLE" or missing_part(codestream) is None
    assert stored_frame(_with_frame(dataset, codestream))[0].shape == VALUES.shape


@pytest.mark.parametrize("end", [b"", EOI], ids=["no end marker", "end marker set behind the cut"])
@pytest.mark.parametrize("codec", CODECS)
def test_picture_that_is_cut_off_is_refused(codec: str, end: bytes) -> None:
    codestream, dataset = _frame(codec)
    for share in (0.3, 0.6, 0.9, 0.98):
        cut = codestream[: int(len(codestream) * share)] + end
        with pytest.raises(PixelError, match=r"not complete|cannot be decoded|damaged"):
            stored_frame(_with_frame(dataset, cut))


def test_made_up_pixels_are_said_by_the_child_too(tmp_path: Path) -> None:
    codestream, dataset = _frame("JPEG lossless")
    cut = _with_frame(dataset, codestream[: len(codestream) // 2] + EOI)
    with pytest.raises(PixelError, match="not complete: Corrupt JPEG data: premature end"):
        decode_in_child(written(cut, tmp_path / "cut.dcm"))
    assert decode_in_child(written(_with_frame(dataset, codestream), tmp_path / "whole.dcm")).geometry.rows == 96


def test_what_others_write_meanwhile_reaches_the_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert decode_and_listen(lambda: os.write(2, b"a line of the log\n")) == (18, None)
    assert capfd.readouterr().err == "a line of the log\n"


def _two_tiles() -> tuple[bytes, bytes, bytes, NDArray[np.uint16]]:
    """Main header, first and second tile-part, and the film: two codestreams side by side as tiles of one."""
    film = _film(64, 4096)  # 2048 = 64 << 5: the code blocks of the second begin where those of a film of its own do
    left, right = (encode_array(np.ascontiguousarray(half), codec_format=0) for half in np.hsplit(film, 2))
    header = bytearray(left[: left.index(b"\xff\x90")])
    header[8:12] = struct.pack(">I", 4096)  # Xsiz
    second = bytearray(right[right.index(b"\xff\x90") : -2])
    second[4:6] = struct.pack(">H", 1)  # Isot
    return bytes(header), left[left.index(b"\xff\x90") : -2], bytes(second), film


def test_jpeg_2000_with_a_missing_tile_is_refused() -> None:
    header, first, second, film = _two_tiles()
    dataset = image_dataset(film, stored=12)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    for order in (first + second, second + first):
        assert np.array_equal(stored_frame(_with_frame(dataset, header + order + EOC))[0], film)
    for only in (first, second):
        with pytest.raises(PixelError, match="not complete: 1 of 2 tiles are missing"):
            stored_frame(_with_frame(dataset, header + only + EOC))
    announced = bytearray(second)
    announced[11] = 2  # TNsot
    faults = {
        "its end is missing": first + second,
        "it ends within a tile": first + second[:-300],
        "a part of a tile is missing": first + bytes(announced) + EOC,
    }
    for words, parts in faults.items():
        assert missing_part(header + parts) == words
        with pytest.raises(PixelError, match=words):
            stored_frame(_with_frame(dataset, header + parts))


def test_tiles_that_cannot_be_counted_are_refused() -> None:
    header, first, second, _ = _two_tiles()
    for size in (b"\0\0\0\0", b"\0\0\0\1"):  # XTsiz: none, and one pixel with 262,144 tiles
        sized = (
            header[:24] + size + header[28:32] + header[32:] if size[-1] == 0 else header[:24] + size * 2 + header[32:]
        )
        assert missing_part(sized + first + second + EOC) in ("its header is cut off", "its tiles cannot be counted")
    for length in range(4, len(header) + 8):
        assert missing_part((header + first)[:length]) is not None
