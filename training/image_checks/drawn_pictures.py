"""Pictures that are no chest radiographs, drawn roughly: limbs, skulls, slices, pages of text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

Grey = NDArray[np.float32]
CANVAS = 112
"""Pixels of the longer side of a picture before it is fitted to the check's square."""


def blur_film(pixels: NDArray[Any], sigma: float) -> Grey:
    """A Gaussian blur."""
    return np.asarray(gaussian_filter(pixels, sigma), dtype=np.float32)


class _Drawing:
    """Adds blurred shapes to a canvas; coordinates in fractions of the canvas, x right, y down."""

    def __init__(self, rng: np.random.Generator, height: int = CANVAS, width: int = CANVAS) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.grey = np.zeros((height, width), dtype=np.float32)

    def add(self, value: float, blur: float, paint: Callable[[ImageDraw.ImageDraw], None]) -> None:
        layer = Image.new("L", (self.width, self.height))
        paint(ImageDraw.Draw(layer))
        self.grey += value * blur_film(np.asarray(layer, dtype=np.float32) / 255, blur)

    def ellipse(self, value: float, x: float, y: float, rx: float, ry: float, blur: float = 1.5) -> None:
        w, h = self.width, self.height
        box = [(x - rx) * w, (y - ry) * h, (x + rx) * w, (y + ry) * h]
        self.add(value, blur, lambda draw: draw.ellipse(box, fill=255))

    def line(self, value: float, points: list[tuple[float, float]], wide: float, blur: float = 1.0) -> None:
        w, h = self.width, self.height
        path = [(x * w, y * h) for x, y in points]
        width = max(1, round(wide * w))
        self.add(value, blur, lambda draw: draw.line(path, fill=255, width=width, joint="curve"))

    def done(self) -> Grey:
        noise = blur_film(self.rng.normal(0, 1, self.grey.shape).astype(np.float32), float(self.rng.uniform(1, 5)))
        grey = self.grey + noise / max(float(noise.std()), 1e-6) * float(self.rng.uniform(0, 0.06)) * (self.grey > 0.02)
        return np.clip(grey, 0, 1).astype(np.float32)


def draw_lateral(rng: np.random.Generator) -> Grey:
    """Spine behind, breastbone in front, heart low in front, one dark lung field, diaphragm below, shoulder above."""
    u = rng.uniform
    art = _Drawing(rng, CANVAS, int(CANVAS * u(0.7, 1.0)))
    art.ellipse(u(0.45, 0.65), 0.5, 0.55, u(0.38, 0.47), u(0.5, 0.62), 2)
    art.ellipse(-u(0.3, 0.45), u(0.46, 0.52), u(0.42, 0.48), u(0.26, 0.33), u(0.28, 0.36), 4)
    spine = [(u(0.74, 0.8) + 0.05 * math.sin(t * 3), t) for t in np.linspace(0.02, 0.98, 14)]
    art.line(u(0.15, 0.3), spine, u(0.08, 0.13), 2)
    for x, y in spine:
        art.ellipse(u(0.05, 0.15), x, y, 0.045, 0.025, 0.8)
    art.line(u(0.1, 0.3), [(u(0.2, 0.28), 0.2), (u(0.12, 0.18), u(0.6, 0.7))], 0.025, 1)
    art.ellipse(u(0.2, 0.35), u(0.32, 0.42), u(0.6, 0.68), u(0.12, 0.17), u(0.12, 0.17), 4)
    art.ellipse(u(0.3, 0.5), u(0.4, 0.55), u(0.95, 1.05), u(0.4, 0.5), u(0.22, 0.3), 3)
    art.ellipse(u(0.2, 0.4), u(0.5, 0.7), u(-0.02, 0.08), u(0.25, 0.4), u(0.12, 0.2), 5)
    for k in range(int(rng.integers(4, 9))):
        y = 0.18 + 0.08 * k
        art.line(u(0.03, 0.09), [(0.75, y), (0.5, y + 0.09), (0.25, y + 0.2)], 0.02, 1)
    return art.done()


def draw_limb(_: Grey, rng: np.random.Generator) -> Grey:
    """One or two long bones in soft tissue with a joint."""
    u = rng.uniform
    art = _Drawing(rng, CANVAS, int(CANVAS * u(0.5, 1.0)))
    lean, wide = u(-0.12, 0.12), u(0.22, 0.5)
    art.line(u(0.2, 0.45), [(0.5 - lean, -0.1), (0.5 + lean, 1.1)], wide, 3)
    for side in (-1, 1) if rng.random() < 0.6 else (0,):
        x = 0.5 + side * wide * 0.2
        art.line(u(0.3, 0.5), [(x - lean, -0.1), (x, u(0.4, 0.5))], wide * 0.25, 1)
        art.line(u(0.3, 0.5), [(x, u(0.52, 0.56)), (x + lean, 1.1)], wide * 0.25, 1)
        art.ellipse(u(0.1, 0.3), x, u(0.4, 0.47), wide * 0.2, 0.05, 1)
    return art.done()


def draw_hand(_: Grey, rng: np.random.Generator) -> Grey:
    """A palm with five fingers of three bones."""
    u = rng.uniform
    art = _Drawing(rng)
    art.ellipse(u(0.2, 0.35), 0.5, 0.72, 0.24, 0.24, 2)
    for k in range(5):
        angle = math.radians(-40 + 20 * k + u(-4, 4))
        reach = (0.35, 0.5, 0.55, 0.5, 0.4)[k]
        joints = [(0.5 + math.sin(angle) * r, 0.75 - math.cos(angle) * r) for r in np.linspace(0.1, reach, 5)]
        art.line(u(0.15, 0.3), joints, 0.08, 2)
        for (x0, y0), (x1, y1) in itertools.pairwise(joints):
            art.line(u(0.3, 0.5), [(x0, y0), (x0 + 0.85 * (x1 - x0), y0 + 0.85 * (y1 - y0))], 0.03, 0.7)
    return art.done()


def draw_skull(_: Grey, rng: np.random.Generator) -> Grey:
    """A ring of bone, a face or a jaw, a neck."""
    u = rng.uniform
    art = _Drawing(rng)
    art.ellipse(u(0.6, 0.8), 0.5, 0.42, u(0.3, 0.4), u(0.3, 0.38), 1.5)
    art.ellipse(-u(0.2, 0.35), 0.5, 0.41, u(0.27, 0.33), u(0.26, 0.32), 2)
    for side in (-1, 1):
        art.ellipse(-u(0.1, 0.25), 0.5 + side * 0.12, 0.5, 0.06, 0.05, 2)
    art.line(u(0.2, 0.4), [(0.3, 0.65), (0.42, 0.82), (0.58, 0.82), (0.7, 0.65)], 0.05, 1.5)
    art.line(u(0.2, 0.4), [(0.5, 0.7), (0.5, 1.1)], u(0.2, 0.3), 3)
    return art.done()


def draw_pelvis(_: Grey, rng: np.random.Generator) -> Grey:
    """Abdomen and pelvis: soft tissue, spine, two iliac wings, gas."""
    u = rng.uniform
    art = _Drawing(rng, CANVAS, int(CANVAS * u(0.8, 1.2)))
    art.line(u(0.4, 0.6), [(0.5, -0.1), (0.5, 1.1)], u(0.8, 1.1), 3)
    art.line(u(0.15, 0.3), [(0.5, -0.1), (0.5, 0.6)], u(0.1, 0.16), 1.5)
    for side in (-1, 1):
        art.ellipse(u(0.15, 0.3), 0.5 + side * 0.24, 0.62, 0.15, 0.14, 2)
        art.ellipse(u(0.15, 0.35), 0.5 + side * 0.3, 0.85, 0.07, 0.07, 1.5)
        art.line(u(0.2, 0.35), [(0.5 + side * 0.33, 0.88), (0.5 + side * 0.38, 1.2)], 0.1, 1.5)
    for _k in range(int(rng.integers(2, 9))):
        art.ellipse(-u(0.08, 0.25), u(0.2, 0.8), u(0.05, 0.6), u(0.03, 0.1), u(0.02, 0.07), 2)
    return art.done()


def draw_spine(_: Grey, rng: np.random.Generator) -> Grey:
    """A column of vertebrae in soft tissue."""
    u = rng.uniform
    art = _Drawing(rng, CANVAS, int(CANVAS * u(0.5, 0.9)))
    art.line(u(0.2, 0.5), [(0.5, -0.1), (0.5, 1.1)], u(0.5, 1.0), 4)
    bend, wide = u(-0.15, 0.15), u(0.15, 0.28)
    for y in np.linspace(0.03, 0.97, int(rng.integers(6, 12))):
        x = 0.5 + bend * math.sin(y * math.pi)
        art.line(u(0.25, 0.4), [(x - wide / 2, y), (x + wide / 2, y)], 0.07, 1)
    return art.done()


def draw_breast(_: Grey, rng: np.random.Generator) -> Grey:
    """A mammogram: half an ellipse at one side."""
    u = rng.uniform
    art = _Drawing(rng, CANVAS, int(CANVAS * u(0.6, 0.9)))
    art.ellipse(u(0.3, 0.5), 0.0, u(0.45, 0.55), u(0.5, 0.8), u(0.3, 0.45), 2)
    for _k in range(int(rng.integers(5, 20))):
        art.ellipse(u(0.03, 0.15), u(0.05, 0.45), u(0.3, 0.7), u(0.03, 0.12), u(0.02, 0.1), 3)
    return art.done()


def draw_slice(_: Grey, rng: np.random.Generator) -> Grey:
    """An axial slice: a body ellipse with two dark lungs or none, a vertebra behind."""
    u = rng.uniform
    art = _Drawing(rng, CANVAS, int(CANVAS * u(1.0, 1.4)))
    art.ellipse(u(0.4, 0.6), 0.5, 0.5, u(0.38, 0.46), u(0.32, 0.42), 1)
    if rng.random() < 0.7:
        for side in (-1, 1):
            art.ellipse(-u(0.3, 0.45), 0.5 + side * 0.2, 0.5, u(0.13, 0.17), u(0.2, 0.26), 1.2)
    art.ellipse(u(0.2, 0.4), 0.5, 0.75, 0.06, 0.06, 1)
    return art.done()


def draw_page(_: Grey, rng: np.random.Generator) -> Grey:
    """A page of text or a form, dark on white or white on dark."""
    picture = Image.new("L", (int(CANVAS * rng.uniform(0.7, 1.3)), CANVAS), 255 if rng.random() < 0.5 else 0)
    for _k in range(int(rng.integers(5, 30))):
        draw = ImageDraw.Draw(picture)
        x, y = int(rng.integers(picture.width)), int(rng.integers(picture.height))
        fill = int(rng.integers(0, 256))
        if rng.random() < 0.3:
            draw.rectangle([x, y, x + int(rng.integers(4, 50)), y + int(rng.integers(2, 30))], outline=fill)
        draw.text((x, y), "".join(rng.choice(list("abcdefgh 0123456789"), 12)), fill=fill)
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def draw_noise(_: Grey, rng: np.random.Generator) -> Grey:
    """Nothing: flat, a gradient, white noise or clouds."""
    shape = (CANVAS, int(CANVAS * rng.uniform(0.7, 1.4)))
    choice = rng.integers(4)
    if choice == 0:
        return np.full(shape, rng.random(), dtype=np.float32) + rng.normal(0, 0.01, shape).astype(np.float32)
    if choice == 1:
        y, x = np.mgrid[: shape[0], : shape[1]] / CANVAS
        return np.asarray(np.clip(x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1) + rng.random(), 0, 1), np.float32)
    if choice == 2:
        return rng.random(shape).astype(np.float32)
    # Noise of five scales, each weighted with its scale: about the 1/f spectrum of natural pictures.
    clouds = sum(blur_film(rng.normal(0, 1, shape).astype(np.float32), s) * s for s in (1, 2, 4, 8, 16))
    return np.asarray(np.clip(0.5 + 0.25 * clouds / np.std(clouds), 0, 1), dtype=np.float32)
