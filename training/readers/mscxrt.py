"""MS-CXR-T 1.0.0: image pairs with the progression of five findings, read by radiologists; a test set only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from model.schema import Change
from training.readers.diffvqa import ImagePath
from training.readers.tables import find_table, read_rows
from training.records.drops import DropReport
from training.records.record import ImageRef, Record, Split
from training.records.truth import FindingTruth, PairTruth

TABLE = "MS_CXR_T_temporal_image_classification_v1.0.0.csv"
FINDINGS = ("consolidation", "edema", "pleural_effusion", "pneumonia", "pneumothorax")
"""Ontology keys; the column of each is its name with `_progression`."""
PROGRESSIONS = {"improving": Change.IMPROVING, "stable": Change.STABLE, "worsening": Change.WORSENING}


def read_ms_cxr_t(
    folder: Path, images: ImagePath, report: DropReport, *, check_images: bool = True
) -> Iterator[Record]:
    """Records of MS-CXR-T, all of them TEST. The quality of each label stands in `truth.facts` ("edema quality")."""
    ids = ("subject_id", "study_id", "dicom_id", "previous_study_id", "previous_dicom_id")
    columns = (*ids, *(f"{key}_progression" for key in FINDINGS))
    qualities = tuple(f"{key}_label_quality" for key in FINDINGS)
    seen: set[tuple[str, str]] = set()
    for row in read_rows(find_table(folder, TABLE), columns, report, optional=qualities):
        subject, study, dicom, previous_study, previous_dicom = row[: len(ids)]
        labels, quality = row[len(ids) : len(columns)], row[len(columns) :]
        # The table gives image ids as "p10/p10000032/s50414267/<dicom_id>" in some releases, bare in others.
        dicom, previous_dicom = dicom.rpartition("/")[2], previous_dicom.rpartition("/")[2]
        pair_name = f"{dicom} against {previous_dicom}"
        if (dicom, previous_dicom) in seen:
            report.drop("duplicate pair", pair_name)
            continue
        seen.add((dicom, previous_dicom))
        if dicom == previous_dicom:
            report.drop("pair of an image with itself", pair_name)
            continue
        findings = _findings(labels, pair_name, report)
        current = _image(images, subject, study, dicom, report, check_images=check_images)
        prior = _image(images, subject, previous_study, previous_dicom, report, check_images=check_images)
        if not findings:
            report.drop("no progression label", pair_name)
        elif current is not None and prior is not None:
            report.keep()
            facts = {f"{key} quality": text for key, text in zip(FINDINGS, quality, strict=True) if text}
            yield Record(
                truth=PairTruth(
                    pair_id=f"mscxrt/{dicom}/{previous_dicom}",
                    patient_id=f"mimic/{subject}",
                    findings=findings,
                    facts=facts,
                ),
                current=current,
                prior=prior,
                split=Split.TEST,
            )


def _findings(labels: list[str], which: str, report: DropReport) -> dict[str, FindingTruth]:
    findings = {}
    for key, label in zip(FINDINGS, labels, strict=True):
        if label.lower() in PROGRESSIONS:
            findings[key] = FindingTruth(key=key, change=PROGRESSIONS[label.lower()])
        elif label:
            report.drop("unknown progression label", f"{which}: {label!r}")
    return findings


def _image(
    images: ImagePath, subject: str, study: str, dicom: str, report: DropReport, *, check_images: bool
) -> ImageRef | None:
    study = study.removeprefix("s").removesuffix(".0")
    path = images(subject.removeprefix("p").removesuffix(".0"), study, dicom)
    if check_images and not path.is_file():
        report.drop("image file missing", dicom)
        return None
    return ImageRef(key=str(path), image_id=dicom, study_id=study)
