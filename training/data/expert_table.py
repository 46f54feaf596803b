"""The expert's probabilities of a whole data set, computed once: a CSV of image ids and the 18 labels (stream E)."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import PixelError
from model.experts.expert import Expert, expert_text
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
        known = [place for place in places if place is not None]
        return expert_text(self.probabilities[known], self.labels) if len(known) == len(places) else None


def write_expert_table(records: Iterable[Record], expert: Expert, path: Path, report: DropReport) -> int:
    """Ask the expert of every image of the records, each once; returns how many. Unreadable images are counted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    seen: set[str] = set()
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((ID, *expert.labels))
        for record in records:
            for image in (record.current, *([record.prior] if record.prior is not None else []), *record.earlier):
                if image.image_id in seen:
                    continue
                seen.add(image.image_id)
                try:
                    shares = expert.probabilities([load_image(image)])[0]
                except PixelError as error:
                    report.drop(f"image cannot be decoded: {error}", image.image_id)
                    continue
                report.keep()
                writer.writerow((image.image_id, *(f"{share:.4f}" for share in shares.tolist())))
    partial.replace(path)
    return report.kept
