"""NIH ChestX-ray14 (Data_Entry_2017_v2020.csv, or a part of it): images in follow-up order with text-mined labels.

A label that is not listed counts as absent: the labels of an image are a complete list. They are no labels of change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from model.schema import PatientContext
from training.readers.labels import frontal_view, nih_keys
from training.readers.mimic import SPLIT_WORDS
from training.readers.series import LabelledImage, series_records
from training.readers.tables import find_table, read_rows
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef, Record, Split

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "metadata.csv")
TRAIN_LIST, TEST_LIST = "train_val_list.txt", "test_list.txt"
NO_FINDING = "No Finding"


def read_nih(root: Path, report: DropReport, *, check_images: bool = True) -> Iterator[Record]:
    """Records of ChestX-ray14: first image of a patient alone, later ones against the one before by follow-up number.

    Split: the column `split` where the table has one, else the official lists (patients of train_val are TRAIN), else
    TRAIN for all. Images (PNG, JPEG, WebP) lie in `images/`, `images_64/` or the publisher's `images_001/images/` ….
    """
    columns = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender")
    series: dict[str, list[LabelledImage]] = defaultdict(list)
    splits: dict[str, Split] = {}
    official, files, seen = _read_official_splits(root), find_image_files(root), set[str]()
    for row in read_rows(_read_table(root), (*columns, "View Position"), report, optional=("split",)):
        name, labels, follow_up, patient, age, sex, position, split_word = row
        known, view = _read_labels(labels, name, report), frontal_view(position)
        path = files.get(Path(name).stem)
        if name in seen:
            report.drop("duplicate Image Index", name)
        elif known is None or not (follow_up.isdigit() and patient):
            report.drop("unknown label, or Follow-up # is no number", name)
        elif view is None:
            report.drop("not a frontal view", name)
        elif check_images and path is None:
            report.drop("image file missing", name)
        else:
            seen.add(name)
            split = SPLIT_WORDS.get(split_word) or official.get(name, Split.TRAIN)
            if splits.setdefault(patient, split) is not split:
                raise DataError(f"patient {patient} is in two splits")
            series[patient].append(
                LabelledImage(
                    # `when` is compared as text, hence the zeros before the follow-up number.
                    image=ImageRef(
                        key=str(path or name), image_id=name, study_id=name, view=view, when=follow_up.zfill(4)
                    ),
                    known=known,
                    order=(int(follow_up),),
                    context=PatientContext(age_years=age_of(age), sex=sex or None),
                )
            )
    for patient, images in series.items():
        yield from series_records(patient, images, splits[patient], report, set_name="nih")


def _read_table(root: Path) -> Path:
    for name in TABLES:
        if (root / name).is_file():
            return root / name
    return find_table(root, TABLES[0])


def _read_labels(labels: str, name: str, report: DropReport) -> Mapping[str, bool] | None:
    """Every NIH finding as present or absent; None where a label is not of the set."""
    keys, words = nih_keys(), set(labels.split("|"))
    if words == {NO_FINDING}:
        return dict.fromkeys(keys.values(), False)
    if not words or words - set(keys):
        return None
    return {key: label in words for label, key in keys.items()}


def age_of(text: str) -> int | None:
    """ "58" or the older "058Y"; ages beyond 120 are known errors of the table and are left out."""
    digits = text.rstrip("Y")
    return int(digits) if digits.isdigit() and int(digits) <= 120 else None


def find_image_files(root: Path) -> dict[str, Path]:
    """Image stem → file, over every folder that the publisher and the shared parts use."""
    folders = [root / "images", root / "images_64", *sorted(root.glob("images_*/images"))]
    return {
        path.stem: path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix in (".png", ".jpg", ".webp")
    }


def _read_official_splits(root: Path) -> dict[str, Split]:
    result: dict[str, Split] = {}
    for name, split in ((TRAIN_LIST, Split.TRAIN), (TEST_LIST, Split.TEST)):
        path = root / name
        if path.is_file():
            result.update(dict.fromkeys(path.read_text("utf-8").split(), split))
    return result
