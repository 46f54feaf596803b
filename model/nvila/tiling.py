"""Cutting of an image into square tiles: the grid choice of the original and the cutting itself, with PIL only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Tiling(StrEnum):
    """When an image is cut into more than one tile (only where the checkpoint's mode has tiles at all)."""

    ORIGINAL = "original"
    """As the original inference: only where the request holds exactly one image."""
    ALWAYS = "always"
    """As the original training: every image."""
    NEVER = "never"
    """One square tile for each image; this project's default for pairs, the same in training and serving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGeometry:
    """The sizes that turn an image into tiles and tiles into tokens; see `NvilaConfig` for the meaning of each."""

    mode: str
    tile_side: int
    patch_side: int
    merge_side: int
    s2_scales: tuple[int, ...] = ()
    s2_output_scale: int = -1
    min_tiles: int = 1
    max_tiles: int = 12

    @property
    def token_side(self) -> int:
        """Projected tokens along one side of a tile."""
        return -(-self.patch_side // self.merge_side)

    @property
    def s2_factors(self) -> tuple[int, ...]:
        """Each scale in units of the smallest one."""
        return tuple(scale // self.s2_scales[0] for scale in self.s2_scales)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TiledImage:
    """The tiles of one image.

    pixels: float32 [tiles, 3, side, side], normalised to -1..1. rows, columns: the merged mosaic's size in tiles;
    (0, 0) for an image that is one untiled square. sequence_tokens: projected tokens of each placeholder that this
    image stands for, newline row not counted (one entry, or one for each tile in mode "dynamic").
    """

    pixels: NDArray[np.float32]
    rows: int
    columns: int
    sequence_tokens: tuple[int, ...]


def candidate_grids(minimum: int, maximum: int) -> list[tuple[int, int]]:
    """All (columns, rows) with minimum <= columns * rows <= maximum, by area.

    The original leaves the order within one area to a Python set; ties there never decide (reference README 4.5).
    """
    grids = [
        (columns, rows)
        for columns in range(1, maximum + 1)
        for rows in range(1, maximum + 1)
        if minimum <= columns * rows <= maximum
    ]
    return sorted(grids, key=lambda grid: (grid[0] * grid[1], grid))


def choose_grid(width: int, height: int, tile_side: int, candidates: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (columns, rows) whose aspect ratio is nearest to the image's.

    On an exactly equal distance the later, larger grid wins where the image fills more than half of it.
    """
    ratio = width / height
    best, best_distance = (1, 1), float("inf")
    for columns, rows in candidates:
        distance = abs(ratio - columns / rows)
        if distance < best_distance:
            best, best_distance = (columns, rows), distance
        # As InternVL and NVILA choose: of 1x1 and 2x2 the larger one only where the image has the pixels for it.
        elif distance == best_distance and width * height > 0.5 * tile_side * tile_side * columns * rows:
            best = (columns, rows)
    return best


def tile_image(image: Image.Image, geometry: ImageGeometry, *, tiled: bool) -> TiledImage:
    """Cut one image; `tiled=False` gives the single square tile of the multi-image request."""
    image = image.convert("RGB")
    side = geometry.tile_side
    tokens = geometry.token_side**2
    if not tiled or geometry.mode == "resize":
        return TiledImage(pixels=_normalise([_resize(image, side, side)]), rows=0, columns=0, sequence_tokens=(tokens,))
    if geometry.mode == "dynamic_s2":
        return _tile_scales(image, geometry)
    grids = candidate_grids(geometry.min_tiles, geometry.max_tiles)
    columns, rows = choose_grid(*image.size, side, grids)
    tiles = _cut(image, columns, rows, side)
    if len(tiles) > 1:
        tiles.append(_resize(image, side, side))  # the thumbnail comes last
    return TiledImage(
        pixels=_normalise(tiles), rows=rows, columns=columns, sequence_tokens=tuple(tokens for _ in tiles)
    )


def _tile_scales(image: Image.Image, geometry: ImageGeometry) -> TiledImage:
    side, factors = geometry.tile_side, geometry.s2_factors
    tiles: list[Image.Image] = []
    for factor in factors[:-1]:
        tiles += _cut(image, factor, factor, side)
    grids = candidate_grids(factors[-1] ** 2, geometry.max_tiles)
    columns, rows = choose_grid(*image.size, side, grids)
    tiles += _cut(image, columns, rows, side)
    index = geometry.s2_output_scale % len(factors)
    out_rows, out_columns = (rows, columns) if index == len(factors) - 1 else (factors[index], factors[index])
    tokens = out_rows * out_columns * geometry.token_side**2
    # rows and columns describe the last scale's grid; the model derives the merged mosaic from it.
    return TiledImage(pixels=_normalise(tiles), rows=rows, columns=columns, sequence_tokens=(tokens,))


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _cut(image: Image.Image, columns: int, rows: int, side: int) -> list[Image.Image]:
    whole = _resize(image, columns * side, rows * side)
    return [
        whole.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        for row in range(rows)
        for column in range(columns)
    ]


def _normalise(tiles: Sequence[Image.Image]) -> NDArray[np.float32]:
    """uint8 tiles -> float32 [n, 3, side, side]; scaled in float64, then (x - 0.5) / 0.5 in float32, as SigLIP does."""
    pixels = np.stack([np.asarray(tile, dtype=np.uint8) for tile in tiles])
    scaled = (pixels.astype(np.float64) * 0.00392156862745098).astype(np.float32)
    normalised = (scaled - np.float32(0.5)) / np.float32(0.5)
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))
