"""The pointing game on films of people: does a finding's map peak in a box that a radiologist drew?"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from model.experts.film_network import SIDE
from model.film_reader import film_heatmap
from model.localise.outline import outlines, peak
from model.predict import Predictor
from model.schema import DisplayImage, ImageRole, StudyPair
from training.readers.nih_series import MARKS
from training.records.record import Record

BOX_SIDE = 1024.0
"""Pixels of the square film that the boxes are given in."""

Box = tuple[float, float, float, float]


def pointing_figures(
    predictor: Predictor, items: Iterable[tuple[Record, StudyPair]], series: Path
) -> dict[str, dict[str, float]]:
    """Finding → films, share of hits, and mean overlap (IoU) of the drawn region's box with the nearest true box.

    Every film on which radiologists marked a finding counts, also where the model does not state it.
    """
    if predictor.films is None:
        return {}
    boxes = read_boxes(series)
    rounds: dict[str, list[tuple[bool, float]]] = {}
    for record, pair in items:
        view = predictor.films.look([pair])[0]
        for key, true in boxes.get(record.current.image_id, {}).items():
            heatmap = film_heatmap(view, key, ImageRole.CURRENT)
            if heatmap is None:
                continue
            scaled = [_in_pixels(box, pair.current) for box in true]
            x, y = peak(heatmap.grid, pair.current, SIDE)
            hit = any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in scaled)
            drawn = [_bounds(points) for points in outlines(heatmap.grid, pair.current, SIDE)]
            overlap = max((_overlap(box, other) for box in drawn for other in scaled), default=0.0)
            rounds.setdefault(key, []).append((hit, overlap))
    return {
        key: {
            "films": len(some),
            "hits": round(sum(hit for hit, _ in some) / len(some), 4),
            "overlap": round(sum(overlap for _, overlap in some) / len(some), 4),
        }
        for key, some in sorted(rounds.items())
    }


def read_boxes(series: Path) -> Mapping[str, Mapping[str, list[Box]]]:
    """Film → ontology key → boxes (x0, y0, x1, y1)."""
    boxes: dict[str, dict[str, list[Box]]] = {}
    with (series / "boxes.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["finding"] in MARKS:
                box = (float(row["x0"]), float(row["y0"]), float(row["x1"]), float(row["y1"]))
                boxes.setdefault(row["image"], {}).setdefault(MARKS[row["finding"]], []).append(box)
    return boxes


def _in_pixels(box: Box, image: DisplayImage) -> Box:
    across, down = image.geometry.columns / BOX_SIDE, image.geometry.rows / BOX_SIDE
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def _bounds(points: Iterable[tuple[float, float]]) -> Box:
    some = list(points)
    xs, ys = [x for x, _ in some], [y for _, y in some]
    return min(xs), min(ys), max(xs), max(ys)


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (area - shared) if area > shared else 0.0
