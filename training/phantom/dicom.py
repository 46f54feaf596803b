"""Phantom films as DICOM files: studies of a made-up person, valid DX or CR objects, all derived from the seed."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from model.derived_uids import uid_of_digest
from model.schema import Change
from training.phantom.render import Acquisition, FindingState, PhantomPair, PhantomPatient, render, sample_pair
from training.phantom.texture import Plane, smooth_noise, step

LONG_SIDE = 1536
"""Pixels of the longer side: that of a plate of 43 cm read at 0.28 mm."""
PLATE_MM = 430.0
_FIRST_DAY = dt.datetime(2026, 1, 5, 7, 30)  # noqa: DTZ001 (DICOM local time has no zone)
_STORED_LOW, _STORED_HIGH, _STORED_MAX = 240, 3800, 4095

STORIES: tuple[Mapping[str, Change], ...] = (
    {"pleural_effusion": Change.WORSENING, "central_line": Change.STABLE, "cardiomegaly": Change.STABLE},
    {"pneumothorax": Change.IMPROVING, "chest_tube": Change.NEW},
    {"consolidation": Change.NEW, "endotracheal_tube": Change.NEW, "feeding_tube": Change.NEW},
    {"edema": Change.IMPROVING, "cardiomegaly": Change.STABLE, "central_line": Change.RESOLVED},
    {"lung_nodule": Change.WORSENING, "pacemaker": Change.STABLE},
    {"pleural_effusion": Change.RESOLVED, "atelectasis": Change.NEW, "feeding_tube": Change.STABLE},
)
"""Pairs worth showing; the seed chooses one where the caller names no findings."""


class Storage(StrEnum):
    """The SOP class that an image is written as."""

    DX = "DX"
    """Digital X-Ray Image Storage - For Presentation."""
    CR = "CR"
    """Computed Radiography Image Storage."""


class Subject(StrEnum):
    """The subject that the file claims to show, for the tests of refusals."""

    FRONTAL = "frontal chest"
    """PA or AP, as the film was taken."""
    LATERAL = "lateral chest"
    """The header says lateral; the pixels are those of the frontal film."""
    NO_CHEST = "no chest"
    """Header and pixels are those of a forearm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomStudy:
    """One study on disk. findings: what is truly on its film."""

    files: tuple[Path, ...]
    study_instance_uid: str
    sop_instance_uid: str
    acquired: dt.datetime
    findings: Mapping[str, FindingState]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomStudies:
    """A prior and a current study of one person, and the truth between them."""

    patient_id: str
    prior: PhantomStudy
    current: PhantomStudy
    changes: Mapping[str, Change]


def write_study_pair(
    folder: Path,
    seed: int,
    *,
    wanted: Mapping[str, Change] | None = None,
    long_side: int = LONG_SIDE,
    storage: Storage = Storage.DX,
    current_subject: Subject = Subject.FRONTAL,
    pair: PhantomPair | None = None,
) -> PhantomStudies:
    """Write `folder/prior/image.dcm` and `folder/current/image.dcm`; the same arguments give the same bytes.

    wanted: findings and their changes; where not given, one of STORIES. pair: overrides both. current_subject: what
    the current study claims to show.
    """
    if pair is None:
        pair = sample_pair(seed, wanted=STORIES[seed % len(STORIES)] if wanted is None else wanted)
    # Dates come from the seed too: with the clock's, the same arguments would not give the same bytes.
    rng = np.random.default_rng([seed, 7])
    first = _FIRST_DAY + dt.timedelta(days=int(rng.integers(0, 300)), minutes=int(rng.integers(0, 600)))
    later = first + dt.timedelta(days=int(rng.integers(1, 40)), minutes=int(rng.integers(-300, 300)))
    studies = []
    for role, when, states, film, subject in (
        ("prior", first, pair.prior, pair.prior_film, Subject.FRONTAL),
        ("current", later, pair.current, pair.current_film, current_subject),
    ):
        path = folder / role / "image.dcm"
        pixels = render_stored_pixels(pair.patient, states, film, long_side, subject)
        dataset = film_dataset(seed, role, when, pixels, film.view, storage, subject)
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        uids = {"study_instance_uid": str(dataset.StudyInstanceUID), "sop_instance_uid": str(dataset.SOPInstanceUID)}
        findings = {} if subject is Subject.NO_CHEST else dict(states)
        studies.append(PhantomStudy(files=(path,), acquired=when, findings=findings, **uids))
    prior, current = studies
    return PhantomStudies(patient_id=_patient_id(seed), prior=prior, current=current, changes=dict(pair.changes))


def render_stored_pixels(
    patient: PhantomPatient, states: Mapping[str, FindingState], film: Acquisition, long_side: int, subject: Subject
) -> NDArray[np.uint16]:
    """The stored grey values of one film."""
    rows, columns = film.shape(long_side)
    if subject is Subject.NO_CHEST:
        shown = _draw_forearm(np.random.default_rng([film.seed, 71]), rows, columns)
    else:
        shown = render(patient, states, film, rows, columns).pixels
    stored = np.rint(shown * (_STORED_HIGH - _STORED_LOW) + _STORED_LOW)
    return stored.astype(np.uint16)


def _draw_forearm(rng: np.random.Generator, rows: int, columns: int) -> Plane:
    """Two long bones in soft tissue on a dark ground."""
    x = np.linspace(-1, 1, columns, dtype=np.float32)[None, :] + np.zeros((rows, 1), np.float32)
    y = np.linspace(-1, 1, rows, dtype=np.float32)[:, None] + np.zeros((1, columns), np.float32)
    x = x - np.float32(0.12) * y
    tissue = step(np.float32(0.42) - np.abs(x) - np.float32(0.08) * y, 0.10) * np.float32(0.38)
    for centre, half in ((-0.15, 0.095), (0.14, 0.085)):
        wide = np.float32(half) * (1 + np.float32(0.5) * y * y)
        inside = np.clip(np.abs(x - np.float32(centre)) / wide, 0, 1)
        tissue += step(1 - inside, 0.15) * (np.float32(0.18) + np.float32(0.28) * inside**4)
    tissue += np.float32(0.015) * smooth_noise(rng, x, y, 40.0)
    return np.clip(tissue + np.float32(0.01) * rng.standard_normal(tissue.shape, dtype=np.float32), 0, 1)


def _patient_id(seed: int) -> str:
    return f"PHANTOM-{seed:06d}"


def _uid(*parts: object) -> str:
    """A UID under 2.25 (PS3.5 section B.2) that depends on `parts` alone."""
    digest = hashlib.sha256("\x1f".join(["dicom-node phantom", *map(str, parts)]).encode()).digest()
    return uid_of_digest(digest)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def film_dataset(
    seed: int,
    role: str,
    when: dt.datetime,
    pixels: NDArray[np.uint16],
    view: str,
    storage: Storage,
    subject: Subject,
) -> Dataset:
    """One film as a whole DICOM object. role: names it among the films of a seed; all UIDs derive from both."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dx = storage is Storage.DX
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation if dx else ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = _uid(seed, role, "instance", subject, storage, *pixels.shape)
    _set_patient_and_study(dataset, seed, role, when, subject)
    _set_series_and_equipment(dataset, seed, role, storage, view, subject)
    _set_image(dataset, pixels, when)
    if dx:
        _set_digital_x_ray(dataset, view, subject)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = UID(_uid("implementation"))
    return dataset


def _set_patient_and_study(dataset: Dataset, seed: int, role: str, when: dt.datetime, subject: Subject) -> None:
    rng = np.random.default_rng([seed, 8])
    dataset.PatientName = f"Phantom^Number {seed}"
    dataset.PatientID = _patient_id(seed)
    dataset.IssuerOfPatientID = "DICOM-NODE-PHANTOM"
    born = dt.date(1935, 1, 1) + dt.timedelta(days=int(rng.integers(0, 22_000)))
    dataset.PatientBirthDate = born.strftime("%Y%m%d")
    dataset.PatientSex = str(rng.choice(["F", "M"]))
    dataset.StudyInstanceUID = _uid(seed, role, "study", subject)
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = when.strftime("%Y%m%d")
    dataset.ContentDate = dataset.StudyDate
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = when.strftime("%H%M%S")
    dataset.ContentTime = dataset.StudyTime
    dataset.AccessionNumber = f"PH{seed % 10**8:08d}{'P' if role == 'prior' else 'C'}"
    dataset.StudyID = "1" if role == "prior" else "2"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Synthetic forearm" if subject is Subject.NO_CHEST else "Synthetic chest radiograph"


def _set_series_and_equipment(
    dataset: Dataset, seed: int, role: str, storage: Storage, view: str, subject: Subject
) -> None:
    dataset.Modality = storage.value
    dataset.SeriesInstanceUID = _uid(seed, role, "series", subject, storage)
    dataset.SeriesNumber = "1"
    dataset.SeriesDescription = {
        Subject.FRONTAL: f"Chest {view}",
        Subject.LATERAL: "Chest lateral",
        Subject.NO_CHEST: "Forearm AP",
    }[subject]
    dataset.BodyPartExamined = "FOREARM" if subject is Subject.NO_CHEST else "CHEST"
    dataset.ViewPosition = {Subject.FRONTAL: view, Subject.LATERAL: "LL", Subject.NO_CHEST: "AP"}[subject]
    if subject is Subject.NO_CHEST and storage is Storage.CR:
        dataset.Laterality = "L"  # type 2C: of a paired body part
    dataset.Manufacturer = "dicom-node"
    dataset.ManufacturerModelName = "Phantom"
    dataset.SoftwareVersions = "1"
    dataset.DeviceSerialNumber = "0"


def _set_image(dataset: Dataset, pixels: NDArray[np.uint16], when: dt.datetime) -> None:
    dataset.InstanceNumber = "1"
    # Posterior-anterior films are shown as if the reader faced the person: columns run to the person's left, rows down.
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageType = ["DERIVED", "PRIMARY", ""]
    dataset.AcquisitionDateTime = when.strftime("%Y%m%d%H%M%S")
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.DerivationDescription = "Synthetic image, not of a person"
    spacing = f"{PLATE_MM / max(pixels.shape):.4f}"
    dataset.ImagerPixelSpacing = [spacing, spacing]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter = str((_STORED_HIGH + _STORED_LOW) // 2)
    dataset.WindowWidth = str(_STORED_HIGH - _STORED_LOW)


def _set_digital_x_ray(dataset: Dataset, view: str, subject: Subject) -> None:
    """Add the elements that a DX image must have beside a CR one (PS3.3 section A.26)."""
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageLaterality = "L" if subject is Subject.NO_CHEST else "U"
    region = ("14975008", "SCT", "Forearm") if subject is Subject.NO_CHEST else ("51185008", "SCT", "Chest")
    dataset.AnatomicRegionSequence = DicomSequence([_code(*region)])
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.DetectorType = "DIRECT"
    dataset.DetectorConfiguration = "AREA"
    dataset.PositionerType = "COLUMN"
    dataset.AcquisitionContextSequence = DicomSequence([])
    views = {
        "PA": ("399348003", "postero-anterior"),
        "AP": ("399067008", "antero-posterior"),
        "LL": ("399198007", "right lateral"),
    }
    value, meaning = views[dataset.ViewPosition]
    code = _code(value, "SCT", meaning)
    code.ViewModifierCodeSequence = DicomSequence([])
    dataset.ViewCodeSequence = DicomSequence([code])
