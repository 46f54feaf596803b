"""Where the lungs and the midline lie on a frontal chest radiograph. A small trained segmenter that needs no torch.

It sees 64 × 64 pixels through a U-net of some 80,000 weights (`lung_fields.safetensors`, made by
`training/image_checks/lung_fields_train.py`). The outlines it learned from follow chest wall, diaphragm and spine
and include the heart, so an opaque lung belongs to its field. How well it does: docs/view-check.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from model.checks.frontal_view import SIDE, view_input_of
from model.images.square import square_fit, stored_to_square
from model.schema import DisplayImage

Mask = NDArray[np.bool_]

MIN_FIELD = 0.02
"""Of the film's area: a smaller field is no lung."""
MAX_FIELD = 0.45
MIN_SHARE = 0.25
"""Of the larger field: a smaller other one means that one of the two was not found."""
MIN_CONFIDENCE = 0.80
"""Mean probability inside the fields; what the segmenter does not know it is less sure of."""
_LEVELS = 3
"""Halvings of the network."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LungFields:
    """The two lungs on the square of `SIDE` cells that holds the film (`model.images.square`).

    right, left: the patient's, bool [SIDE, SIDE]; the right lung is the one further left in the image.
    midline: slope and offset of the column between them, column = slope * row + offset, in cells.
    confidence: mean probability inside the fields, 0..1.
    """

    right: Mask
    left: Mask
    midline: tuple[float, float]
    confidence: float

    def midline_at(self, row: float) -> float:
        """Column of the midline at a row, both in cells."""
        return self.midline[0] * row + self.midline[1]


def find_lungs(image: DisplayImage) -> LungFields | None:
    """The lungs of an upright frontal film; None where two plausible fields are not found. Takes about 20 ms."""
    shares = lung_shares(view_input_of(image), _weights())
    where = square_fit(image.pixels.shape[0], image.pixels.shape[1], SIDE)
    # Only where the film lies in the square: what the network sees in the padding is no lung.
    film = np.zeros((SIDE, SIDE), dtype=bool)
    film[where.top : where.top + where.height, where.left : where.left + where.width] = True
    right, left = (_largest((share > 0.5) & film) for share in shares)
    areas = sorted((float(right.sum()), float(left.sum())))
    film_area = float(film.sum())
    # One field far smaller than the other, or either too large: a half-white lung or no chest; no answer is better than
    # a wrong midline.
    if areas[0] < max(MIN_FIELD * film_area, MIN_SHARE * areas[1]) or areas[1] > MAX_FIELD * film_area:
        return None
    confidence = float(np.concatenate([shares[0][right], shares[1][left]]).mean())
    midline = _midline(right, left)
    if confidence < MIN_CONFIDENCE or midline is None:
        return None
    return LungFields(right=right, left=left, midline=midline, confidence=confidence)


def cell_of(image: DisplayImage, column: float, row: float) -> tuple[float, float]:
    """(column, row) in stored pixels → (column, row) in cells of the fields."""
    return stored_to_square(image.geometry, SIDE, column, row)


def lung_shares(square: NDArray[np.float32], weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Probability of right and left lung [2, SIDE, SIDE] for the square of `view_input_of`."""
    hidden, skipped = square[None], []
    for level in range(_LEVELS):
        hidden = _convolve(hidden, weights, f"down{level}")
        skipped.append(hidden)
        # The greatest of each two by two cells.
        hidden = hidden.reshape(hidden.shape[0], hidden.shape[1] // 2, 2, hidden.shape[2] // 2, 2).max(axis=(2, 4))
    hidden = _convolve(_convolve(hidden, weights, "middle0"), weights, "middle1")
    for level in reversed(range(_LEVELS)):
        wide = hidden.repeat(2, axis=1).repeat(2, axis=2)
        hidden = _convolve(np.concatenate([wide, skipped[level]]), weights, f"up{level}")
    logits = np.tensordot(weights["head.weight"][:, :, 0, 0], hidden, axes=1) + weights["head.bias"][:, None, None]
    shares: NDArray[np.float32] = (1.0 / (1.0 + np.exp(-np.clip(logits, -30, 30)))).astype(np.float32)
    return shares


def _convolve(image: NDArray[np.float32], weights: Mapping[str, NDArray[np.float32]], name: str) -> NDArray[np.float32]:
    """A 3 × 3 convolution with zero padding and ReLU: [C, H, W] → [D, H, W]."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    out = np.tensordot(weights[f"{name}.weight"], windows, axes=((1, 2, 3), (0, 3, 4)))
    rectified: NDArray[np.float32] = np.maximum(out + weights[f"{name}.bias"][:, None, None], 0.0).astype(np.float32)
    return rectified


def _largest(mask: Mask) -> Mask:
    """The largest connected part, its holes filled."""
    from scipy import ndimage  # a fifth of a second, which listings need not wait for

    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())[1:]
    filled: Mask = ndimage.binary_fill_holes(labels == 1 + int(np.argmax(sizes)))
    return filled


def _midline(right: Mask, left: Mask) -> tuple[float, float] | None:
    """A straight line through the middles of the gaps between the lungs; None where they share too few rows.

    Rows are weighted alike and the fit is repeated without those that lie far off: one medial border is often uneven.
    """
    rows = np.flatnonzero(right.any(axis=1) & left.any(axis=1))
    if len(rows) < SIDE // 8:
        return None
    # The patient's right lung lies at the left of the image: its inner border is its last column, that of the left lung
    # the first.
    inner_right = SIDE - 1 - np.argmax(right[rows, ::-1], axis=1)
    inner_left = np.argmax(left[rows], axis=1)
    middles = (inner_right + 1 + inner_left) / 2.0
    for _ in range(2):
        slope, offset = np.polyfit(rows, middles, 1)
        rest = np.abs(middles - (slope * rows + offset))
        kept = rest <= max(2.0 * float(np.median(rest)), 1.0)
        rows, middles = rows[kept], middles[kept]
    return float(slope), float(offset)


@cache
def _weights() -> Mapping[str, NDArray[np.float32]]:
    """The committed weights, stored in half precision."""
    raw = load(resources.files("model.checks").joinpath("lung_fields.safetensors").read_bytes())
    return {name: value.astype(np.float32) for name, value in raw.items()}
