"""The resampling by matrix products beside Pillow's, which it replaces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.checks.plausibility import measure
from model.images.display import fit_grey
from model.images.resample import ResamplingFilter, resample

PILLOWS = {ResamplingFilter.BICUBIC: Image.Resampling.BICUBIC, ResamplingFilter.BOX: Image.Resampling.BOX}
SIDES = st.integers(1, 90)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("form", list(ResamplingFilter))
@settings(max_examples=60, deadline=None)
@given(shape=st.tuples(SIDES, SIDES), height=SIDES, width=SIDES, seed=st.integers(0, 2**31))
def test_every_size_is_pillows(
    form: ResamplingFilter, shape: tuple[int, int], height: int, width: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).random(shape, dtype=np.float32)
    expected = Image.fromarray(pixels, mode="F").resize((width, height), PILLOWS[form])
    assert np.abs(resample(pixels, height, width, form) - np.asarray(expected)).max() < 2e-6


def test_a_film_of_usual_size_is_pillows(rng: np.random.Generator) -> None:
    """Also one that is a view of another, upside down, as films of MONOCHROME1 or turned ones are."""
    for pixels in (film := rng.random((2100, 1700), dtype=np.float32), film[::-1, 10:-10], film.T):
        height, width = pixels.shape
        expected = Image.fromarray(np.ascontiguousarray(pixels), mode="F").resize((200, 210), Image.Resampling.BICUBIC)
        assert np.abs(resample(pixels, 210, 200) - np.asarray(expected)).max() < 2e-6, (height, width)


def test_a_plain_picture_stays_plain() -> None:
    """The weights of every pixel sum to one: no level of a plain film moves."""
    for grey in (0.0, 0.25, 1.0):
        assert np.unique(fit_grey(np.full((1999, 1999), grey, np.float32), 224)).tolist() == [round(grey * 255)]


def test_the_variance_is_that_of_the_picture(rng: np.random.Generator) -> None:
    """Also of a bright film of little contrast, where a difference of two large sums would lose most."""
    plane = {"mean": np.zeros(1024, np.float32), "basis": np.zeros((1, 1024), np.float32)}
    for spread in (0.02, 0.3):
        coarse = np.kron(rng.normal(0.0, spread, (32, 32)), np.ones((64, 64))) + 0.9
        pixels = (coarse + rng.normal(0.0, spread, coarse.shape)).astype(np.float32)
        measured = measure(pixels, plane)
        expected = measured.contrast**2 / float(pixels.astype(np.float64).var())
        assert measured.coarse == pytest.approx(expected, rel=1e-3)
