"""Reports of a patient read as software reads them: texts, references, tracked findings, what two patients share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from highdicom.sr import srread
from highdicom.sr.utils import find_content_items
from pydicom import Dataset
from pydicom.sr.codedict import codes

from tests.support.course_films import Patient
from tests.support.validators import save

PROGNOSIS = " prognosis"
"""Suffix of the tracking identifiers of predictions."""
OF_STUDY = ("no result", "field examined")
"""Tracking identifiers that name nothing of the patient."""
DIFFERS = frozenset(
    {
        *("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "PredecessorDocumentsSequence"),
        *("InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime"),
        "ContributionDateTime",
    }
)
"""Elements in which reports of the same films of another patient differ: whose they are, when made, what they replace.

UIDs inside the content are compared by what they name: the number of the film, or of the tracked finding."""


def texts(dataset: Dataset) -> str:
    """All text values of an SR, in order."""
    parts = [str(dataset.TextValue)] if "TextValue" in dataset else []
    return "\n".join([*parts, *(texts(item) for item in dataset.get("ContentSequence", []))])


def references(dataset: Dataset, keyword: str) -> list[str]:
    """SOP Instance UIDs of a Hierarchical SOP Instance Reference Macro, in order."""
    return [
        str(reference.ReferencedSOPInstanceUID)
        for study in dataset.get(keyword, [])
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]


def tracking(report: Dataset) -> list[tuple[str, str]]:
    """(identifier, UID) of each group without a region, as highdicom reads them from the file."""
    with tempfile.TemporaryDirectory() as folder:
        read = srread(save(report, Path(folder) / "report.dcm"))
    found = []
    for group in find_content_items(read, name=codes.DCM.MeasurementGroup, recursive=True):
        if not find_content_items(group, name=codes.DCM.ImageRegion):
            (name,) = find_content_items(group, name=codes.DCM.TrackingIdentifier)
            (uid,) = find_content_items(group, name=codes.DCM.TrackingUniqueIdentifier)
            found.append((str(name.value), str(uid.value)))
    return found


def comparable(patient: Patient, reports: Sequence[Dataset]) -> list[list[tuple[str, str]]]:
    """Every element of each report but DIFFERS, with the UIDs of this patient replaced by what they name."""
    names: dict[str, str] = {}
    for number, film in enumerate(patient.films):
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            names[str(film.header[keyword].value)] = f"{keyword} of film {number}"
    return [list(_elements(report, names)) for report in reports]


def _elements(dataset: Dataset, names: dict[str, str], depth: int = 0) -> Iterator[tuple[str, str]]:
    for element in dataset:
        if element.keyword in DIFFERS and not (depth and element.keyword.endswith("UID")):
            continue
        if element.VR == "SQ":
            for item in element.value:
                yield element.keyword, "item"
                yield from _elements(item, names, depth + 1)
        elif element.keyword == "UID":  # a tracked finding: the same one has the same number
            yield element.keyword, names.setdefault(str(element.value), f"tracked {len(names)}")
        else:
            yield element.keyword, names.get(str(element.value), str(element.value))
