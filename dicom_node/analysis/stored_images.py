"""Stored objects as the analysis uses them: header, facts, and the display image once it was looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom import Dataset

from dicom_node.dicom.read import read_object
from dicom_node.dicom.sop_classes import is_image
from dicom_node.dicom.text import without_controls
from dicom_node.errors import UnreadableObjectError
from dicom_node.index.tables.core import Instance
from dicom_node.priors import facts_of, facts_of_rows, image_check
from dicom_node.priors.types import ImageFacts
from model.checks.frontal_view import check_view
from model.errors import PixelError
from model.schema import DisplayImage

Decode = Callable[[Path], DisplayImage]
"""Makes the display image of a stored object; raises PixelError."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredImage:
    """A stored object that the story may use: its file, its header without pixels, and the facts in it."""

    path: Path
    header: Dataset
    facts: ImageFacts
    damage: str = ""
    """Why the object cannot be read; header and facts are then what the index knows of it."""


@dataclass(slots=True, kw_only=True, eq=False)
class DecodedImages:
    """Images that were decoded, or why they could not be; each file is decoded once."""

    images: dict[Path, DisplayImage] = field(default_factory=dict)
    failures: dict[Path, str] = field(default_factory=dict)

    def at(self, stored: StoredImage, decode: Decode) -> DisplayImage | None:
        if stored.damage:
            self.failures[stored.path] = stored.damage
            return None
        if stored.path not in self.images and stored.path not in self.failures:
            try:
                self.images[stored.path] = decode(stored.path)
            except PixelError as error:
                self.failures[stored.path] = without_controls(str(error))  # it may quote the header
        return self.images.get(stored.path)


def read_stored(path: Path) -> StoredImage:
    """Read an object's header; the pixels stay on the disk. Raises PixelError for what cannot be read."""
    try:
        header = read_object(path)
    except UnreadableObjectError as error:
        raise PixelError(f"the object cannot be read: {error}") from error
    except OSError as error:
        raise PixelError(f"the object cannot be read: {error.strerror or error}") from error
    facts = facts_of(header)
    for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        if keyword in header:
            # A study's images together are too large to hold; each is decoded when it is looked at.
            del header[keyword]
    return StoredImage(path=path, header=header, facts=facts)


def damaged_image(row: Instance, path: Path, damage: str) -> StoredImage:
    """An object that cannot be read, as the index knows it: its study must not go without a report for it."""
    study, header = row.series.study, Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in (
        ("SOPClassUID", row.sop_class_uid),
        ("SOPInstanceUID", row.sop_instance_uid),
        ("StudyInstanceUID", study.study_instance_uid),
        ("SeriesInstanceUID", row.series.series_instance_uid),
        ("PatientName", study.patient_name),
        ("PatientID", study.patient_id),
        ("IssuerOfPatientID", study.issuer_of_patient_id),
        ("PatientBirthDate", study.patient_birth_date),
        ("PatientSex", study.patient_sex),
        ("StudyDate", study.study_date),
        ("StudyTime", study.study_time),
        ("AccessionNumber", study.accession_number),
        ("StudyID", study.study_id),
        ("StudyDescription", study.study_description),
        ("Modality", row.series.modality),
    ):
        if value:
            setattr(header, keyword, value)
    facts = replace(facts_of_rows(study, row.series, row), has_pixels=is_image(row.sop_class_uid))
    return StoredImage(path=path, header=header, facts=facts, damage=damage)


def with_image_check(image: StoredImage, decode: Decode, looked: DecodedImages) -> StoredImage:
    """The same image with what its pixels say beside what its header says."""
    if not image.facts.has_pixels:
        return image
    seen = looked.at(image, decode)
    if seen is None:
        return image
    facts = replace(image.facts, pixel_sha256=seen.sha256, check=image_check(check_view(seen)))
    return replace(image, facts=facts)
