"""Finding the part of a display picture that is film: borders of black or of full white are cut off, anatomy never."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLACK_LEVEL = 0.02
"""Grey up to this above the border's own level is background (JPEG noise of a black border is about 0.01)."""
MAX_BACKGROUND = 0.12
"""A border brighter than this is not taken for a black one: it may be soft tissue."""
WHITE_LEVEL = 0.985
"""Unexposed film behind the collimator is at the very end of the range."""
SPECK_SHARE = 1 / 40
"""Bright things in the border narrower than this share of the picture are burned-in letters, not film."""
MIN_KEPT_SHARE = 0.3
"""Less than this share of the picture left over means that the border was misjudged: nothing is cut."""
WORK_SIDE = 512
"""Pixels of the longer side of the reduced picture on which the border is searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int


def film_box(grey: NDArray[np.float32]) -> Box:
    """The smallest upright rectangle of display grey [H, W] that holds all film; values beyond 0..1 count as its ends.

    A film that lies askew between black corners keeps its corners: a tighter rectangle would cut into it.
    """
    height, width = grey.shape
    step = max(1, -(-max(height, width) // WORK_SIDE))
    small = np.clip(grey[::step, ::step], 0.0, 1.0)
    top, bottom, left, right = _film_range(small)
    if (bottom - top) * (right - left) < MIN_KEPT_SHARE * small.size:
        return Box(top=0, left=0, height=height, width=width)
    # one reduced pixel of slack on every side: the border lies somewhere inside it
    y0, x0 = max(0, (top - 1) * step) if top else 0, max(0, (left - 1) * step) if left else 0
    y1 = height if bottom == small.shape[0] else min(height, (bottom + 1) * step)
    x1 = width if right == small.shape[1] else min(width, (right + 1) * step)
    return Box(top=y0, left=x0, height=y1 - y0, width=x1 - x0)


def _film_range(small: NDArray[np.float32]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the film in the reduced picture, bottom and right exclusive."""
    box = (0, small.shape[0], 0, small.shape[1])
    for _ in range(3):  # a black border may lie around a white one and the other way round
        trimmed = _trim_white(small, _trim_black(small, box))
        if trimmed == box:
            break
        box = trimmed
    return box


def _trim_black(small: NDArray[np.float32], box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    top, bottom, left, right = box
    part = small[top:bottom, left:right]
    if min(part.shape) < 16:
        return box
    film = part > _background(part) + BLACK_LEVEL
    film = _without_specks(film)
    rows, columns = np.flatnonzero(film.any(axis=1)), np.flatnonzero(film.any(axis=0))
    if rows.size == 0:
        return box
    return top + int(rows[0]), top + int(rows[-1]) + 1, left + int(columns[0]), left + int(columns[-1]) + 1


def _without_specks(film: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Opening with a square. Two rank filters, because `binary_opening` takes twenty times as long; what touches the
    edge counts as going on beyond it, so that a narrow strip of film there stays."""
    from scipy import ndimage  # half a second, which a process that decodes nothing need not wait for

    # Odd, so that the square has a middle and the opening moves nothing.
    size = max(3, round(max(film.shape) * SPECK_SHARE)) | 1
    eroded = ndimage.minimum_filter(film.astype(np.uint8), size=size, mode="nearest")
    opened: NDArray[np.bool_] = ndimage.maximum_filter(eroded, size=size, mode="constant") > 0
    return opened


def _background(part: NDArray[np.float32]) -> float:
    """Grey of the black border: the darkest common level of the four edges, 0 where no edge is dark and flat."""
    levels = []
    for edge in (part[:2], part[-2:], part[:, :2], part[:, -2:]):
        level = float(np.median(edge))
        if level <= MAX_BACKGROUND and float(np.mean(np.abs(edge - level) <= BLACK_LEVEL)) >= 0.6:
            levels.append(level)
    return min(levels, default=0.0)


def _trim_white(small: NDArray[np.float32], box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Cut rows and columns at the edges that are white throughout: nothing can be seen on them."""
    top, bottom, left, right = box
    # A few dark pixels (dust, a letter) do not keep a white row.
    white = small[top:bottom, left:right] >= WHITE_LEVEL
    rows, columns = white.mean(axis=1) >= 0.995, white.mean(axis=0) >= 0.995
    if rows.all() or columns.all():
        return box
    kept_rows, kept_columns = np.flatnonzero(~rows), np.flatnonzero(~columns)
    return (
        top + int(kept_rows[0]),
        top + int(kept_rows[-1]) + 1,
        left + int(kept_columns[0]),
        left + int(kept_columns[-1]) + 1,
    )
