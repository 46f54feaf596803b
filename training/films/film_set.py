"""The films that the classifier learns from, as arrays: squares as serving sees them, both kinds of label, outlines.

Films, their labels and the order of each patient's films come from the readers, so that what is decoded, cropped and
fitted is what serving decodes, crops and fits.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from model.errors import PixelError
from model.experts.film_network import MARKED, MINED, SIDE
from model.images.square import fit, stored_to_square
from model.schema import DisplayImage
from training.data.datasets import load_image
from training.readers.labels import nih_keys
from training.readers.nih import read_nih
from training.readers.nih_series import MARKS, read_nih_marks, read_nih_series
from training.records.drops import DropReport
from training.records.record import ImageRef, Record, Split

UNKNOWN = -1.0
"""Label of a film that nobody read for the finding."""
VALIDATION_PERCENT = 15
"""Of the training patients; their films choose and calibrate, and teach nothing."""
MASK_SIDE = 32
_DRAWN_SIDE = 256
_MARKS_SIDE = 1024.0
"""The tables' outlines and boxes are in pixels of a square of this side."""
_OUTLINE_WORDS = {
    "Effusion": "pleural_effusion",
    "Pneumothorax": "pneumothorax",
    "Atelectasis": "atelectasis",
    "Consolidation": "consolidation",
    "Nodule": "lung_nodule",
    "Fracture": "fracture",
    "Emphysema": "emphysema",
    "Fibrosis": "fibrosis",
    "Calcification": "calcification",
    "Mass": "mass",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilmSet:
    """N films. squares uint8 [N, SIDE, SIDE]. patients, names, views ("PA", "AP"), sexes: text. splits: a `Split`.

    pixels: side of the stored film. mined [N, MINED] and marked [N, MARKED]: 1, 0 or UNKNOWN. areas [N, MARKED]: share
    of the square that was outlined. mask_rows [N]: row of masks [M, MARKED, MASK_SIDE, MASK_SIDE], -1 where none.
    """

    squares: NDArray[np.uint8]
    names: NDArray[np.str_]
    patients: NDArray[np.str_]
    splits: NDArray[np.str_]
    pixels: NDArray[np.int64]
    views: NDArray[np.str_]
    ages: NDArray[np.int64]
    sexes: NDArray[np.str_]
    mined: NDArray[np.float32]
    marked: NDArray[np.float32]
    areas: NDArray[np.float32]
    mask_rows: NDArray[np.int64]
    masks: NDArray[np.float16]

    @property
    def is_read(self) -> NDArray[np.bool_]:
        """Films that radiologists read."""
        known: NDArray[np.bool_] = self.marked[:, 0] != UNKNOWN
        return known

    @property
    def is_validation(self) -> NDArray[np.bool_]:
        """Films of the patients that choose and calibrate."""
        chosen = np.array([is_validation_patient(patient) for patient in self.patients])
        held: NDArray[np.bool_] = (self.splits == Split.TRAIN.value) & chosen
        return held

    @property
    def is_training(self) -> NDArray[np.bool_]:
        """Films that are learned from."""
        learned: NDArray[np.bool_] = (self.splits == Split.TRAIN.value) & ~self.is_validation
        return learned

    def save(self, path: Path) -> None:
        """Keep it; the films are decoded once."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> FilmSet:
        """Load the set that `save` kept."""
        with np.load(path) as kept:
            return cls(**{field.name: kept[field.name] for field in fields(cls)})


@cache
def is_validation_patient(patient: str) -> bool:
    """By a hash of the patient's number alone, so the same in every set and run. patient: "nih/1336"."""
    number = int(patient.rpartition("/")[2])
    return int(hashlib.sha256(f"val1{number:08}".encode()).hexdigest()[:6], 16) % 100 < VALIDATION_PERCENT


def read_film_set(series: Path, report: DropReport) -> FilmSet:
    """All films of `series` (nih_series) and of the folder `nih` beside it where it is there. Takes minutes."""
    other = series.parent / "nih"
    mined = chain(read_nih_series(series, report), read_nih(other, report) if other.is_dir() else ())
    marked = {record.current.image_id: record for record in read_nih_marks(series, report)}
    # A prior that was marked is a marked film by itself.
    marked |= {record.prior.image_id: _as_current(record) for record in list(marked.values()) if record.prior}
    outlines = _Outlines(series)
    rows: dict[str, list[Any]] = {field.name: [] for field in fields(FilmSet)}
    for record in mined:
        if record.split is Split.FIXTURE:
            continue
        try:
            image = load_image(record.current)
        except PixelError as error:
            report.drop(f"image cannot be decoded: {error}", record.current.image_id)
            continue
        _add(rows, record, image, marked.get(record.current.image_id), outlines)
    return FilmSet(**{name: np.stack(values) if values else np.array(values) for name, values in rows.items()})


def film_pairs(films: FilmSet, records: Iterable[Record]) -> dict[tuple[int, int], Record]:
    """(row of the prior, row of the current film) → record, for the pairs both of whose films are in the set."""
    places = {name: number for number, name in enumerate(films.names.tolist())}
    return {
        (places[record.prior.image_id], places[record.current.image_id]): record
        for record in records
        if record.prior is not None and record.prior.image_id in places and record.current.image_id in places
    }


def _as_current(record: Record) -> Record:
    return Record(truth=record.truth.swapped(), current=_image(record.prior), prior=record.current, split=record.split)


def _image(image: ImageRef | None) -> ImageRef:
    assert image is not None
    return image


def _add(
    rows: Mapping[str, list[Any]], record: Record, image: DisplayImage, read: Record | None, outlines: _Outlines
) -> None:
    labels = nih_keys()
    truths, name = record.truth.findings, record.current.image_id
    mined = [_known(truths.get(labels[label])) for label in MINED]
    marked = [_known(read.truth.findings.get(MARKS[word])) if read is not None else UNKNOWN for word in MARKED]
    areas, mask = outlines.of(name, image) if 1.0 in marked else (np.zeros(len(MARKED), np.float32), None)
    # Few films have masks: they are stored apart, and -1 says "none".
    rows["mask_rows"].append(np.int64(len(rows["masks"]) if mask is not None else -1))
    if mask is not None:
        rows["masks"].append(mask)
    context = record.context
    values: dict[str, object] = {
        "squares": fit(image, SIDE),
        "names": name,
        "patients": record.patient_id,
        "splits": record.split.value,
        "pixels": np.int64(image.geometry.rows),
        "views": record.truth.view or "",
        "ages": np.int64(context.age_years if context is not None and context.age_years is not None else -1),
        "sexes": (context.sex if context is not None else None) or "",
        "mined": np.array(mined, dtype=np.float32),
        "marked": np.array(marked, dtype=np.float32),
        "areas": areas,
    }
    for column, value in values.items():
        rows[column].append(value)


def _known(truth: object) -> float:
    current = getattr(truth, "current", None)
    return UNKNOWN if current is None else float(current.present)


class _Outlines:
    """The outlines of `outlines.json`, and the boxes of `boxes.csv` where a film has no outline of a finding."""

    def __init__(self, folder: Path) -> None:
        self._polygons = json.loads((folder / "outlines.json").read_text("utf-8"))
        self._boxes: dict[str, list[tuple[str, tuple[float, float, float, float]]]] = {}
        with (folder / "boxes.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                box = (float(row["x0"]), float(row["y0"]), float(row["x1"]), float(row["y1"]))
                self._boxes.setdefault(row["image"], []).append((row["finding"], box))

    def of(self, name: str, image: DisplayImage) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        """(areas [MARKED], mask [MARKED, MASK_SIDE, MASK_SIDE]) on the square that the classifier sees."""
        areas = np.zeros(len(MARKED), np.float32)
        masks = np.zeros((len(MARKED), MASK_SIDE, MASK_SIDE), np.float16)
        cell = _DRAWN_SIDE // MASK_SIDE
        for channel, word in enumerate(MARKED):
            picture = Image.new("L", (_DRAWN_SIDE, _DRAWN_SIDE))
            if self._draw(ImageDraw.Draw(picture), name, word, image):
                drawn = np.asarray(picture, dtype=np.float32) / 255.0
                areas[channel] = drawn.mean()
                masks[channel] = drawn.reshape(MASK_SIDE, cell, MASK_SIDE, cell).mean((1, 3))
        return areas, masks

    def _draw(self, canvas: ImageDraw.ImageDraw, name: str, word: str, image: DisplayImage) -> bool:
        known = self._polygons.get(name, {"findings": [], "polygons": []})
        polygons = [
            points
            for finding, points in zip(known["findings"], known["polygons"], strict=True)
            if _OUTLINE_WORDS.get(finding) == word and len(points) > 2
        ]
        if not polygons:
            polygons = [_corners(box) for finding, box in self._boxes.get(name, []) if finding == word]
        for points in polygons:
            canvas.polygon([_on_square(image, x, y) for x, y in points], fill=255)
        return bool(polygons)


def _corners(box: tuple[float, float, float, float]) -> Sequence[tuple[float, float]]:
    x0, y0, x1, y1 = box
    return (x0, y0), (x1, y0), (x1, y1), (x0, y1)


def _on_square(image: DisplayImage, x: float, y: float) -> tuple[float, float]:
    """A point of the tables → pixels of the drawn square."""
    geometry = image.geometry
    column, row = x / _MARKS_SIDE * geometry.columns, y / _MARKS_SIDE * geometry.rows
    return stored_to_square(geometry, _DRAWN_SIDE, column, row)
