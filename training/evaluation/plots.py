"""The evaluation report's plots as SVG text: a reliability diagram and an ROC curve. Numbers alone go in."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from training.evaluation.curves import Curve
from training.metrics.classification import ReliabilityBin

MIN_BIN_ANSWERS = 10
"""A bin with fewer answers is not drawn: its share says nothing."""
SIDE, LEFT, BOTTOM, TOP = 170, 34, 34, 8
"""Pixels: side of the plotted square, and the room around it for the scales."""
_BLUE, _GREY, _LINE = "#0969da", "#57606a", "#d0d7de"


def _place(x: float, y: float) -> str:
    return f"{LEFT + x * SIDE:.1f},{TOP + (1 - y) * SIDE:.1f}"


def _text(x: float, y: float, text: str, anchor: str = "middle", turn: bool = False) -> str:
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="10" fill="{_GREY}"{turned}>{text}</text>'


def _frame(across: str, up: str) -> str:
    """The square with its diagonal, a scale from 0 to 1 on both sides, and what they are."""
    parts = [f'<rect x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}" fill="none" stroke="{_LINE}"/>']
    for tick in (0.0, 0.5, 1.0):
        # In SVG y grows downward, hence 1 - tick.
        x, y = LEFT + tick * SIDE, TOP + (1 - tick) * SIDE
        parts.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{TOP + SIDE}" stroke="{_LINE}" stroke-width="0.5"/>')
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + SIDE}" y2="{y}" stroke="{_LINE}" stroke-width="0.5"/>')
        parts.append(_text(x, TOP + SIDE + 12, f"{tick:g}"))
        parts.append(_text(LEFT - 4, y + 3, f"{tick:g}", anchor="end"))
    parts.append(_text(LEFT + SIDE / 2, TOP + SIDE + 26, across))
    parts.append(_text(10, TOP + SIDE / 2, up, turn=True))
    diagonal = f"{_place(0, 0)} {_place(1, 1)}"
    parts.append(f'<polyline points="{diagonal}" fill="none" stroke="{_GREY}" stroke-dasharray="3 3"/>')
    return "".join(parts)


def _svg(body: str, label: str) -> Markup:
    width, height = LEFT + SIDE + 12, TOP + SIDE + BOTTOM
    return Markup(  # formatted numbers and our own words alone
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{label}">'
        f"{body}</svg>"
    )


def _line(points: Sequence[tuple[float, float]]) -> str:
    joined = " ".join(_place(x, y) for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{_BLUE}" stroke-width="1.8"/>'


def reliability_plot(bins: Sequence[ReliabilityBin]) -> Markup:
    """Mean confidence against share right with its 95 % interval, for bins of enough answers; bars show every bin's
    share of the answers, and the dot's area grows with the count."""
    every, bins = bins, [part for part in bins if part.count >= MIN_BIN_ANSWERS]
    most = max((part.count for part in bins), default=1)
    total = sum(part.count for part in every) or 1
    bars = "".join(
        f'<rect x="{LEFT + part.low * SIDE:.1f}" y="{TOP + SIDE - part.count / total * SIDE:.1f}" '
        f'width="{(part.high - part.low) * SIDE - 0.5:.1f}" height="{part.count / total * SIDE:.1f}" fill="#ddf4ff"/>'
        for part in every
    )
    dots = []
    for part in bins:
        x, y = _place(part.confidence, part.accuracy).split(",")
        (_, low), (_, high) = (_place(0, end).split(",") for end in part.spread)
        dots.append(f'<line x1="{x}" y1="{low}" x2="{x}" y2="{high}" stroke="{_BLUE}" stroke-width="1"/>')
        # The area of a dot grows with the count, so its radius with the root.
        dots.append(f'<circle cx="{x}" cy="{y}" r="{2 + 4 * math.sqrt(part.count / most):.1f}" fill="{_BLUE}"/>')
    line = _line([(part.confidence, part.accuracy) for part in bins])
    return _svg(bars + _frame("confidence", "share right") + line + "".join(dots), "reliability diagram")


def roc_plot(curve: Curve) -> Markup:
    """False against true positive rate."""
    points = list(zip(curve.false_rate, curve.true_rate, strict=True))
    return _svg(_frame("false positive rate", "true positive rate") + _line(points), "ROC curve")
