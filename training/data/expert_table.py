"""The expert's probabilities of a whole data set, computed once: a CSV of image ids and the 18 labels (stream E)."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import PixelError
from model.experts.expert import SIDE, Expert, expert_text
from model.images.square import fit
from training.data.datasets import load_image
from training.readers.tables import read_rows
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef, Record

ID = "image_id"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertTable:
    """labels: names of the columns. rows: image id → row of `probabilities`, float16 [images, labels]."""

    labels: tuple[str, ...]
    rows: dict[str, int]
    probabilities: NDArray[np.float16]

    @classmethod
    def read(cls, path: Path) -> ExpertTable:
        """Read what `write_expert_table` wrote; raises DataError naming what is wrong with it."""
        if not path.is_file():
            raise DataError(f"{path} is missing; dicom-node train expert writes it")
        with path.open(encoding="utf-8", newline="") as file:
            labels = tuple(next(csv.reader(file), [])[1:])
        report = DropReport()
        rows: dict[str, int] = {}
        values: list[NDArray[np.float16]] = []
        for image_id, *shares in read_rows(path, (ID, *labels), report):
            try:
                row = np.asarray(shares, np.float16)
            except ValueError as error:
                raise DataError(f"{path.name}: {image_id}: {error}") from error
            # Which of the two would count depended on their order.
            if image_id in rows:
                raise DataError(f"{path.name}: {image_id} stands in it twice")
            rows[image_id] = len(values)
            values.append(row)
        if not labels or not values or report.total_dropped:
            raise DataError(f"{path.name} holds no expert predictions:\n" + "\n".join(report.lines()))
        return cls(labels=labels, rows=rows, probabilities=np.stack(values))

    def text(self, images: Sequence[ImageRef]) -> str | None:
        """The line on the last two of the images; None where the table does not know one of them."""
        places = [self.rows.get(image.image_id) for image in images[-2:]]
        known = [index for index in places if index is not None]
        return expert_text(self.probabilities[known], self.labels) if len(known) == len(places) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRow:
    """The expert's probabilities of one image in the order of its labels, or why there are none."""

    image_id: str
    shares: tuple[float, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertImage:
    """An image as the expert sees it: uint8 [SIDE, SIDE]; None where it cannot be decoded, and why."""

    image_id: str
    square: NDArray[np.uint8] | None = None
    fault: str = ""


def images_of(records: Iterable[Record]) -> Iterator[ImageRef]:
    """Every image of the records, each once."""
    seen: set[str] = set()
    for record in records:
        for image in (record.current, *([record.prior] if record.prior is not None else []), *record.earlier):
            if image.image_id not in seen:
                seen.add(image.image_id)
                yield image


def read_expert_images(images: Sequence[ImageRef]) -> list[ExpertImage]:
    """Decode images and make them as large as the expert wants them."""
    read = []
    for image in images:
        try:
            read.append(ExpertImage(image_id=image.image_id, square=fit(load_image(image), SIDE)))
        except PixelError as error:
            read.append(ExpertImage(image_id=image.image_id, fault=f"image cannot be decoded: {error}"))
    return read


def ask_expert(expert: Expert, images: Sequence[ExpertImage]) -> list[ExpertRow]:
    """Ask about images together; the rows are in their order."""
    squares = [image.square for image in images if image.square is not None]
    probabilities = iter(expert.probabilities_of_squares(np.stack(squares)).tolist() if squares else [])
    return [
        ExpertRow(image_id=image.image_id, fault=image.fault)
        if image.square is None
        else ExpertRow(image_id=image.image_id, shares=tuple(next(probabilities)))
        for image in images
    ]


def write_rows(rows: Iterable[ExpertRow], labels: Sequence[str], path: Path, report: DropReport) -> int:
    """Write the table in one step; returns the number of its images. Those without an answer are counted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((ID, *labels))
        for row in rows:
            if row.fault:
                report.drop(row.fault, row.image_id)
                continue
            report.keep()
            writer.writerow((row.image_id, *(f"{share:.4f}" for share in row.shares)))
    partial.replace(path)
    return report.kept


def write_expert_table(records: Iterable[Record], expert: Expert, path: Path, report: DropReport) -> int:
    """Ask the expert of every image of the records in this process; returns how many. `train expert` uses all cores."""
    rows = (row for image in images_of(records) for row in ask_expert(expert, read_expert_images([image])))
    return write_rows(rows, expert.labels, path, report)
