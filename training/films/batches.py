"""The films and pairs of a training step, and the known changes of a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.experts.film_network import GRADED, GRID, MARKED, MINED
from model.schema import Change
from training.films.augment import augment_films
from training.films.film_set import FilmSet
from training.films.outputs import word_of
from training.records.record import Record

BETTER, SAME, WORSE = 0, 1, 2
DIRECTIONS: Mapping[Change, int] = {
    Change.NEW: WORSE,
    Change.WORSENING: WORSE,
    Change.STABLE: SAME,
    Change.IMPROVING: BETTER,
    Change.RESOLVED: BETTER,
}
MINED_CHANGE_WEIGHT, MINED_SAME_WEIGHT, MARKED_NOTHING_WEIGHT = 0.4, 0.05, 0.15
"""Of a mined label that flips (it may be the reader's, not the patient's), of one that does not, and of a finding that
radiologists marked on neither film; a change between two of their readings weighs 1."""
SMALL_FILM_WEIGHT = 0.6
"""Of films of 64 px."""
READ_WEIGHT = 3.0
RARE = {"Pneumothorax": 2.0, "Consolidation": 2.0, "Edema": 3.0, "Cardiomegaly": 2.5, "Emphysema": 1.5}
"""The factor by which a film with this mined label is drawn more often. More is learned by heart (measured)."""
_CHANGING = frozenset(MARKED[:4])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairSet:
    """P pairs: rows of prior and current film [P, 2]; directions and weights [P, GRADED]; how often each is drawn."""

    rows: NDArray[np.int64]
    directions: NDArray[np.int64]
    weights: NDArray[np.float32]
    shares: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilmBatch:
    """pairs: the first `pairs` films are priors, the next ones their current films, the rest stand alone."""

    rows: NDArray[np.int64]
    pairs: int
    grey: Tensor
    masks: Tensor
    directions: Tensor
    weights: Tensor


def film_shares(films: FilmSet, read_weight: float = READ_WEIGHT) -> NDArray[np.float64]:
    """The share of each film drawn alone; films that are not learned from get none. read_weight: of films that
    radiologists read."""
    shares = np.where(films.is_read, read_weight, 1.0) * np.where(films.pixels < 128, SMALL_FILM_WEIGHT, 1.0)
    for label, more in RARE.items():
        shares = np.where(films.mined[:, MINED.index(label)] > 0, shares * more, shares)
    rare = (films.marked[:, MARKED.index("pneumothorax")] > 0) | (films.marked[:, MARKED.index("atelectasis")] > 0)
    shares = np.where(films.is_training, np.where(rare, shares * 1.5, shares), 0.0)
    normal: NDArray[np.float64] = shares / shares.sum()
    return normal


def pair_set(films: FilmSet, pairs: Mapping[tuple[int, int], Record]) -> PairSet:
    """The training pairs; what radiologists read replaces what reports mention of the same pair."""
    rows, directions, weights, shares = [], [], [], []
    is_training, read = films.is_training, films.is_read
    for (prior, current), record in pairs.items():
        if not is_training[current]:
            continue
        is_read = bool(read[prior] and read[current])
        known = {word_of(key): DIRECTIONS[t.change] for key, t in record.truth.findings.items() if t.change is not None}
        direction = np.full(len(GRADED), SAME, np.int64)
        weight = np.full(len(GRADED), MARKED_NOTHING_WEIGHT if is_read else MINED_SAME_WEIGHT, np.float32)
        for word, value in known.items():
            if word in GRADED:
                direction[GRADED.index(word)] = value
                weight[GRADED.index(word)] = 1.0 if is_read else MINED_CHANGE_WEIGHT
        if is_read:
            weight[len(MARKED) :] = 0.0  # radiologists marked neither edema nor the heart
        rows.append((prior, current))
        directions.append(direction)
        weights.append(weight)
        small = SMALL_FILM_WEIGHT if films.pixels[prior] < 128 else 1.0
        shares.append(small * _share(known, is_read))
    total = np.array(shares)
    return PairSet(
        rows=np.array(rows), directions=np.stack(directions), weights=np.stack(weights), shares=total / total.sum()
    )


def _share(known: Mapping[str, int], is_read: bool) -> float:
    changed = {word for word, direction in known.items() if direction != SAME}
    if is_read:
        return 4.0 if changed & _CHANGING else 2.0
    return 1.0 if changed else 0.3


def squares(films: FilmSet, rows: NDArray[np.int64]) -> Tensor:
    """Grey [N, 1, SIDE, SIDE] in 0..1."""
    return torch.from_numpy(films.squares[rows]).float()[:, None] / 255.0


def draw(films: FilmSet, alone: NDArray[np.float64], pairs: PairSet, size: int, rng: np.random.Generator) -> FilmBatch:
    """A batch of `size` films, half of them in pairs; the films of a pair are mirrored alike, else moved apart."""
    count = size // 4
    chosen = rng.choice(len(pairs.rows), count, p=pairs.shares)
    rows = np.concatenate(
        [pairs.rows[chosen, 0], pairs.rows[chosen, 1], rng.choice(len(alone), size - 2 * count, p=alone)]
    )
    mirrored = torch.rand(size) < 0.5
    mirrored[count : 2 * count] = mirrored[:count]  # a prior mirrored alone would show its findings on the other side
    masks = torch.zeros(size, len(MARKED), *films.masks.shape[-2:])
    for number, row in enumerate(rows):
        if films.mask_rows[row] >= 0:
            masks[number] = torch.from_numpy(films.masks[films.mask_rows[row]].astype(np.float32))
    grey, masks = augment_films(squares(films, rows), masks, mirrored)
    return FilmBatch(
        rows=rows,
        pairs=count,
        grey=grey.contiguous(memory_format=torch.channels_last),
        masks=torch.nn.functional.interpolate(masks, size=(GRID, GRID), mode="area"),
        directions=torch.from_numpy(pairs.directions[chosen]),
        weights=torch.from_numpy(pairs.weights[chosen]),
    )
