"""Lungs and midline are found on phantoms and on real films, and not where there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.checks.frontal_view import SIDE
from model.checks.lung_fields import _weights, find_lungs, lung_shares
from model.images.display import from_grey
from tests.support.common import shared
from training.image_checks.lung_fields_train import Segmenter, draw_outlined_phantoms, measure, read_outlined_films


def test_the_lungs_of_phantoms_are_found() -> None:
    figures = measure(draw_outlined_phantoms(8, seed=5_000_000))
    assert figures["given up"] == 0
    assert figures["mean Dice"] > 0.9
    assert figures["midline, largest"] < 5


@pytest.mark.shared_data
def test_the_lungs_of_films_that_were_not_trained_on_are_found() -> None:
    figures = measure(read_outlined_films(Path(shared("data")), ["dev", "fixture"]))
    assert figures["given up"] == 0
    assert figures["mean Dice"] > 0.9
    assert figures["midline, largest"] < 4


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_blank_picture_has_no_lungs(level: float) -> None:
    assert find_lungs(from_grey(np.full((300, 300), level, dtype=np.float32))) is None


def test_noise_has_no_lungs() -> None:
    noise = np.random.default_rng(3).random((300, 260), dtype=np.float32)
    assert find_lungs(from_grey(noise)) is None


def test_the_network_without_torch_is_the_one_that_was_trained() -> None:
    network = Segmenter()
    network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in _weights().items()})
    square = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    with torch.no_grad():
        theirs = network(torch.from_numpy(square)[None, None]).sigmoid()[0].numpy()
    assert np.abs(lung_shares(square, _weights()) - theirs).max() < 1e-4
