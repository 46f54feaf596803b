"""The border crop and the square: black and white borders go, anatomy stays, every point finds its way back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from model.images.crop import MIN_KEPT_SHARE, film_box
from model.images.display import fit, from_grey, load_picture, square_to_stored, stored_to_square
from model.images.square import fit_grey, square_fit
from model.schema import DisplayImage, SourceGeometry
from tests.support.common import shared


def _film(height: int = 240, width: int = 300, seed: int = 0) -> NDArray[np.float32]:
    """A film without any border: clouds between 0.15 and 0.95."""
    rng = np.random.default_rng(seed)
    clouds = ndimage.gaussian_filter(rng.normal(0, 1, (height, width)), 12)
    clouds = (clouds - clouds.min()) / np.ptp(clouds)
    film: NDArray[np.float32] = (0.15 + 0.8 * clouds).astype(np.float32)
    return film


def test_a_film_without_a_border_is_kept_whole() -> None:
    image = from_grey(_film())
    assert image.geometry == SourceGeometry(rows=240, columns=300, top=0, left=0, height=240, width=300)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 120), st.integers(0, 120), st.integers(0, 120), st.integers(0, 120)),
    st.sampled_from([0.0, 0.03, 0.09]),
    st.integers(0, 50),
)
def test_a_black_border_goes_and_the_film_stays(sides: tuple[int, int, int, int], level: float, seed: int) -> None:
    top, bottom, left, right = sides
    # A film that would fill less of the picture is left alone: that guard has a rule of its own (MIN_KEPT_SHARE).
    assume(1.1 * MIN_KEPT_SHARE * (240 + top + bottom) * (300 + left + right) < 240 * 300)
    rng = np.random.default_rng(seed)
    whole = np.full((240 + top + bottom, 300 + left + right), level, dtype=np.float32)
    whole += rng.normal(0, 0.004, whole.shape).astype(np.float32)  # JPEG noise
    whole[top : top + 240, left : left + 300] = _film(seed=seed)
    box = film_box(np.clip(whole, 0, 1).astype(np.float32))
    assert box.top <= top
    assert box.left <= left
    assert box.top + box.height >= top + 240
    assert box.left + box.width >= left + 300
    for found, true in ((box.top, top), (box.left, left)):
        assert true - found <= 4, "at most two reduced pixels of border remain"
    assert (top + 240 - (box.top + box.height)) >= -4
    assert (left + 300 - (box.left + box.width)) >= -4


def test_letters_in_the_border_do_not_keep_it() -> None:
    whole = np.zeros((400, 500), dtype=np.float32)
    whole[40:360, 120:420] = _film(320, 300)
    picture = Image.fromarray((whole * 255).astype(np.uint8))
    ImageDraw.Draw(picture).text((10, 200), "PORTABLE L", fill=255)
    box = film_box(np.asarray(picture, dtype=np.float32) / np.float32(255))
    assert 115 <= box.left <= 120
    assert box.left + box.width >= 420


@pytest.mark.parametrize("angle", [-12, -5, 3, 9])
def test_a_film_that_lies_askew_is_never_cut_into(angle: float) -> None:
    whole = np.zeros((500, 560), dtype=np.float32)
    whole[100:400, 100:460] = _film(300, 360)
    mask = np.zeros_like(whole)
    mask[100:400, 100:460] = 1
    turned, where = (ndimage.rotate(a, angle, reshape=False, order=1) for a in (whole, mask))
    box = film_box(np.clip(turned, 0, 1))
    rows, columns = np.flatnonzero((where > 0.5).any(axis=1)), np.flatnonzero((where > 0.5).any(axis=0))
    inside = where[box.top : box.top + box.height, box.left : box.left + box.width] > 0.5
    assert inside.sum() / (where > 0.5).sum() > 0.998, "only the sharp corners of the film may touch the edge"
    assert box.height < 500 - 40
    assert abs(box.top - rows[0]) < 15
    assert abs(box.left - columns[0]) < 15


def test_a_white_frame_behind_the_collimator_goes_and_a_bright_abdomen_stays() -> None:
    whole = np.ones((400, 400), dtype=np.float32)
    whole[30:380, 25:390] = _film(350, 365)
    box = film_box(whole)
    assert (box.top, box.left) == pytest.approx((30, 25), abs=2)
    bright = _film(400, 400)
    bright[330:, 40:360] = 1.0  # saturated abdomen between the flanks
    assert film_box(bright).height == 400


def test_a_nearly_empty_picture_is_left_alone() -> None:
    whole = np.zeros((300, 300), dtype=np.float32)
    whole[100:140, 100:140] = 0.7
    assert film_box(whole).height == 300
    assert film_box(np.zeros((300, 300), dtype=np.float32)).height == 300
    assert film_box(np.ones((300, 300), dtype=np.float32)).height == 300


@pytest.mark.shared_data
def test_no_outlined_lung_of_the_shared_films_is_cut() -> None:
    """58 real films with lung outlines drawn by people: every outline lies within what the crop keeps."""
    lungs = json.loads(shared("data", "hannover", "lungs.json").read_text("utf-8"))["images"]
    cropped = 0
    for name, entry in lungs.items():
        geometry = load_picture(shared("data", "hannover", "png", f"{name}.png")).geometry
        cropped += (geometry.height, geometry.width) != (geometry.rows, geometry.columns)
        for polygon in entry["polygons"]:
            points = np.asarray(polygon)
            assert points[:, 0].min() >= geometry.left - 1, name
            assert points[:, 1].min() >= geometry.top - 1, name
            assert points[:, 0].max() <= geometry.left + geometry.width + 1, name
            assert points[:, 1].max() <= geometry.top + geometry.height + 1, name
    assert len(lungs) == 58
    assert cropped > 5


geometries = st.builds(
    lambda top, left, height, width, below, beside: SourceGeometry(
        rows=top + height + below, columns=left + width + beside, top=top, left=left, height=height, width=width
    ),
    *(st.integers(0, 300), st.integers(0, 300), st.integers(40, 900), st.integers(40, 900)),
    *(st.integers(0, 300), st.integers(0, 300)),
)


@settings(deadline=None)
@given(geometries, st.sampled_from([64, 128, 448]), st.floats(0, 1), st.floats(0, 1))
def test_a_point_of_the_film_finds_its_way_to_the_square_and_back(
    geometry: SourceGeometry, size: int, u: float, v: float
) -> None:
    image = DisplayImage(pixels=np.zeros((geometry.height, geometry.width), dtype=np.float32), geometry=geometry)
    column, row = geometry.to_source(u, v)
    x, y = stored_to_square(geometry, size, column, row)
    assert 0 <= x <= size
    assert 0 <= y <= size
    assert square_to_stored(image, size, x, y) == pytest.approx((column, row), abs=1e-6)


def test_a_mark_is_where_the_mapping_says() -> None:
    """The picture and the mapping must agree: a bright spot put at a stored pixel is found there in the square."""
    whole = np.zeros((500, 700), dtype=np.float32)
    whole[50:450, 100:600] = 0.4
    whole[330:342, 200:212] = 1.0
    image = from_grey(whole)
    assert image.geometry.width < 700
    square = fit(image, 256)
    y, x = (float(c) for c in ndimage.center_of_mass(square > 200))
    column, row = square_to_stored(image, 256, x + 0.5, y + 0.5)
    assert (column, row) == pytest.approx((206, 336), abs=2.0)


@pytest.mark.parametrize(("height", "width"), [(300, 200), (200, 300), (250, 250), (1000, 40)])
def test_the_aspect_ratio_is_kept_and_the_rest_is_black(height: int, width: int) -> None:
    square = fit_grey(np.ones((height, width), dtype=np.float32), 128)
    where = square_fit(height, width, 128)
    assert square.shape == (128, 128)
    assert square.dtype == np.uint8
    assert where.height / where.width == pytest.approx(height / width, rel=0.15)
    assert max(where.height, where.width) == 128
    assert (square == 255).sum() == where.height * where.width
    assert square.sum() == 255 * where.height * where.width
