"""Figures of one display image, noted when it is analysed: brightness, contrast, black border, sharpness, shape."""

from __future__ import annotations

import numpy as np

from model.schema import DisplayImage

LONGEST_SIDE = 512
"""Sampled down to this before anything is computed: the figures are of the exposure, not of the detector's grid."""
BLACK = 0.02
FIGURES = ("mean", "contrast", "dark", "median", "bright", "black", "sharpness", "aspect")
"""mean, contrast (standard deviation), dark, median, bright (5th, 50th, 95th percentile) of grey 0..1; share of black
pixels; sharpness: mean absolute difference of neighbours; aspect: height by width of the cropped film."""


def pixel_figures(image: DisplayImage) -> dict[str, float]:
    """The FIGURES of an image; rounded to 1e-5, which is finer than any of them means."""
    height, width = image.pixels.shape
    # Rounded up: a stride, not a resize, which would smooth the noise that is measured.
    step = max(1, -(-max(height, width) // LONGEST_SIDE))
    grey = image.pixels[::step, ::step].astype(np.float64)
    dark, median, bright = np.percentile(grey, (5, 50, 95))
    neighbours = [np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1) if grey.shape[axis] > 1]
    values = (
        grey.mean(),
        grey.std(),
        dark,
        median,
        bright,
        (grey < BLACK).mean(),
        float(np.mean(neighbours)) if neighbours else 0.0,
        height / width,
    )
    return {name: round(float(value), 5) for name, value in zip(FIGURES, values, strict=True)}
