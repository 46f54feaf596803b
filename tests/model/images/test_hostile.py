"""Objects made to hurt: each must end in a PixelError with words, in a child that may die, and the caller lives on."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

import model.images.sandbox as decode_module
from model.errors import PixelError
from model.images.codestream import codestream_size
from model.images.display import display_image, load_display_image
from model.images.read import stored_frame
from model.images.sandbox import decode_in_child
from tests.support.common import shared, wait_until
from tests.support.rendering import image_dataset, written


def _values(rows: int = 64, columns: int = 80) -> np.ndarray:
    return np.linspace(0, 4000, rows * columns).astype("u2").reshape(rows, columns)


def _packed(syntax: str) -> Dataset:
    dataset = image_dataset(_values(), stored=12)
    dataset.compress(syntax)
    return dataset


def _header(**elements: object) -> Dataset:
    dataset = image_dataset(_values(), stored=12)
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


REFUSED = {
    "no pixel data": (_header(PixelData=None), "no pixel data"),
    "65535 squared, no data behind": (_header(Rows=65535, Columns=65535), "too large"),
    "sides allowed, area not": (_header(Rows=16000, Columns=16000), "too large"),
    "many frames": (_header(NumberOfFrames=2_000_000), "too large"),
    "more frames than data": (_header(NumberOfFrames=3), "cut off"),
    "rows missing": (_header(Rows=None), "Rows is missing"),
    "rows zero": (_header(Rows=0), "Rows is 0"),
    "more rows than data": (_header(Rows=65), "cut off"),
    "32 bits": (_header(BitsAllocated=32, BitsStored=32, HighBit=31), "32 bits"),
    "1 bit": (_header(BitsAllocated=1, BitsStored=1, HighBit=0), "1 bits"),
    "more bits stored than allocated": (_header(BitsStored=17, HighBit=16), "17 bits"),
    "high bit elsewhere": (_header(HighBit=15), "HighBit 15"),
    "palette colour": (_header(PhotometricInterpretation="PALETTE COLOR"), "PALETTE COLOR"),
    "photometric missing": (_header(PhotometricInterpretation=None), "missing"),
    "colour without its samples": (_header(PhotometricInterpretation="RGB"), "contradict"),
    "a slope beyond all numbers": (
        _header(RescaleSlope="1e300", RescaleIntercept=0),
        "slope 1e\\+300 .* no grey values",
    ),
    "an intercept beyond all numbers": (_header(RescaleSlope=1, RescaleIntercept="-1e300"), "no grey values"),
    "sign that is none": (_header(PixelRepresentation=7), "Pixel Representation"),
    "a postage stamp": (image_dataset(_values(16, 16), stored=12), "only 16 × 16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shown_is_refused_by_words(name: str, tmp_path: Path) -> None:
    dataset, words = REFUSED[name]
    with pytest.raises(PixelError, match=words):
        display_image(dataset)


def test_a_coloured_picture_is_no_radiograph() -> None:
    values = np.zeros((64, 64, 3), dtype="u1")
    values[..., 0] = 200
    dataset = image_dataset(values[..., 0])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.PixelData = values.tobytes()
    with pytest.raises(PixelError, match="coloured"):
        display_image(dataset)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_codestream_larger_than_its_header_is_refused_before_decoding(syntax: str) -> None:
    """A small header over a 65535 × 65535 codestream: what a viewer would allocate sixteen gigabytes for."""
    dataset = _packed(syntax)
    stream = bytearray(dataset.PixelData[20 if dataset.PixelData[8:12] != b"\xfe\xff\x00\xe0" else 16 :])
    if syntax == JPEG2000Lossless:
        at = stream.index(b"\xff\x4f\xff\x51")
        stream[at + 8 : at + 16] = struct.pack(">II", 65535, 65535)
    else:
        at = stream.index(b"\xff\xf7")
        stream[at + 5 : at + 9] = struct.pack(">HH", 65535, 65535)
    dataset.PixelData = encapsulate([bytes(stream)])
    with pytest.raises(PixelError, match="65535 × 65535 pixels"):
        display_image(dataset)


OFFSETS = {
    "from the start of the file": [1234],
    "behind the end": [1 << 20],
    "one too many": [0, 8],
    "descending": [16, 0],
    "into the middle": [3],
}


@pytest.mark.parametrize("table", OFFSETS.values(), ids=OFFSETS)
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
@pytest.mark.parametrize("fragments", [1, 3])
def test_single_frame_is_all_its_fragments_whatever_the_offset_table_says(
    syntax: str, table: list[int], fragments: int
) -> None:
    packed = _packed(syntax)
    stream = next(generate_frames(packed.PixelData, number_of_frames=1))
    size = -(-len(stream) // fragments) & ~1
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)] if fragments > 1 else [stream]
    offsets = struct.pack(f"<HHL{len(table)}L", 0xFFFE, 0xE000, 4 * len(table), *table)
    packed.PixelData = offsets + encapsulate(pieces, has_bot=False)[8:]
    assert np.array_equal(stored_frame(packed)[0], _values())


def test_extended_offset_table_hides_no_other_codestream_than_the_checked_one() -> None:
    """A decoder that follows the table would be given what the size check has not seen."""
    packed = _packed(JPEG2000Lossless)
    stream = next(generate_frames(packed.PixelData, number_of_frames=1))
    small = stream + bytes(len(stream) % 2)
    packed.PixelData = encapsulate([small], has_bot=False)
    packed.ExtendedOffsetTable, packed.ExtendedOffsetTableLengths = struct.pack("<Q", 40), struct.pack("<Q", 8)
    assert np.array_equal(stored_frame(packed)[0], _values())


def test_frame_of_several_is_found_without_a_table_that_fits() -> None:
    first, second = _packed(JPEG2000Lossless), image_dataset(_values()[::-1].copy(), stored=12)
    second.compress(JPEG2000Lossless)
    streams = [next(generate_frames(one.PixelData, number_of_frames=1)) for one in (first, second)]
    first.NumberOfFrames, first.RepresentativeFrameNumber = 2, 2
    table = struct.pack("<HHL2L", 0xFFFE, 0xE000, 8, 0, 5)
    first.PixelData = table + encapsulate(streams, has_bot=False)[8:]
    assert np.array_equal(stored_frame(first)[0], _values()[::-1])


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
@pytest.mark.parametrize("rows", [63, 65, 640])
def test_lying_rows_over_a_good_codestream(syntax: str, rows: int) -> None:
    dataset = _packed(syntax)
    dataset.Rows = rows
    with pytest.raises(PixelError):
        display_image(dataset)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("name", ["RG1_J2KI.dcm", "not_chest_RG3_extremity_MONO1_J2KR.dcm"])
def test_a_truncated_jpeg_2000_file_never_hurts_the_caller(name: str, share: float, tmp_path: Path) -> None:
    """A cut is refused or lies behind the pixels; it must not crash, hang or hand out another size."""
    source = shared("data", "dicom", name).read_bytes()
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(source[: int(len(source) * share)])
    try:
        image = decode_in_child(cut)
    except PixelError:
        return
    assert image.geometry.rows == dcmread(cut, stop_before_pixels=True).Rows


def test_the_size_of_real_codestreams_is_read() -> None:
    for path in sorted(shared("data", "studies").glob("*/*/*.dcm")):
        dataset = dcmread(path)
        if dataset.file_meta.TransferSyntaxUID in (JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1):
            offset = dataset.PixelData.index(
                b"\xff\xd8" if b"\xff\x4f\xff\x51" not in dataset.PixelData else b"\xff\x4f"
            )
            assert codestream_size(dataset.PixelData[offset:]) == (dataset.Rows, dataset.Columns)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_end_in_an_image_or_a_pixel_error(data: st.DataObject, tmp_path: Path) -> None:
    """In this process and on purpose: nothing but PixelError may come out of our own code and pydicom's parser."""
    source = bytearray(written(image_dataset(_values(40, 40), stored=12), tmp_path / "good.dcm").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        source[data.draw(st.integers(132, len(source) - 3201))] = data.draw(st.integers(0, 255))
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(source)
    try:
        image = load_display_image(bad)
    except PixelError:
        return
    assert image.pixels.size <= 64_000_000


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 132, b"\0" * 128 + b"DICM", os.urandom(4096)])
def test_what_is_no_dicom_at_all(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "no.dcm"
    path.write_bytes(content)
    with pytest.raises(PixelError):
        load_display_image(path)
    with pytest.raises(PixelError, match="cannot be read"):
        load_display_image(tmp_path / "missing.dcm")


def test_the_child_gives_what_this_process_gives(tmp_path: Path) -> None:
    path = written(_packed(JPEGLSLossless), tmp_path / "film.dcm")
    ours, theirs = load_display_image(path), decode_in_child(path)
    assert np.array_equal(ours.pixels, theirs.pixels)
    assert (ours.geometry, ours.sha256, ours.view, ours.acquired) == (
        theirs.geometry,
        theirs.sha256,
        theirs.view,
        theirs.acquired,
    )


def _child_pid() -> int:
    child = decode_module._pool._child
    assert child is not None
    return child.process.pid


def test_a_deflate_bomb_costs_the_child_its_memory_not_us(tmp_path: Path) -> None:
    """Four gigabytes of zeros in four megabytes of file: pydicom inflates the whole data set at once."""
    good = written(image_dataset(_values(), stored=12), tmp_path / "good.dcm")
    decode_in_child(good)
    meta = dcmread(good).file_meta
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    bomb = tmp_path / "bomb.dcm"
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = Dataset()
    head.file_meta = meta
    head.save_as(tmp_path / "head.dcm", enforce_file_format=True)
    with bomb.open("wb") as out:
        out.write((tmp_path / "head.dcm").read_bytes()[: 132 + 12 + meta[0x00020000].value])
        out.write(packer.compress(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 0xFFFFFFF0)))
        out.write(packer.flush(zlib.Z_FULL_FLUSH))
        block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
        for _ in range(256):  # a block after a full flush refers to nothing before it, so it may be repeated
            out.write(block)
        out.write(packer.flush())
    assert bomb.stat().st_size < 6_000_000
    with pytest.raises(PixelError):
        decode_in_child(bomb, memory_bytes=512 << 20)
    assert decode_in_child(good).geometry.rows == 64


def test_too_little_memory_is_said_and_the_next_image_is_decoded() -> None:
    path = shared("data", "dicom", "RG1_J2KI.dcm")
    decode_module._pool.close()  # a child that has decoded large images has free memory that it need not ask for
    with pytest.raises(PixelError, match="memory"):
        decode_in_child(path, memory_bytes=8 << 20)
    assert decode_in_child(path).geometry.rows == 1955


def test_a_decoder_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """A FIFO that nobody writes to hangs the child for ever, as a decoder in an endless loop would."""
    good = written(image_dataset(_values(), stored=12), tmp_path / "good.dcm")
    decode_in_child(good)
    before = _child_pid()
    hang = tmp_path / "hang.dcm"
    os.mkfifo(hang)
    with pytest.raises(PixelError, match=r"longer than 0\.3 s"):
        decode_in_child(hang, timeout_seconds=0.3)
    assert not Path(f"/proc/{before}").exists(), "the hung child must be gone"
    assert decode_in_child(good).geometry.rows == 64
    assert _child_pid() != before


def _kill_once_it_reads(pid: int, pipe: Path) -> None:
    """Crash the child when it has opened the named pipe: only then does a writer's open succeed without waiting."""
    writers: list[int] = []

    def is_being_read() -> bool:
        with contextlib.suppress(OSError):
            writers.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    wait_until(is_being_read, what="the child to open the file")
    os.kill(pid, signal.SIGSEGV)
    os.close(writers[0])


def test_a_decoder_that_crashes_is_replaced(tmp_path: Path) -> None:
    good = written(image_dataset(_values(), stored=12), tmp_path / "good.dcm")
    decode_in_child(good)
    hang = tmp_path / "hang.dcm"
    os.mkfifo(hang)
    pid = _child_pid()
    killer = threading.Thread(target=_kill_once_it_reads, args=(pid, hang))
    killer.start()
    with pytest.raises(PixelError, match="signal 11"):
        decode_in_child(hang, timeout_seconds=20)
    killer.join()
    assert decode_in_child(good).geometry.rows == 64


def test_a_child_is_not_reused_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = written(image_dataset(_values(), stored=12), tmp_path / "good.dcm")
    decode_in_child(good)
    before = _child_pid()
    monkeypatch.setattr(decode_module, "IMAGES_PER_CHILD", 1)
    decode_in_child(good)
    assert _child_pid() != before
    assert not Path(f"/proc/{before}").exists()


def test_threads_share_the_child(tmp_path: Path) -> None:
    paths = []
    for number in range(6):
        values = _values() + number
        paths.append(written(image_dataset(values.astype("u2"), stored=13), tmp_path / f"{number}.dcm"))
    expected = [load_display_image(path).sha256 for path in paths]
    found: dict[int, str] = {}

    def work(number: int) -> None:
        found[number] = decode_in_child(paths[number]).sha256

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(6)] == expected
