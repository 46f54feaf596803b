"""MIMIC-CXR 2.1.0 (DICOM): the record list gives the paths, the headers give view and time, JPG tables the labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from training.readers.labels import frontal_view
from training.readers.mimic import (
    MimicImage,
    dicom_path,
    image_folder,
    label_image,
    one_per_study,
    read_chexpert,
    read_splits,
    study_moment,
)
from training.readers.series import series_records
from training.readers.tables import find_table, read_rows
from training.records.drops import DropReport
from training.records.record import Record, Split

RECORDS = "cxr-record-list.csv"
STUDIES = "cxr-study-list.csv"
_TAGS = ("ViewPosition", "StudyDate", "StudyTime", "Manufacturer")


def read_mimic_cxr_dicom(root: Path, report: DropReport, *, tables: Path | None = None) -> Iterator[Record]:
    """Records of the DICOM set. tables: folder of the MIMIC-CXR-JPG tables; without it there are no labels and every
    patient is TRAIN (the DICOM set carries neither), to be split by `splits.patient_split`.
    """
    splits = read_splits(tables, report) if tables is not None else {}
    known = read_chexpert(tables, report) if tables is not None else {}
    for subject_id, images in one_per_study(_read_headers(root, report), report).items():
        split = splits.get(subject_id, Split.TRAIN)
        if splits and subject_id not in splits:
            report.drop("subject without a split", subject_id)
            continue
        series = [
            label_image(
                image, dicom_path(root, subject_id, image.study_id, image.dicom_id), known.get(image.study_id, {})
            )
            for image in images
        ]
        yield from series_records(subject_id, series, split, report, set_name="mimic")


def report_path(root: Path, subject_id: str, study_id: str) -> Path:
    """The free-text report of a study: `files/p10/p10000032/s50414267.txt`."""
    return root / f"{image_folder(subject_id, study_id)}.txt"


def read_study_list(root: Path, report: DropReport) -> Iterator[tuple[str, str]]:
    """(subject_id, study_id) of the study list, whose paths must be where the layout says."""
    for subject_id, study_id, path in read_rows(find_table(root, STUDIES), ("subject_id", "study_id", "path"), report):
        if path != f"{image_folder(subject_id, study_id)}.txt":
            report.drop("study list: path is not where the layout says", study_id)
            continue
        yield subject_id, study_id


def _read_headers(root: Path, report: DropReport) -> Iterator[MimicImage]:
    """Frontal images of the record list with what their headers say; pixels are not read."""
    seen: set[str] = set()
    columns = ("subject_id", "study_id", "dicom_id", "path")
    for subject_id, study_id, dicom_id, path in read_rows(find_table(root, RECORDS), columns, report):
        if dicom_id in seen:
            report.drop("duplicate dicom_id", dicom_id)
            continue
        seen.add(dicom_id)
        if not (subject_id.isdigit() and study_id.isdigit()):
            report.drop("subject_id or study_id is no number", dicom_id)
            continue
        expected = dicom_path(root, subject_id, study_id, dicom_id)
        # The list must not lead out of the folder, nor to another patient's file.
        if root / path != expected:
            report.drop("record list: path is not where the layout says", dicom_id)
            continue
        image = _read_header(expected, subject_id, study_id, dicom_id, report)
        if image is not None:
            yield image


def _read_header(path: Path, subject_id: str, study_id: str, dicom_id: str, report: DropReport) -> MimicImage | None:
    if not path.is_file():
        report.drop("image file missing", dicom_id)
        return None
    try:
        header = pydicom.dcmread(path, specific_tags=list(_TAGS), stop_before_pixels=True)
        position, date, time, manufacturer = (str(header.get(tag) or "") for tag in _TAGS)
    except (InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, NotImplementedError, OSError):
        report.drop("unreadable DICOM", dicom_id)
        return None
    view, when = frontal_view(position), study_moment(date, time)
    if view is None:
        report.drop("not a frontal view", dicom_id)
    elif when is None:
        report.drop("StudyDate or StudyTime is malformed", dicom_id)
    else:
        return MimicImage(
            dicom_id=dicom_id,
            subject_id=subject_id,
            study_id=study_id,
            view=view,
            when=when,
            manufacturer=manufacturer.strip(),
        )
    return None
