"""Whole series with two kinds of label: mined from reports, and marked by radiologists on some of the films."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.schema import Change
from training.data.datasets import load_pair, open_records, parse_spec
from training.readers.nih_series import LABELS, MARKED, MINED, read_nih_marks, read_nih_series
from training.records.drops import DataError, DropReport
from training.records.record import Split

FILMS = [
    # name, labels, follow-up, patient, age, split, pixels
    ("00000001_000.png", "No Finding", 0, 1, 58, "train", 128),
    ("00000001_001.png", "Effusion", 1, 1, 59, "train", 128),
    ("00000002_000.png", "Consolidation", 0, 2, 40, "dev", 64),
]


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def series(tmp_path: Path) -> Path:
    root = tmp_path / "nih_series"
    for folder in ("images", "images_64"):
        (root / folder).mkdir(parents=True)
    for number, (name, *_, pixels) in enumerate(FILMS):
        grey = np.random.default_rng(number).integers(40, 220, (pixels, pixels)).astype(np.uint8)
        folder = "images" if pixels == 128 else "images_64"
        Image.fromarray(grey).save(root / folder / name.replace(".png", ".webp"), lossless=True)
    _write(
        root / "metadata.csv",
        (
            "Image Index",
            "Finding Labels",
            "Follow-up #",
            "Patient ID",
            "Patient Age",
            "Patient Gender",
            "View Position",
            "pixels",
            "split",
            "read",
        ),
        [(n, labels, f, p, age, "F", "PA", px, split, 1) for n, labels, f, p, age, split, px in FILMS],
    )
    _write(
        root / "read.csv",
        ("image", "split", "findings", "pixels"),
        [
            ("00000001_000.png", "train", "", 128),
            ("00000001_001.png", "train", "pleural_effusion|mass", 128),
            ("00000002_000.png", "dev", "consolidation", 64),
        ],
    )
    _write(
        root / "boxes.csv",
        ("image", "finding", "x0", "y0", "x1", "y1", "side", "split"),
        [
            ("00000001_001.png", "pleural_effusion", 600, 700, 900, 1000, "left", "train"),
            ("00000002_000.png", "consolidation", 100, 300, 400, 600, "right", "dev"),
            ("00000002_000.png", "consolidation", 600, 300, 900, 600, "left", "dev"),
        ],
    )
    _write(
        root / "pairs_read.csv",
        ("patient", "prior", "current", "finding", "change"),
        [
            ("1", "00000001_000.png", "00000001_001.png", "pleural_effusion", "new"),
            ("1", "00000001_000.png", "00000001_001.png", "mass", "new"),
        ],
    )
    return root


def test_mined_labels_say_what_they_are_and_come_in_follow_up_order(series: Path) -> None:
    records = {record.current.image_id: record for record in read_nih_series(series, DropReport())}
    assert set(records) == {name for name, *_ in FILMS}
    later = records["00000001_001.png"]
    assert later.prior is not None
    assert later.truth.facts[LABELS] == MINED
    assert later.truth.proxy
    assert later.truth.findings["pleural_effusion"].change is Change.NEW
    assert records["00000002_000.png"].split is Split.VALIDATE
    assert load_pair(later).current.pixels.shape == (128, 128)


def test_marks_are_known_for_every_finding_that_radiologists_looked_for(series: Path) -> None:
    records = {record.current.image_id: record for record in read_nih_marks(series, DropReport())}
    pair = records["00000001_001.png"]
    assert (pair.truth.facts[LABELS], pair.truth.proxy, pair.patient_id) == (MARKED, False, "nih/1")
    effusion, nodule = pair.truth.findings["pleural_effusion"], pair.truth.findings["lung_nodule"]
    assert effusion.change is Change.NEW
    assert effusion.current is not None
    assert (effusion.current.present, effusion.current.side) == (True, "left")
    assert nodule.nothing
    assert pair.truth.findings["lung_mass"].change is Change.NEW
    assert "edema" not in pair.truth.findings  # nobody looked for it: not known is not absent
    alone = records["00000002_000.png"]
    assert alone.prior is None
    assert alone.truth.findings["consolidation"].current is not None
    assert alone.truth.findings["consolidation"].current.side == "bilateral"
    assert "00000001_000.png" in {record.prior.image_id for record in records.values() if record.prior}


def test_films_are_found_by_their_names_on_the_command_line(series: Path) -> None:
    for kind, count in (("nih-series", 3), ("nih-marks", 3)):
        assert len(list(open_records(parse_spec(f"{kind}:{series}"), DropReport()))) == count


def test_films_that_lie_in_the_other_folder_are_read_there(series: Path) -> None:
    other = series.parent / "nih"
    (other / "images").mkdir(parents=True)
    moved = series / "images" / "00000001_001.webp"
    Image.open(moved).save(other / "images" / "00000001_001.jpg")
    moved.unlink()
    header = ("Image Index", "Patient ID", "Patient Age", "Patient Gender", "View Position")
    _write(other / "metadata.csv", header, [("00000001_001.png", 1, 59, "F", "PA")])
    records = {record.current.image_id: record for record in read_nih_marks(series, DropReport())}
    assert records["00000001_001.png"].current.key.endswith(".jpg")


def test_words_that_no_table_of_marks_has_are_an_error(series: Path) -> None:
    text = (series / "pairs_read.csv").read_text("utf-8")
    (series / "pairs_read.csv").write_text(text.replace("mass,new", "wisdom,new"), "utf-8")
    with pytest.raises(DataError, match="wisdom"):
        list(read_nih_marks(series, DropReport()))
