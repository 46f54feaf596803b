"""Where the label of a region stands on its image (rule 7 of `report.rules`): beside it, inside, apart.

Viewers draw labels in screen pixels, so positions are found for the smallest usual viewport; in a larger one the boxes
only shrink away from each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

USUAL_WIDTH = 560
"""Pixels of the screen that an image is at least wide in a viewport of usual size."""
CHARACTER, LINE, PADDING = 8.6, 24.0, 8.0
"""Width of a character, height of a line and what a box adds to its text, in pixels of the screen (OHIF 3.13)."""
OFFSET = (25.0, 25.0)
"""The shift of a text in OHIF 3.13 to the right of and below its coordinates, in pixels of the screen."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelBox:
    """A label's box in pixels of its image."""

    left: float
    top: float
    width: float
    height: float
    scale: float
    """Pixels of the image for one of the screen."""

    @property
    def anchor(self) -> tuple[float, float]:
        """(column, row) of the coordinates that make OHIF write the label into this box."""
        return self.left - OFFSET[0] * self.scale, self.top - OFFSET[1] * self.scale

    def overlaps(self, other: LabelBox) -> bool:
        """Tell whether the two share a point."""
        return (
            self.left < other.left + other.width
            and other.left < self.left + self.width
            and self.top < other.top + other.height
            and other.top < self.top + self.height
        )


def label_boxes(labels: Sequence[tuple[str, Points]], columns: int, rows: int) -> list[LabelBox]:
    """A box for each (text, outline) of an image of `columns` by `rows` pixels, in the order given."""
    boxes: list[LabelBox] = []
    for text, outline in labels:
        boxes.append(_free(_preferred_box(text, outline, columns, rows), boxes, rows))
    return boxes


def _preferred_box(text: str, outline: Points, columns: int, rows: int) -> LabelBox:
    """Above the outline, or below it where there is no room, in its own half: a label over the other lung misleads.

    In an outline that is as high as the image it stands inside, at the top.
    """
    scale = columns / USUAL_WIDTH
    width, height = min((CHARACTER * len(text) + PADDING) * scale, float(columns)), LINE * scale
    xs, ys = [x for x, _ in outline], [y for _, y in outline]
    left = (min(xs) + max(xs) - width) / 2
    above, below = min(ys) - height, max(ys)
    top = above if above >= 0 else below if below + height <= rows else min(ys)
    left, top = min(max(left, 0.0), columns - width), min(max(top, 0.0), rows - height)
    return LabelBox(left=left, top=top, width=width, height=height, scale=scale)


def _free(wanted: LabelBox, taken: Sequence[LabelBox], rows: int) -> LabelBox:
    """The nearest place above or below that no other label has; the wanted one where the image is full."""
    step = wanted.height
    for number in range(2 * int(rows / step) + 2):
        # 0, +1, −1, +2, −2 … lines away from the wanted place.
        away = (number + 1) // 2 * step * (1 if number % 2 else -1)
        box = replace(wanted, top=wanted.top + away)
        inside = box.top >= 0 and box.top + box.height <= rows
        if inside and not any(box.overlaps(other) for other in taken):
            return box
    return wanted
