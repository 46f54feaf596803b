"""Statistics that tell films of people from phantoms and from what is neither."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from model.experts.film_network import FEATURES, MARKED, MINED, SIDE, FilmNetwork
from training.films.domains import course_squares, film_domains, phantom_features, phantom_squares
from training.films.film_set import MASK_SIDE, FilmSet
from training.films.outputs import domains_of, features_of

FILMS = 320


def _films() -> FilmSet:
    """Every fourth film is coarse, as one of 64 px is; some patients are of the validation part."""
    rng = np.random.default_rng(0)
    is_small = np.arange(FILMS) % 4 == 3
    squares = rng.integers(0, 255, (FILMS, SIDE, SIDE), dtype=np.uint8)
    coarse = rng.integers(60, 190, (FILMS, SIDE // 8, SIDE // 8), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    squares[is_small] = coarse[is_small]
    return FilmSet(
        squares=squares,
        names=np.array([str(number) for number in range(FILMS)]),
        patients=np.array([f"nih/{number}" for number in range(FILMS)]),
        splits=np.array(["train"] * FILMS),
        pixels=np.where(is_small, 64, 128),
        views=np.array(["PA"] * FILMS),
        ages=np.full(FILMS, 50),
        sexes=np.array(["F"] * FILMS),
        mined=np.zeros((FILMS, len(MINED)), np.float32),
        marked=np.full((FILMS, len(MARKED)), -1.0, np.float32),
        areas=np.zeros((FILMS, len(MARKED)), np.float32),
        mask_rows=np.full(FILMS, -1),
        masks=np.zeros((0, len(MARKED), MASK_SIDE, MASK_SIDE), np.float16),
    )


def _unlike(features: NDArray[np.float32], centre: torch.Tensor, whitening: torch.Tensor, limit: float) -> float:
    distances = ((torch.from_numpy(features) - centre) @ whitening).norm(dim=1) / limit
    return float((distances > 1.0).float().mean())


def test_small_films_count_by_their_share_and_phantoms_by_their_own() -> None:
    torch.manual_seed(0)
    network, films = FilmNetwork().eval(), _films()
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=(60, FEATURES)).astype(np.float32) for _ in range(2))
    apart = domains_of([second, first], [first, second])
    found = film_domains(films, network, (first, second))
    for name in ("centres", "whitening", "limits"):
        assert torch.equal(getattr(found, name)[1], getattr(apart, name)[1]), "by phantoms and by nothing else"
        assert not torch.equal(getattr(found, name)[0], getattr(apart, name)[0])
    small = np.flatnonzero(films.is_validation & (films.pixels < SIDE))
    assert len(small) >= 5
    features = features_of(network, films.squares[small])
    assert _unlike(features, found.centres[0], found.whitening[0], float(found.limits[0])) <= 0.2
    large = np.flatnonzero(films.is_training & (films.pixels >= SIDE))
    alone = domains_of([features_of(network, films.squares[large])], [features_of(network, films.squares[large])])
    assert _unlike(features, alone.centres[0], alone.whitening[0], float(alone.limits[0])) == 1.0


def test_phantoms_of_pairs_and_courses_are_learned_from_or_held_back() -> None:
    torch.manual_seed(0)
    network = FilmNetwork().eval()
    learned, held = phantom_features(network, pairs=3, courses=3)
    # 3,200,001 is the one of the three seeds that 3 divides.
    courses = [course_squares(seed) for seed in (3_200_000, 3_200_001, 3_200_002)]
    pairs = phantom_squares(6, 8_500_000)
    assert np.allclose(held, features_of(network, np.concatenate([pairs[:2], courses[1]])), atol=1e-3)
    assert np.allclose(learned, features_of(network, np.concatenate([pairs[2:], courses[0], courses[2]])), atol=1e-3)
