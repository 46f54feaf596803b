"""MIMIC-CXR-JPG 2.1.0: frontal images in time order with CheXpert labels, and the look-up that other sets build on.

Layout and columns: PhysioNet, MIMIC-CXR-JPG 2.1.0 (LUMEN.md section 3). The labels are mined from reports.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.readers.labels import CHEXPERT_LABELS, Known, chexpert_known, frontal_view
from training.readers.series import LabelledImage, series_records
from training.readers.tables import find_table, read_rows
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef, Record, Split
from training.records.truth import MANUFACTURER

METADATA = "mimic-cxr-2.0.0-metadata.csv"
SPLITS = "mimic-cxr-2.0.0-split.csv"
CHEXPERT = "mimic-cxr-2.0.0-chexpert.csv"
NEGBIO = "mimic-cxr-2.0.0-negbio.csv"

SPLIT_WORDS: Mapping[str, Split] = {
    "train": Split.TRAIN,
    "validate": Split.VALIDATE,
    "val": Split.VALIDATE,
    "dev": Split.VALIDATE,
    "test": Split.TEST,
    "fixture": Split.FIXTURE,
}
"""Split words of all published tables → ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MimicImage:
    """One frontal image. when: "YYYYMMDD HHMMSS.fff", sortable as text."""

    dicom_id: str
    subject_id: str
    study_id: str
    view: str
    when: str
    manufacturer: str = ""


def image_folder(subject_id: str, study_id: str) -> str:
    """`files/p10/p10000032/s50414267`, the same in the JPG and the DICOM set."""
    return f"files/p{subject_id[:2]}/p{subject_id}/s{study_id}"


def jpg_path(root: Path, subject_id: str, study_id: str, dicom_id: str) -> Path:
    """Where MIMIC-CXR-JPG keeps an image."""
    return root / image_folder(subject_id, study_id) / f"{dicom_id}.jpg"


def dicom_path(root: Path, subject_id: str, study_id: str, dicom_id: str) -> Path:
    """Where MIMIC-CXR keeps an image."""
    return root / image_folder(subject_id, study_id) / f"{dicom_id}.dcm"


def study_moment(date: str, time: str) -> str | None:
    """StudyDate "21800506" and StudyTime "82530.5" → "21800506 082530.500"; None where the date is none.

    StudyTime is stored as a float: its integer part has lost its leading zeros. A missing time counts as midnight.
    """
    if len(date) != 8 or not date.isdigit():
        return None
    whole, _, fraction = (time or "0").partition(".")
    if not whole.isdigit() or len(whole) > 6 or (fraction and not fraction.isdigit()):
        return None
    # "82530" is 08:25:30.
    return f"{date} {whole.zfill(6)}.{fraction[:3].ljust(3, '0')}"


def read_metadata(root: Path, report: DropReport) -> Iterator[MimicImage]:
    """The frontal images of the metadata table; lateral ones, doubles and rows without a date are counted."""
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime")
    seen: set[str] = set()
    for dicom_id, subject_id, study_id, position, date, time in read_rows(find_table(root, METADATA), columns, report):
        view, when = frontal_view(position), study_moment(date, time)
        if dicom_id in seen:
            report.drop("duplicate dicom_id", dicom_id)
        elif not (subject_id.isdigit() and study_id.isdigit() and dicom_id):
            report.drop("subject_id or study_id is no number", dicom_id)
        elif view is None:
            report.drop("not a frontal view", dicom_id)
        elif when is None:
            report.drop("StudyDate or StudyTime is malformed", dicom_id)
        else:
            seen.add(dicom_id)
            yield MimicImage(dicom_id=dicom_id, subject_id=subject_id, study_id=study_id, view=view, when=when)


def read_splits(root: Path, report: DropReport) -> dict[str, Split]:
    """subject_id → official split. A subject in two splits would leak: DataError."""
    result: dict[str, Split] = {}
    for subject_id, word in read_rows(find_table(root, SPLITS), ("subject_id", "split"), report):
        if word not in SPLIT_WORDS:
            raise DataError(f"{SPLITS}: split {word!r} is none of {sorted(SPLIT_WORDS)}")
        if result.setdefault(subject_id, SPLIT_WORDS[word]) is not SPLIT_WORDS[word]:
            raise DataError(f"{SPLITS}: subject {subject_id} is in two splits")
    return result


def read_chexpert(root: Path, report: DropReport, *, table: str = CHEXPERT) -> dict[str, Known]:
    """study_id → what its report's labels say. Double rows of a study are counted and the first one kept."""
    result: dict[str, Known] = {}
    for study_id, *values in read_rows(find_table(root, table), ("study_id", *CHEXPERT_LABELS), report):
        if study_id in result:
            report.drop(f"{table}: duplicate study_id", study_id)
            continue
        result[study_id] = chexpert_known(dict(zip(CHEXPERT_LABELS, values, strict=True)))
    return result


def one_per_study(images: Iterator[MimicImage], report: DropReport) -> dict[str, list[MimicImage]]:
    """subject_id → one frontal image per study, PA before AP, then the first id; the others are counted."""
    best: dict[str, MimicImage] = {}
    for image in images:
        other = best.setdefault(image.study_id, image)
        if other is image:
            continue
        keep, leave = sorted((image, other), key=lambda item: (item.view != "PA", item.dicom_id))
        best[image.study_id] = keep
        report.drop("another frontal image of the same study", leave.dicom_id)
    result: dict[str, list[MimicImage]] = defaultdict(list)
    for image in best.values():
        result[image.subject_id].append(image)
    return result


def read_mimic_cxr_jpg(
    root: Path, report: DropReport, *, labels: str = CHEXPERT, check_images: bool = True
) -> Iterator[Record]:
    """Records of MIMIC-CXR-JPG, patient by patient: first study alone, later ones with their prior.

    labels: CHEXPERT or NEGBIO. check_images: drop (and count) images whose file is missing.
    """
    splits, known = read_splits(root, report), read_chexpert(root, report, table=labels)
    for subject_id, images in one_per_study(read_metadata(root, report), report).items():
        split = splits.get(subject_id)
        if split is None:
            report.drop("subject without a split", subject_id)
            continue
        series = []
        for image in images:
            path = jpg_path(root, subject_id, image.study_id, image.dicom_id)
            if check_images and not path.is_file():
                report.drop("image file missing", image.dicom_id)
                continue
            series.append(label_image(image, path, known.get(image.study_id, {})))
        yield from series_records(subject_id, series, split, report, set_name="mimic")


def label_image(image: MimicImage, path: Path, known: Known) -> LabelledImage:
    """An image with its path and labels, ordered by its study's moment."""
    return LabelledImage(
        image=ImageRef(
            key=str(path), image_id=image.dicom_id, study_id=image.study_id, view=image.view, when=image.when
        ),
        known=known,
        order=(image.when,),
        facts={MANUFACTURER: image.manufacturer} if image.manufacturer else {},
    )
