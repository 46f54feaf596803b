"""Statistics that tell films of people from phantoms and from what is neither, by the first member's features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from model.experts.film_classifier import STATISTICS, WEIGHTS, Domains
from model.experts.film_network import SIDE, FilmNetwork, grow_heads
from model.images.display import from_grey
from model.images.square import fit
from training.films.film_set import FilmSet
from training.films.outputs import domains_of, features_of
from training.phantom.render import render_pair, sample_pair

PHANTOM_SEED, PHANTOM_FILMS, PHANTOM_SIDE = 8_500_000, 240, 320
"""Phantom films for the statistics of their kind; a third is held back for its limit."""
LEARNED_STEP = 8
"""One in so many training films gives the statistics of people."""


def kept_domains(folder: Path, first: FilmNetwork) -> Domains | None:
    """The statistics of the classifier that the checkpoint has, if this network is its first member, whose features
    they are of: what counts as a phantom then stays as it was. None otherwise."""
    if not (folder / WEIGHTS).is_file():
        return None
    tensors = load_file(folder / WEIGHTS)
    own = {name.removeprefix("0."): value.float() for name, value in tensors.items() if name.startswith("0.")}
    state = first.state_dict()
    for name, value in grow_heads(own).items():
        if not torch.equal(state[name].half().float(), value):
            return None
    return Domains(**{name: tensors[f"domain.{name}"] for name in STATISTICS})


def film_domains(films: FilmSet, first: FilmNetwork, kept: Domains | None = None) -> Domains:
    """Statistics of the first member's features for films of people and for phantoms.

    Films of every size by their share: of films of 64 px one in five would else be unlike those of training. kept: what
    `kept_domains` gave; what it says of phantoms then stays.
    """
    learned, held = np.flatnonzero(films.is_training)[::LEARNED_STEP], np.flatnonzero(films.is_validation)
    people, kept_back = (features_of(first, films.squares[rows]) for rows in (learned, held))
    if kept is not None:
        return _with_people(kept, domains_of([people], [kept_back]))
    phantoms = features_of(first, phantom_squares(PHANTOM_FILMS, PHANTOM_SEED))
    third = len(phantoms) // 3
    return domains_of([people, phantoms[third:]], [kept_back, phantoms[:third]])


def _with_people(kept: Domains, people: Domains) -> Domains:
    """The statistics of phantoms in `kept` behind those of people."""
    rows = {name: torch.cat([getattr(people, name), getattr(kept, name)[1:]]) for name in STATISTICS}
    return Domains(**rows)


def phantom_squares(count: int, first_seed: int) -> NDArray[np.uint8]:
    """Current and prior films of phantom pairs, as the classifier sees them."""
    squares = []
    for seed in range(first_seed, first_seed + count // 2):
        for film in render_pair(sample_pair(seed), PHANTOM_SIDE, PHANTOM_SIDE):
            squares.append(fit(from_grey(film.pixels), SIDE))
    return np.stack(squares)
