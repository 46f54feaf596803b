"""Pictures for training the view check: real frontal chests in every position, and drawn things that are none.

True lateral chests and other body parts hardly exist in the public data at hand, so both are drawn: good enough to
refuse what is plainly something else, no proof for real ones. docs/view-check.md says what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from training.image_checks.drawn_pictures import (
    CANVAS,
    Grey,
    blur_film,
    draw_breast,
    draw_hand,
    draw_lateral,
    draw_limb,
    draw_noise,
    draw_page,
    draw_pelvis,
    draw_skull,
    draw_slice,
    draw_spine,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ViewSample:
    """One picture with its labels; rotation and inverted are -1 where they mean nothing."""

    pixels: Grey
    kind: int
    rotation: int = -1
    inverted: int = -1


def chest_sample(frontal: Grey, rng: np.random.Generator) -> ViewSample:
    """A frontal chest [H, W], moved, re-exposed, and half of the time turned or inverted."""
    pixels = expose_film(move_film(cut(frontal, rng), rng), rng)
    inverted = int(rng.random() < 0.25)
    rotation = int(rng.integers(1, 4)) if rng.random() < 0.35 else 0
    if inverted:
        pixels = 1.0 - pixels
    # np.rot90 turns anticlockwise
    return ViewSample(pixels=np.rot90(pixels, -rotation).copy(), kind=0, rotation=rotation, inverted=inverted)


def cut(frontal: Grey, rng: np.random.Generator) -> Grey:
    """One film in five as badly centred ones are: up to two fifths of the lungs below, or a quarter beside, missing."""
    if rng.random() >= 0.2:
        return frontal
    height, width = frontal.shape
    if rng.random() < 0.6:
        return frontal[: int(height * rng.uniform(0.6, 0.95))]
    kept = int(width * rng.uniform(0.75, 0.95))
    return frontal[:, :kept] if rng.random() < 0.5 else frontal[:, width - kept :]


def other_sample(frontal: Grey, rng: np.random.Generator, families: tuple[str, ...] = ()) -> ViewSample:
    """A picture that is no frontal chest; `frontal` is only cut to pieces for it. families: names to choose from."""
    names = families or tuple(OTHER_FAMILIES)
    name = names[int(rng.integers(len(names)))]
    pixels = OTHER_FAMILIES[name](frontal, rng)
    if name not in ("piece", "noise"):
        pixels = np.rot90(expose_film(move_film(pixels, rng), rng), int(rng.integers(4)) if rng.random() < 0.5 else 0)
    if rng.random() < 0.3:
        pixels = 1.0 - pixels
    return ViewSample(pixels=np.ascontiguousarray(pixels, dtype=np.float32), kind=2)


def lateral_sample(rng: np.random.Generator) -> ViewSample:
    """A drawn lateral chest, facing either side."""
    pixels = expose_film(move_film(draw_lateral(rng), rng), rng)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1].copy()
    return ViewSample(pixels=pixels, kind=1)


def move_film(pixels: Grey, rng: np.random.Generator) -> Grey:
    """Turned by a few degrees, zoomed, shifted, stretched; what comes from outside is black or repeats the edge."""
    height, width = pixels.shape
    angle = math.radians(float(rng.normal(0, 5)))
    zoom, stretch = float(rng.uniform(0.78, 1.15)), float(rng.uniform(0.85, 1.18))
    dx, dy = rng.normal(0, 0.05, 2) * (width, height)
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    a, b, d, e = cos * stretch, sin, -sin * stretch, cos
    c = width / 2 - a * (width / 2 + dx) - b * (height / 2 + dy)
    f = height / 2 - d * (width / 2 + dx) - e * (height / 2 + dy)
    picture = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    out = picture.transform((width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR)
    return np.asarray(out, dtype=np.float32)


def expose_film(pixels: Grey, rng: np.random.Generator) -> Grey:
    """Another gamma, window and noise, sometimes letters or a bright line over it, sometimes blurred."""
    out = np.clip(pixels, 0, 1) ** np.float32(math.exp(rng.normal(0, 0.35)))
    low, high = float(rng.uniform(-0.15, 0.15)), float(rng.uniform(0.75, 1.25))
    out = np.clip((out - low) / (high - low), 0, 1)
    if rng.random() < 0.3:
        picture = Image.fromarray((out * 255).astype(np.uint8))
        _draw_letters(picture, rng)
        out = np.asarray(picture, dtype=np.float32) / 255
    if rng.random() < 0.3:
        out = blur_film(out, float(rng.uniform(0.5, 2.0)))
    return np.clip(out + rng.normal(0, rng.uniform(0, 0.06), out.shape), 0, 1).astype(np.float32)


def _draw_letters(picture: Image.Image, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(picture)
    text = "".join(rng.choice(list("LRAPORTBE1234567890 "), int(rng.integers(1, 9))))
    draw.text(
        (int(rng.integers(picture.width)), int(rng.integers(picture.height))), text, fill=int(rng.integers(150, 256))
    )


def _piece(frontal: Grey, rng: np.random.Generator) -> Grey:
    """A small part of a chest radiograph, enlarged: a shoulder, one lung base, a bit of abdomen."""
    height, width = frontal.shape
    side = int(min(height, width) * rng.uniform(0.15, 0.36))
    top, left = int(rng.integers(height - side)), int(rng.integers(width - side))
    piece = np.rot90(frontal[top : top + side, left : left + side], int(rng.integers(4)))
    picture = Image.fromarray(np.ascontiguousarray(piece, dtype=np.float32))
    return expose_film(np.asarray(picture.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)), rng)


OTHER_FAMILIES: dict[str, Callable[[Grey, np.random.Generator], Grey]] = {
    "limb": draw_limb,
    "hand": draw_hand,
    "skull": draw_skull,
    "pelvis": draw_pelvis,
    "spine": draw_spine,
    "breast": draw_breast,
    "slice": draw_slice,
    "page": draw_page,
    "noise": draw_noise,
    "piece": _piece,
}
