"""Random fields of the phantom in body coordinates, so that both films of a person carry the same vessels and grain."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Plane = NDArray[np.float32]


def clip01(values: Plane) -> Plane:
    """Limit to 0..1 in place."""
    np.clip(values, 0.0, 1.0, out=values)
    return values


def step(distance: Plane, softness: float) -> Plane:
    """0 where `distance` is well below zero, 1 well above, smooth over `softness` (same unit as distance)."""
    ramp = distance * np.float32(1.0 / softness)
    ramp += np.float32(0.5)
    clip01(ramp)
    smooth = ramp * np.float32(-2.0)
    smooth += np.float32(3.0)
    smooth *= ramp
    smooth *= ramp
    return smooth


def bump(distance: Plane, width: float) -> Plane:
    """1 at zero, falling smoothly to 0 at ±width."""
    inside = clip01(np.float32(1.0) - np.square(distance * np.float32(1.0 / width)))
    return inside * inside


def lookup(grid: Plane, u: Plane, v: Plane) -> Plane:
    """Bilinear value of a periodic grid [N, M] at row v and column u, both in grid cells."""
    rows, columns = grid.shape
    row, column = np.floor(v), np.floor(u)
    fraction_v, fraction_u = v - row, u - column
    c0 = column.astype(np.intp) % columns
    base = (row.astype(np.intp) % rows) * (columns + 1) + c0
    padded = np.pad(grid, ((0, 1), (0, 1)), mode="wrap").ravel()  # so that the next cell is always one further
    below = base + (columns + 1)
    top = padded.take(base)
    top += fraction_u * (padded.take(base + 1) - top)
    bottom = padded.take(below)
    bottom += fraction_u * (padded.take(below + 1) - bottom)
    bottom -= top
    bottom *= fraction_v
    value: Plane = top + bottom
    return value


def smooth_noise(rng: Generator, x: Plane, y: Plane, cells: float, size: int = 64) -> Plane:
    """Noise of unit variance at the grid points, `cells` grid cells for each unit of body coordinates."""
    grid = rng.standard_normal((size, size), dtype=np.float32)
    shift_u, shift_v = rng.uniform(0, size, 2)
    return lookup(grid, x * np.float32(cells) + np.float32(shift_u), y * np.float32(cells) + np.float32(shift_v))


@lru_cache(maxsize=8)
def vessel_tree(seed: int, side: int, radial: int = 64, angular: int = 128) -> Plane:
    """A branching pattern in polar coordinates around a hilum: rows are the distance, columns the angle.

    Branches start at the hilum, wander, fork and thin out; drawn with linear splatting and blurred by one bin.
    """
    rng = np.random.default_rng([seed, 10, side])
    angle = rng.uniform(0, angular, 13)
    strength = rng.uniform(0.6, 1.3, 13)
    plane = np.zeros((radial, angular), np.float32)
    drift = rng.normal(0, 0.4, 13)
    for row in range(radial):
        fork = rng.random(angle.size) < 0.055
        # Both arms of a fork are thinner than the stem; the number of branches is bounded.
        if fork.any() and angle.size < 90:
            angle = np.concatenate([angle, angle[fork]])
            drift = np.concatenate([drift + fork * rng.uniform(0.4, 0.9, drift.size), drift[fork] - 0.6])
            strength = np.concatenate([strength * np.where(fork, 0.75, 1.0), strength[fork] * 0.7])
        drift = 0.9 * drift + rng.normal(0, 0.20, angle.size)
        # Far from the hilum a bin is a longer arc, so the same wandering is fewer bins.
        angle = (angle + drift * (8.0 / (row + 9.0))) % angular
        column = angle.astype(np.int32)
        # Linear splatting: a branch between two bins is shared out between them; the last bin's neighbour is the first.
        part = (angle - column).astype(np.float32)
        fade = np.float32((1.0 - row / radial) ** 1.1)
        weight = strength * fade
        plane[row] = np.bincount(column, weight * (1 - part), angular)
        plane[row] += np.bincount((column + 1) % angular, weight * part, angular).astype(np.float32)
    return plane


def quantum_noise(rng: Generator, shape: tuple[int, int], deviation: float, pixel: float) -> Plane:
    """Noise of the exposure with the standard deviation `deviation` at 160 px; `pixel` is the size of one, field units.

    Mottle of a real film is correlated over a few detector elements: half of it is drawn on a coarser raster.
    """
    scale = np.float32(deviation * min(2.5, (2 / 160 / pixel) ** 0.5))
    fine = rng.standard_normal(shape, dtype=np.float32)
    coarse_shape = ((shape[0] + 1) // 2, (shape[1] + 1) // 2)
    coarse = rng.standard_normal(coarse_shape, dtype=np.float32).repeat(2, 0).repeat(2, 1)[: shape[0], : shape[1]]
    return scale * (np.float32(0.8) * fine + np.float32(0.6) * coarse)
