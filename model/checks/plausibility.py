"""Images that cannot be chest radiographs, whatever their header says: blank, noise, gradients, patterns, objects.

Much stricter than `model.checks.frontal_view`, because it overrules every header: each limit lies well outside of
what 883 real films gave (`training/image_checks/picture_check_train.py`, docs/view-check.md). A picture that passes
is not thereby a chest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from model.images.resample import ResamplingFilter, resample

SIDE = 32
"""Cells of the coarse square, whatever the picture's shape."""
LEAST_CONTRAST = 0.02
LEAST_COARSE = 0.4
LEAST_DETAIL = 0.03
MOST_STRANGE = 0.45
MOST_OTHER = 0.999

_PART = 16384
"""Pixels whose squares are summed in single precision."""

Square = NDArray[np.float64]


class PictureFault(StrEnum):
    """Why a picture is certainly no chest radiograph; the value completes "the picture …"."""

    BLANK = "is blank"
    NOISE = "is noise or a fine pattern"
    PLAIN = "is a plain gradient"
    PATTERN = "has nothing of the structure of a chest film"
    OTHER = "shows something else than a chest"


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureMeasures:
    """The figures that the limits apply to.

    contrast: standard deviation of the coarse square, grey in 0..1. coarse: its variance as a share of the picture's:
    noise averages away. detail: share of the coarse variance that no quadratic surface explains. strange: mean squared
    distance of the normalised coarse square from the plane of chest films, the least over four turns and both
    polarities, because a turned or inverted film is a chest film.
    """

    contrast: float
    coarse: float
    detail: float
    strange: float


def picture_fault(pixels: NDArray[np.float32], other_probability: float = 0.0) -> PictureFault | None:
    """The certain fault of display grey [H, W] in 0..1; None if there is none.

    other_probability: `view_check`'s, that it is neither a frontal nor a lateral chest. Takes about 2 ms.
    """
    texture = measure(pixels, _plane())
    if texture.contrast < LEAST_CONTRAST:
        # Noise averages to nothing on the coarse square: the picture itself tells it from a blank one.
        return PictureFault.BLANK if float(pixels.std()) < LEAST_CONTRAST else PictureFault.NOISE
    if texture.coarse < LEAST_COARSE:
        return PictureFault.NOISE
    if texture.detail < LEAST_DETAIL:
        return PictureFault.PLAIN
    if texture.strange > MOST_STRANGE:
        return PictureFault.PATTERN
    return PictureFault.OTHER if other_probability > MOST_OTHER else None


def measure(pixels: NDArray[np.float32], plane: Mapping[str, NDArray[np.float32]]) -> PictureMeasures:
    """The measures of display grey [H, W]. plane: mean [SIDE²] and basis [K, SIDE²] of normalised chest films."""
    square = coarse_square(pixels)
    variance = _variance(pixels)
    normal = normalise(square)
    return PictureMeasures(
        contrast=float(square.std()),
        coarse=float(square.var()) / max(variance, 1e-12),
        detail=float((_without_surface(normal.ravel()) ** 2).mean()),
        strange=min(_distance(np.rot90(normal * sign, turn), plane) for turn in range(4) for sign in (1, -1)),
    )


def _variance(pixels: NDArray[np.float32]) -> float:
    """The variance, from the sum of squares: whole copies of a film take longer than the sum.

    Parts are summed in single precision, their sums in double: good to 1e-6, where the least variance that a limit
    asks for is 1e-4 and blank pictures have been told by then.
    """
    mean = float(pixels.mean(dtype=np.float64))
    flat = np.ascontiguousarray(pixels).ravel()
    squares = sum(float(part @ part) for part in (flat[at : at + _PART] for at in range(0, flat.size, _PART)))
    return max(squares / pixels.size - mean * mean, 0.0)


def coarse_square(pixels: NDArray[np.float32]) -> Square:
    """[H, W] → means of SIDE × SIDE cells; the shape of the picture is not kept."""
    return resample(pixels, SIDE, SIDE, ResamplingFilter.BOX).astype(np.float64)


def normalise(square: Square) -> Square:
    """Zero mean and unit variance; all zeros where there is no variance."""
    spread = float(square.std())
    normal: Square = (square - square.mean()) / spread if spread > 1e-6 else np.zeros_like(square)
    return normal


def _distance(square: Square, plane: Mapping[str, NDArray[np.float32]]) -> float:
    away = square.ravel() - plane["mean"]
    # The basis is orthonormal, so what lies outside of the plane is the whole less what lies inside (Pythagoras).
    inside = plane["basis"] @ away
    return float((away @ away - inside @ inside) / away.size)


def _without_surface(values: NDArray[np.float64]) -> NDArray[np.float64]:
    basis = _surface()
    rest: NDArray[np.float64] = values - basis @ (basis.T @ values)
    return rest


@cache
def _surface() -> NDArray[np.float64]:
    """Orthonormal columns that span the quadratic surfaces on the coarse square: [SIDE², 6]."""
    y, x = (np.mgrid[:SIDE, :SIDE] / SIDE - 0.5).reshape(2, -1)
    terms = np.stack([np.ones_like(x), x, y, x * y, x**2, y**2], axis=1)
    return np.asarray(np.linalg.qr(terms)[0], dtype=np.float64)


@cache
def _plane() -> Mapping[str, NDArray[np.float32]]:
    """The committed plane, stored in half precision."""
    raw = load(resources.files("model.checks").joinpath("plausibility.safetensors").read_bytes())
    return {name: value.astype(np.float32) for name, value in raw.items()}
