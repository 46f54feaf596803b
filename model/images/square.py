"""The square that the model sees, and the way back: training and serving use these same functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.images.resample import resample
from model.schema import DisplayImage, SourceGeometry

_kept: ContextVar[dict[tuple[int, int], tuple[DisplayImage, NDArray[np.uint8]]] | None] = ContextVar(
    "kept squares", default=None
)
"""(id of an image, size) → the image, held so that its id stays its own, and its square."""


@contextmanager
def keep_squares() -> Iterator[None]:
    """Make each square of an image once until the block ends: several readers of one request want the same."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareFit:
    """Where a picture lies in the model's square of `size` pixels: its own aspect ratio, centred, the rest black."""

    size: int
    top: int
    left: int
    height: int
    width: int

    def to_display(self, x: float, y: float) -> tuple[float, float]:
        """A point (x right, y down) of the square in its pixels → fractions of the display image, clamped to 0..1."""
        u, v = (x - self.left) / self.width, (y - self.top) / self.height
        return min(max(u, 0.0), 1.0), min(max(v, 0.0), 1.0)

    def from_display(self, u: float, v: float) -> tuple[float, float]:
        """Fractions of the display image → a point of the square in its pixels."""
        return self.left + u * self.width, self.top + v * self.height


def square_fit(height: int, width: int, size: int) -> SquareFit:
    """Where a picture of height × width pixels comes to lie in a square of `size` pixels."""
    scale = size / max(height, width)
    fitted_height, fitted_width = max(1, round(height * scale)), max(1, round(width * scale))
    return SquareFit(
        size=size,
        top=(size - fitted_height) // 2,
        left=(size - fitted_width) // 2,
        height=fitted_height,
        width=fitted_width,
    )


def square_pixels(height: int, width: int, pixel_aspect: float) -> tuple[int, int]:
    """Height and width of a picture once its pixels are square; nothing is reduced."""
    if pixel_aspect >= 1.0:
        return max(1, round(height * pixel_aspect)), width
    return height, max(1, round(width / pixel_aspect))


def fit(image: DisplayImage, size: int) -> NDArray[np.uint8]:
    """The picture as uint8 [size, size]: aspect ratio kept, centred, padded with black (air). Not to be written to."""
    kept = _kept.get()
    if kept is None:
        return fit_grey(image.pixels, size)
    if (id(image), size) not in kept:
        kept[id(image), size] = (image, fit_grey(image.pixels, size))
    return kept[id(image), size][1]


def fit_grey(pixels: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """As `fit`, of display grey float32 [H, W] in 0..1."""
    where = square_fit(pixels.shape[0], pixels.shape[1], size)
    resized = resample(pixels, where.height, where.width)
    square = np.zeros((size, size), dtype=np.uint8)
    levels = np.clip(np.rint(resized * 255.0), 0, 255).astype(np.uint8)
    square[where.top : where.top + where.height, where.left : where.left + where.width] = levels
    return square


def square_to_stored(image: DisplayImage, size: int, x: float, y: float) -> tuple[float, float]:
    """A point of the model's square (pixels, x right, y down) → (column, row) in pixels of the stored image."""
    where = square_fit(image.pixels.shape[0], image.pixels.shape[1], size)
    return image.geometry.to_source(*where.to_display(x, y))


def stored_to_square(geometry: SourceGeometry, size: int, column: float, row: float) -> tuple[float, float]:
    """(column, row) in pixels of the stored image → a point of the model's square; the inverse of the above."""
    where = square_fit(*square_pixels(geometry.height, geometry.width, geometry.pixel_aspect), size)
    return where.from_display((column - geometry.left) / geometry.width, (row - geometry.top) / geometry.height)
