"""Drawing of regions: one colour for each finding, one line style for each change, labels that do not collide.

Pure geometry and constants; the pair picture draws with them, and the study page gets the same values.
"""

from __future__ import annotations

import colorsys
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from model.ontology import ontology
from model.schema import Change

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels."""
Point = tuple[float, float]

_GOLDEN_ANGLE = 137.508
"""Degrees: neighbours in the vocabulary get hues far apart, however many there are."""

MIN_BRIGHTNESS = 0.55
"""Of a colour, 0 to 1 by the weights of Rec. 709: its words must be readable on black."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineStyle:
    """width in pixels; dashes: lengths of strokes and gaps in turn, empty for an unbroken line."""

    width: int
    dashes: tuple[int, ...] = ()


LINE_STYLES: dict[Change | None, LineStyle] = {
    Change.NEW: LineStyle(width=4),
    Change.WORSENING: LineStyle(width=4, dashes=(16, 6)),
    Change.STABLE: LineStyle(width=1),
    Change.IMPROVING: LineStyle(width=2, dashes=(8, 6)),
    Change.RESOLVED: LineStyle(width=2, dashes=(2, 5)),
    Change.NOT_COMPARABLE: LineStyle(width=2, dashes=(12, 4, 2, 4)),
    None: LineStyle(width=2),
}
"""Every mark carries its word too, so that nothing depends on a line's style or colour alone."""


@cache
def finding_colour(key: str) -> Colour:
    """The finding's colour in every picture and page: bright on black, the same from study to study."""
    keys = list(ontology().findings)
    if key in keys:
        number = keys.index(key)
    else:  # a checkpoint may know more than the vocabulary
        number = len(keys) + int(hashlib.sha256(key.encode()).hexdigest()[:4], 16)
    hue = (number * _GOLDEN_ANGLE + 5.0) % 360.0 / 360.0
    lightness = 0.60 if number % 2 == 0 else 0.72
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.95)
    while 0.2126 * red + 0.7152 * green + 0.0722 * blue < MIN_BRIGHTNESS:  # blue and violet are dark for the eye
        lightness += 0.02
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def hex_colour(key: str) -> str:
    """The same as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*finding_colour(key))


def strokes(points: Sequence[Point], dashes: Sequence[int]) -> Iterator[tuple[Point, Point]]:
    """Cut a polyline into the straight strokes that a dashed line draws; without dashes its own segments."""
    if not dashes:
        yield from pairwise(points)
        return
    # Dash and gap go on around the corners of the polyline: `left` is what remains of the current one.
    number, left = 0, float(dashes[0])
    for (x0, y0), (x1, y1) in pairwise(points):
        length, done = math.hypot(x1 - x0, y1 - y0), 0.0
        while done < length:
            step = min(left, length - done)
            if number % 2 == 0:
                a, b = done / length, (done + step) / length
                yield (x0 + a * (x1 - x0), y0 + a * (y1 - y0)), (x0 + b * (x1 - x0), y0 + b * (y1 - y0))
            done, left = done + step, left - step
            # Not == 0: steps are sums of fractions, and a remainder of rounding would become a stroke of no length.
            if left <= 1e-9:
                number = (number + 1) % len(dashes)
                left = float(dashes[number])


def bounding_box(points: Sequence[Point]) -> Box:
    """The smallest box around the points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def place_labels(wanted: Sequence[tuple[float, float, Box]], bounds: Box) -> list[Point | None]:
    """Find a place for each label: near its region, inside the bounds, over no other label.

    wanted: (width, height, box of the region) of each label, the most important first. Returns the top left corner of
    each, None where no place is left (the caption below the picture names the finding then).
    """
    placed: list[Box] = []
    corners: list[Point | None] = []
    for width, height, region in wanted:
        corner = next((c for c in _places(width, height, region, bounds) if _is_free(c, width, height, placed)), None)
        corners.append(corner)
        if corner is not None:
            placed.append((corner[0], corner[1], corner[0] + width, corner[1] + height))
    return corners


def _places(width: float, height: float, region: Box, bounds: Box) -> Iterator[Point]:
    """Above, below, then inside the region, then any row at the region's column, the nearest first."""
    left, top, right, bottom = region
    for x, y in (
        (left, top - height),
        (left, bottom),
        (right - width, top - height),
        (right - width, bottom),
        (left, top),
    ):
        yield _inside(x, y, width, height, bounds)
    rows = int((bounds[3] - bounds[1]) // height) if height > 0 else 0
    for step in sorted(range(rows), key=lambda row: abs(bounds[1] + row * height - top)):
        yield _inside(left, bounds[1] + step * height, width, height, bounds)


def _inside(x: float, y: float, width: float, height: float, bounds: Box) -> Point:
    return (
        max(min(x, bounds[2] - width), bounds[0]),
        max(min(y, bounds[3] - height), bounds[1]),
    )


def _is_free(corner: Point, width: float, height: float, placed: Sequence[Box]) -> bool:
    x, y = corner
    return all(x + width <= b[0] or b[2] <= x or y + height <= b[1] or b[3] <= y for b in placed)
