"""Is this picture a frontal chest radiograph, and does it stand upright? A small trained check that needs no torch.

It looks at 64 × 64 pixels with a convolutional network of some 150,000 weights (`frontal_view.safetensors`, made by
`training/image_checks/view_check_train.py`). What it was measured on, and what not, stands in docs/view-check.md.
It exists for headers that are silent or contradict themselves; what overrules a clear one is
`model.checks.plausibility` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from model.checks.plausibility import PictureFault, picture_fault
from model.images.square import fit, fit_grey
from model.schema import DisplayImage

SIDE = 64
"""Pixels of the square that the check sees."""
ROTATIONS = (0, 90, 180, 270)
FRONTAL_FLOOR = 0.9
"""Least probability that is called a frontal chest: what the network does not know it is less sure of."""


class ViewKind(StrEnum):
    """The subject of an image."""

    FRONTAL_CHEST = "frontal chest"
    """A chest in PA or AP projection."""
    LATERAL_CHEST = "lateral chest"
    """A chest from the side."""
    OTHER = "other"
    """Another body part, a part of a chest, a document, noise."""


KINDS = (ViewKind.FRONTAL_CHEST, ViewKind.LATERAL_CHEST, ViewKind.OTHER)
"""In the order of the network's outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewCheck:
    """The check's opinion of an image.

    kind: FRONTAL_CHEST from FRONTAL_FLOOR on, else the likelier of the others; `probability` is that of kind,
    `frontal_probability` that of a frontal chest.
    inverted: black and white are exchanged. rotation: degrees clockwise by which the picture is turned away from
    upright (0, 90, 180, 270); turning it back anticlockwise by as much sets it right. Both mean something only where
    kind is FRONTAL_CHEST. other_probability: that it is neither chest. fault: set where it is certainly no chest
    radiograph, which overrules any header (`model.checks.plausibility`).
    """

    kind: ViewKind
    probability: float
    frontal_probability: float
    inverted: bool
    inverted_probability: float
    rotation: int
    rotation_probability: float
    other_probability: float = 0.0
    fault: PictureFault | None = None

    @property
    def is_usable(self) -> bool:
        """A frontal chest, upright, not inverted."""
        return self.fault is None and self.kind is ViewKind.FRONTAL_CHEST and self.rotation == 0 and not self.inverted


def check_view(image: DisplayImage) -> ViewCheck:
    """Look at one display image. Takes about 5 ms."""
    kind, rotation, inverted = forward(view_input_of(image), _weights())
    best = 0 if kind[0] >= FRONTAL_FLOOR else 1 + int(np.argmax(kind[1:]))
    turn = int(np.argmax(rotation))
    return ViewCheck(
        kind=KINDS[best],
        probability=float(kind[best]),
        frontal_probability=float(kind[0]),
        inverted=bool(inverted[1] > 0.5),
        inverted_probability=float(inverted[1]),
        rotation=ROTATIONS[turn],
        rotation_probability=float(rotation[turn]),
        other_probability=float(kind[2]),
        fault=picture_fault(image.pixels, float(kind[2])),
    )


def view_input(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Display grey [H, W] in 0..1 → float32 [SIDE, SIDE] of zero mean and unit variance."""
    return _normalised(fit_grey(pixels, SIDE))


def view_input_of(image: DisplayImage) -> NDArray[np.float32]:
    """As `view_input`, of a display image whose square may be kept (`model.images.square.keep_squares`)."""
    return _normalised(fit(image, SIDE))


def _normalised(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    square = levels.astype(np.float32)
    spread = max(float(square.std()), 1.0)
    normal: NDArray[np.float32] = (square - np.float32(square.mean())) / np.float32(spread)
    return normal


def forward(
    square: NDArray[np.float32], weights: Mapping[str, NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities of kind [3], rotation [4] and inversion [2] (no, yes) of a square [SIDE, SIDE]."""
    hidden = square[None]
    layer = 0
    while f"conv{layer}.weight" in weights:
        hidden = _convolve(hidden, weights[f"conv{layer}.weight"], weights[f"conv{layer}.bias"])
        layer += 1
    flat = np.maximum(weights["dense.weight"] @ hidden.reshape(-1) + weights["dense.bias"], 0.0)
    kind, rotation, inverted = (
        _softmax(weights[f"{head}.weight"] @ flat + weights[f"{head}.bias"])
        for head in ("kind", "rotation", "inverted")
    )
    return kind, rotation, inverted


def _convolve(
    image: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Convolution with stride 2, zero padding of half the kernel, and ReLU: [C, H, W] → [D, H/2, W/2]."""
    kernel = weight.shape[2]
    padded = np.pad(image, ((0, 0), (kernel // 2, kernel // 2), (kernel // 2, kernel // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))[:, ::2, ::2]
    out = np.tensordot(weight, windows, axes=((1, 2, 3), (0, 3, 4))) + bias[:, None, None]
    rectified: NDArray[np.float32] = np.maximum(out, 0.0).astype(np.float32)
    return rectified


def _softmax(logits: NDArray[Any]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum(), dtype=np.float32)


@cache
def _weights() -> Mapping[str, NDArray[np.float32]]:
    """The committed weights, stored in half precision."""
    raw = load(resources.files("model.checks").joinpath("frontal_view.safetensors").read_bytes())
    return {name: value.astype(np.float32) for name, value in raw.items()}
