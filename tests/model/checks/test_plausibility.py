"""The strict look that overrules a header: it refuses what is no radiograph, and not one film that is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from model.checks.frontal_view import check_view
from model.checks.plausibility import PictureFault, measure, picture_fault
from model.images.display import from_grey, load_picture
from tests.model.checks.test_frontal_view import _dev_films
from tests.support.common import REPOSITORY
from training.image_checks.picture_check_train import COMPONENTS, fit_plane, patterns
from training.phantom.render import render_pair, sample_pair

PLANE = REPOSITORY / "model" / "checks" / "plausibility.safetensors"
_EXPECTED = {
    "white noise": PictureFault.NOISE,
    "Gaussian noise": PictureFault.NOISE,
    "Poisson noise": PictureFault.NOISE,
    "blank": PictureFault.BLANK,
    "blank with noise": PictureFault.BLANK,
    "chequers": PictureFault.PATTERN,
    "rings": PictureFault.PATTERN,
    "grid": PictureFault.NOISE,
}


@pytest.mark.parametrize("seed", range(4))
def test_noise_and_patterns_are_refused_by_name(seed: int) -> None:
    made = patterns(np.random.default_rng(seed))
    faults = {name: check_view(from_grey(picture, crop=False)).fault for name, picture in made.items()}
    assert {name: faults[name] for name in _EXPECTED} == _EXPECTED
    assert all(faults.values()), faults


@pytest.mark.shared_data
def test_no_real_film_is_refused_however_it_lies() -> None:
    """130 films of the split that fitted nothing, in turn upright, turned and inverted (all of each: docs)."""
    for number, path in enumerate(_dev_films()):
        pixels = load_picture(path).pixels
        picture = (pixels, np.rot90(pixels).copy(), 1.0 - pixels)[number % 3]
        assert check_view(from_grey(picture)).fault is None, path.name


def test_phantoms_are_not_refused() -> None:
    for seed in range(9_000_000, 9_000_012):
        for film in render_pair(sample_pair(seed), 200, 200):
            assert check_view(from_grey(film.pixels)).fault is None


@settings(max_examples=20, deadline=None)
@given(turn=st.integers(0, 3), invert=st.booleans(), gain=st.floats(0.5, 1.0), seed=st.integers(0, 1000))
def test_a_turn_and_the_exposure_change_nothing(turn: int, invert: bool, gain: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.random((8, 8)), np.ones((25, 25))).astype(np.float32)
    plane = {name: value.astype(np.float32) for name, value in load_file(PLANE).items()}
    there = np.rot90(1 - picture if invert else picture, turn).copy() * np.float32(gain)
    before, after = measure(picture, plane), measure(there, plane)
    assert after.contrast == pytest.approx(before.contrast * gain, rel=1e-3)
    for name in ("coarse", "detail", "strange"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=2e-3)


def test_the_trained_look_refuses_only_when_it_is_certain() -> None:
    film = render_pair(sample_pair(9_000_000), 200, 200)[0].pixels
    assert picture_fault(film, 0.99) is None
    assert picture_fault(film, 0.9995) is PictureFault.OTHER


def test_the_plane_explains_what_it_was_fitted_on() -> None:
    films = [from_grey(f.pixels).pixels for seed in range(60) for f in render_pair(sample_pair(seed), 64, 64)]
    plane = fit_plane(films[:100], np.random.default_rng(0))
    assert plane["basis"].shape == (COMPONENTS, 1024)
    full = {name: value.astype(np.float32) for name, value in plane.items()}
    assert np.allclose(full["basis"] @ full["basis"].T, np.eye(COMPONENTS), atol=5e-3)
    unseen = max(measure(film, full).strange for film in films[100:])
    noise = measure(np.random.default_rng(1).random((64, 64)).astype(np.float32), full).strange
    assert unseen < 0.3 < noise
