"""From a relevance grid to closed outlines in stored pixels. No torch, no model: values in, polygons out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.images.square import square_fit, square_to_stored
from model.schema import DisplayImage

RASTER = 96
"""Cells of the square on which outlines are drawn; grids are coarser, so this only rounds their corners."""
SHARE = 0.5
"""An outline holds what reaches this share of the greatest relevance."""
SECOND_SHARE = 0.7
"""A second place is outlined too where its greatest relevance reaches this share: findings may be bilateral."""
MAX_PLACES = 2
MIN_AREA_SHARE = 0.001
"""Of the square; a speck below this is no place."""

Points = tuple[tuple[float, float], ...]


def spread(grid: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The grid over a square of `size` pixels, bilinear, each value at the middle of its cell."""
    picture = Image.fromarray(np.ascontiguousarray(grid, dtype=np.float32))
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)


def peak(grid: NDArray[np.float32], image: DisplayImage, size: int) -> tuple[float, float]:
    """The most relevant point within the film, as (column, row) in stored pixels."""
    heat = _within_film(grid, image)
    row, column = np.unravel_index(int(np.argmax(heat)), heat.shape)
    cell = size / RASTER
    return square_to_stored(image, size, (float(column) + 0.5) * cell, (float(row) + 0.5) * cell)


def outlines(grid: NDArray[np.float32], image: DisplayImage, size: int) -> list[Points]:
    """Closed convex outlines (first point repeated) of the most relevant places, in stored pixels; may be none.

    grid: relevance over the model's square of `size` pixels, not negative.
    """
    from scipy import ndimage  # half a second, which a study without an outline need not wait for

    heat = _within_film(grid, image)
    greatest = float(heat.max())
    if not np.isfinite(greatest) or greatest <= 0:
        return []
    labels, count = ndimage.label(heat >= SHARE * greatest)
    numbers = np.arange(1, count + 1)
    peaks = np.atleast_1d(ndimage.maximum(heat, labels, numbers))
    areas = np.atleast_1d(ndimage.sum_labels(np.ones_like(heat), labels, numbers))
    hulls: list[Points] = []
    # The hottest place first: the least of them are what MAX_PLACES leaves out.
    for number in numbers[np.argsort(-peaks)]:
        worth = peaks[number - 1] >= SECOND_SHARE * greatest and areas[number - 1] >= MIN_AREA_SHARE * heat.size
        if worth and len(hulls) < MAX_PLACES:
            hulls.append(_hull(labels == number, image, size))
    return hulls


def _within_film(grid: NDArray[np.float32], image: DisplayImage) -> NDArray[np.float32]:
    """The grid on the raster, zero where the square holds no film."""
    heat = spread(np.maximum(grid, 0), RASTER)
    where = square_fit(image.pixels.shape[0], image.pixels.shape[1], RASTER)
    film = np.zeros_like(heat)
    part = np.s_[where.top : where.top + where.height, where.left : where.left + where.width]
    film[part] = heat[part]
    return film


def _hull(mask: NDArray[np.bool_], image: DisplayImage, size: int) -> Points:
    """The convex hull of the cells of a mask."""
    from scipy.spatial import ConvexHull

    rows, columns = np.nonzero(mask)
    corners = np.concatenate([np.stack([columns + dx, rows + dy], axis=1) for dx in (0, 1) for dy in (0, 1)])
    hull = corners[ConvexHull(corners).vertices]  # whole cells: never flat
    cell = size / RASTER
    points = [square_to_stored(image, size, float(x) * cell, float(y) * cell) for x, y in hull]
    return (*points, points[0])
