"""Samples of the training loop: images, questions with answers, and the targets of the auxiliary heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.questions.prompts import PromptLayout, Turn

UNKNOWN = -100
"""A change that is not known; the same number that the cross-entropy leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """Truth for the auxiliary heads, K findings; images in the order prior, current; NaN where not known.

    present, left, right, severity: float32 [2, K]. change: int64 [K], an index into CHANGE_ANSWERS or UNKNOWN.
    marks: uint8 [2, K, side, side], where the findings lie on the square picture (255: all of it), or None.
    """

    present: NDArray[np.float32]
    left: NDArray[np.float32]
    right: NDArray[np.float32]
    severity: NDArray[np.float32]
    change: NDArray[np.int64]
    marks: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Something that could not be shown and was replaced. pool: set and stream; which: image or record."""

    pool: str
    reason: str
    which: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One training sequence. images: uint8 [H, W], oldest first. turns: each asked on its own, not one after another,
    unless `conversation`. targets: None where there is no truth for the heads. features: float16 [patches, C] for each
    image, of a tower that does not learn, in the place of running it. dropped: what stood here before it."""

    images: tuple[NDArray[np.uint8], ...]
    layout: PromptLayout
    turns: tuple[Turn, ...]
    targets: Targets | None = None
    conversation: bool = False
    features: tuple[NDArray[np.float16], ...] = ()
    dropped: tuple[Dropped, ...] = ()


class SampleSource(Protocol):
    """An endless, seeded source: the same number gives the same sample, on every rank and after every restart."""

    findings: tuple[str, ...]

    def sample(self, number: int) -> Sample:
        """The sample with this number."""
        ...

    def films(self, count: int) -> NDArray[np.uint8]:
        """Some typical films, uint8 [count, size, size]."""
        ...


def augment(
    film: NDArray[np.uint8], marks: NDArray[np.uint8] | None, rng: Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """A little more variety than the cache holds: shift by up to 5 %, contrast, brightness. Never a mirror image.

    The outlines [K, side, side] move with the film, rounded to their raster.
    """
    size = film.shape[0]
    reach = round(size * 0.05)
    down, right = (int(value) for value in rng.integers(-reach, reach + 1, 2))
    moved = shift_picture(film, down, right)
    if marks is not None:
        scale = marks.shape[-1] / size
        marks = shift_picture(marks, round(down * scale), round(right * scale))
    gain, offset = rng.uniform(0.9, 1.1), rng.uniform(-14, 14)
    table = np.clip(np.arange(256) * gain + offset, 0, 255).astype(np.uint8)
    table[0] = 0  # padding stays black
    return table[moved], marks


def shift_picture(picture: NDArray[np.uint8], down: int, right: int) -> NDArray[np.uint8]:
    """The last two axes moved; what comes in is black."""
    rows, columns = picture.shape[-2:]
    moved = np.zeros_like(picture)
    moved[..., max(down, 0) : rows + min(down, 0), max(right, 0) : columns + min(right, 0)] = picture[
        ..., max(-down, 0) : rows + min(-down, 0), max(-right, 0) : columns + min(-right, 0)
    ]
    return moved
