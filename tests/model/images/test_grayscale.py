"""Rules that DCMTK cannot confirm: the exact formulas, padding, images without a window, multi-frame, identity."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless

from model.images.display import display_image, from_grey, full_grey, load_display_image
from model.images.grayscale import VoiFunction, Window
from tests.support.common import shared
from tests.support.rendering import image_dataset, lut_item, written


def _film(low: int = 500, high: int = 3500, side: int = 96, kind: str = "u2") -> NDArray[Any]:
    """Something with structure: two dark lungs in a brighter body, no border."""
    y, x = np.mgrid[:side, :side] / side
    lungs = np.exp(-(((x - 0.3) / 0.12) ** 2 + ((y - 0.5) / 0.25) ** 2))
    lungs += np.exp(-(((x - 0.7) / 0.12) ** 2 + ((y - 0.5) / 0.25) ** 2))
    film: NDArray[Any] = (high - (high - low) * np.clip(lungs, 0, 1) - 200 * y).astype(kind)
    return film


@settings(deadline=None)
@given(st.floats(-1000, 1000), st.floats(1.5, 5000), st.floats(-6000, 6000))
def test_the_three_functions_of_the_standard(centre: float, width: float, value: float) -> None:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, output 0..1."""
    x = np.array([value], dtype=np.float64)
    linear = Window(centre=centre, width=width, function=VoiFunction.LINEAR)(x)
    if value <= centre - 0.5 - (width - 1) / 2:
        expected = 0.0
    elif value > centre - 0.5 + (width - 1) / 2:
        expected = 1.0
    else:
        expected = (value - (centre - 0.5)) / (width - 1) + 0.5
    assert float(linear[0]) == pytest.approx(expected, abs=1e-5)
    exact = Window(centre=centre, width=width, function=VoiFunction.LINEAR_EXACT)(x)
    assert float(exact[0]) == pytest.approx(min(max((value - centre) / width + 0.5, 0.0), 1.0), abs=1e-5)
    sigmoid = Window(centre=centre, width=width, function=VoiFunction.SIGMOID)(x)
    assert float(sigmoid[0]) == pytest.approx(1 / (1 + np.exp(min(-4 * (value - centre) / width, 700))), abs=1e-5)


def test_linear_exact_is_read_from_the_header() -> None:
    values = np.linspace(0, 4095, 64 * 64).astype("u2").reshape(64, 64)
    dataset = image_dataset(values, stored=12, WindowCenter=2000, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT")
    assert full_grey(dataset) == pytest.approx(np.clip((values - 2000.0) / 1000 + 0.5, 0, 1), abs=1e-5)


@pytest.mark.parametrize(
    "window", [{}, {"WindowCenter": 90000, "WindowWidth": 10}, {"WindowCenter": 5, "WindowWidth": 0}]
)
def test_without_a_usable_window_the_picture_spreads_itself(window: dict[str, int]) -> None:
    grey = full_grey(image_dataset(_film(3000, 3400), stored=12, **window))
    assert 0.0 == grey.min() < 0.01 < np.median(grey) < 0.99 < grey.max() == 1.0
    assert ((grey == 0) | (grey == 1)).mean() < 0.03, "only the extremes may be cut off"


def test_an_8_bit_picture_without_a_window_is_shown_as_it_is() -> None:
    values = np.linspace(10, 240, 64 * 64).astype("u1").reshape(64, 64)
    assert full_grey(image_dataset(values)) == pytest.approx(values / 255.0, abs=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_whichever_way_the_picture_runs(photometric: str) -> None:
    values = _film()
    values[:, :20] = 4095
    values[40, 60] = 4095  # the same value within the film is film
    elements = {"PhotometricInterpretation": photometric, "PixelPaddingValue": 4095}
    grey = full_grey(image_dataset(values, stored=12, WindowCenter=2000, WindowWidth=4000, **elements))
    assert (grey[:, :20] == 0).all()
    assert grey[40, 60] == (0.0 if photometric == "MONOCHROME1" else 1.0)
    assert grey[:, 21:].std() > 0.05


def test_padding_may_be_a_range_and_does_not_disturb_the_percentiles() -> None:
    values = _film(100, 900, kind="i2")
    values[:30] = np.linspace(-2000, -1500, 30)[:, None].astype("i2")
    dataset = image_dataset(values, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1500)
    dataset["PixelPaddingValue"].VR = dataset["PixelPaddingRangeLimit"].VR = "SS"
    grey = full_grey(dataset)
    assert (grey[:30] == 0).all()
    assert grey[30:].min() < 0.05 < 0.95 < grey[30:].max()


def test_a_padding_value_that_would_blank_the_film_is_not_believed() -> None:
    values = np.full((64, 64), 7, dtype="u2")
    values[30:34, 30:34] = 900
    grey = full_grey(image_dataset(values, stored=10, PixelPaddingValue=7, WindowCenter=500, WindowWidth=1000))
    assert grey.max() > 0.8
    assert grey[0, 0] == pytest.approx((7 - 499.5) / 999 + 0.5, abs=1e-5)


def test_a_lut_wins_over_a_window_and_a_damaged_one_does_not() -> None:
    values = np.arange(4096).astype("u2").reshape(64, 64)
    upside = lut_item(0, list(range(4095, -1, -1)), 12)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    assert full_grey(image_dataset(values, stored=12, VOILUTSequence=[upside], **window))[0, 0] == 1.0
    short = lut_item(0, [1, 2, 3], 12)
    short.LUTDescriptor = [4096, 0, 12]
    assert full_grey(image_dataset(values, stored=12, VOILUTSequence=[short], **window))[0, 0] == 0.0


def test_the_shown_frame_is_the_representative_one_else_the_first() -> None:
    frames = np.stack([_film(), _film()[::-1], _film()[:, ::-1]])
    single = [full_grey(image_dataset(frame, stored=12)) for frame in frames]
    assert np.array_equal(full_grey(image_dataset(frames, stored=12)), single[0])
    assert np.array_equal(full_grey(image_dataset(frames, stored=12, RepresentativeFrameNumber=2)), single[1])
    assert np.array_equal(full_grey(image_dataset(frames, stored=12, RepresentativeFrameNumber=9)), single[0])


def test_an_enhanced_object_has_its_window_in_the_functional_groups() -> None:
    voi, transform, group = Dataset(), Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth = 1000, 2000
    transform.RescaleSlope, transform.RescaleIntercept = "0.5", "0"
    group.FrameVOILUTSequence, group.PixelValueTransformationSequence = [voi], [transform]
    values = _film()
    grey = full_grey(image_dataset(values, stored=12, SharedFunctionalGroupsSequence=[group]))
    assert grey == pytest.approx(np.clip((values * 0.5 - 999.5) / 1999 + 0.5, 0, 1), abs=1e-4)


def test_a_grey_picture_stored_as_colour_is_read(tmp_path: Path) -> None:
    values = np.repeat((_film() // 16).astype("u1")[..., None], 3, axis=2)
    dataset = image_dataset(values[..., 0])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.PixelData = values.tobytes()
    assert full_grey(dataset) == pytest.approx(values[..., 0] / 255.0, abs=1e-6)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_the_hash_names_the_film_not_its_encoding(syntax: str) -> None:
    plain = image_dataset(_film(), stored=12)
    packed = image_dataset(_film(), stored=12)
    packed.compress(syntax)
    other = image_dataset(_film(501), stored=12)
    packed.SOPInstanceUID = "2.25.77"
    first, second, third = (display_image(ds) for ds in (plain, packed, other))
    assert first.sha256 == second.sha256 != third.sha256
    assert len(first.sha256) == 64
    assert (first.sop_instance_uid, second.sop_instance_uid) == ("2.25.1", "2.25.77")


def test_view_and_time_come_from_the_header() -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "272479007", "SCT", "postero-anterior"
    coded = image_dataset(_film(), stored=12, ViewCodeSequence=[code], StudyDate="20200102", StudyTime="0304")
    image = display_image(coded)
    assert (image.view, image.acquired) == ("PA", dt.datetime.fromisoformat("2020-01-02T03:04"))
    full = image_dataset(_film(), stored=12, ViewPosition="LL", AcquisitionDateTime="20200102030405.25+0100")
    assert display_image(full).view is None
    assert display_image(full).acquired == dt.datetime.fromisoformat("2020-01-02T03:04:05.250")
    bare = image_dataset(_film(), stored=12, StudyDate="", AcquisitionTime="99")
    assert display_image(bare).acquired is None


def test_a_file_without_preamble_is_read() -> None:
    image = load_display_image(shared("data", "dicom", "CR-MONO1-10-chest"))
    assert image.pixels.shape == (440, 440)
    assert image.view == "PA"


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_plain_picture_gives_the_same_as_its_array(kind: str, tmp_path: Path) -> None:
    values = (_film() // 16).astype("u1")
    Image.fromarray(values).save(tmp_path / f"film.{kind}", quality=100)
    read = load_display_image(tmp_path / f"film.{kind}")
    assert np.abs(read.pixels - from_grey(values).pixels).max() < (1e-6 if kind == "png" else 0.03)


def test_a_16_bit_png_is_read_in_full_depth(tmp_path: Path) -> None:
    values = _film(0, 60000, kind="u2")
    Image.fromarray(values).save(tmp_path / "film.png")
    image = load_display_image(tmp_path / "film.png")
    assert image.pixels == pytest.approx(values / 65535.0, abs=1e-6)
    assert image.sha256 == from_grey(values).sha256


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 16), st.booleans(), st.booleans(), st.integers(0, 1000))
def test_unused_bits_do_not_count(stored: int, signed: bool, inverted: bool, seed: int) -> None:
    """Whatever stands in the bits above BitsStored (old overlays), the picture is the same."""
    rng = np.random.default_rng(seed)
    low, high = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
    values = rng.integers(low, high, (40, 40), endpoint=True).astype("i2" if signed else "u2")
    header = {"WindowCenter": (low + high) / 2, "WindowWidth": (high - low) / 2 + 2}
    clean = image_dataset(values, stored=stored, **header)
    dirty = image_dataset(values, stored=stored, **header)
    words = np.frombuffer(dirty.PixelData, dtype="<u2") | (
        rng.integers(0, 65536, 1600) & (0xFFFF ^ ((1 << stored) - 1))
    ).astype("<u2")
    dirty.PixelData = words.astype("<u2").tobytes()
    if inverted:
        clean.PhotometricInterpretation = dirty.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(full_grey(clean), full_grey(dirty))
    assert display_image(clean).sha256 == display_image(dirty).sha256


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    dataset = image_dataset(_film(), stored=12, WindowCenter=2000, WindowWidth=4000)
    image = load_display_image(written(dataset, tmp_path / "film.dcm"))
    assert np.array_equal(image.pixels, display_image(dataset).pixels)
    assert image.pixels.dtype == np.float32


@pytest.mark.parametrize(
    ("elements", "rows"),
    [
        ({"PixelAspectRatio": [2, 1]}, 120),
        ({"ImagerPixelSpacing": ["0.4", "0.2"]}, 120),
        ({"PixelSpacing": ["0.2", "0.2"], "PixelAspectRatio": [2, 1]}, 60),
        ({"PixelAspectRatio": [100, 1]}, 60),
        ({"PixelAspectRatio": [0, 1]}, 60),
        ({}, 60),
    ],
    ids=["ratio", "spacing", "spacing goes before ratio", "impossible", "zero", "nothing said"],
)
def test_film_with_pixels_that_are_not_square_is_shown_in_its_aspect(elements: dict[str, Any], rows: int) -> None:
    """A digitised film with half its rows: a chest squeezed to half its height has another heart-to-thorax ratio."""
    values = np.linspace(0, 4000, 60 * 80).astype("u2").reshape(60, 80)
    dataset = image_dataset(values, stored=12)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    shown = display_image(dataset, crop=False)
    assert shown.pixels.shape == (rows, 80)
    assert (shown.geometry.rows, shown.geometry.columns) == (60, 80), "places are told in the stored pixels"
