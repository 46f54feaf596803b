"""Software follows a finding through a patient's machine reports by one tracking UID for each finding and side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from highdicom.sr import srread
from highdicom.sr.utils import find_content_items
from pydicom import Dataset
from pydicom.sr.codedict import codes

from dicom_node.report.documents import build_documents
from dicom_node.report.request import DocumentKind, ReportRequest, SourceImage
from dicom_node.report.rules import EarlierStatement, Seen
from model.schema import Change
from tests.support import report_cases as cases

PATIENT = ("T-0001", "HOSPITAL")
EFFUSION = "60046008"


def _study(number: int, change: Change | None, *, side: str | None = "left", **values: object) -> ReportRequest:
    """The report of the patient's film of one day."""
    said = cases.prediction(cases.finding("pleural_effusion", change, location=side))
    day = SourceImage(header=cases.header(f"film {number}", f"2026031{number}"), image=cases.image(number))
    values = {"patient_key": PATIENT, **values}
    return dataclasses.replace(cases.request(said), current=day, **values)  # type: ignore[arg-type]


def _tracked(request: ReportRequest, folder: Path) -> dict[str, tuple[str, str]]:
    """Finding code → (identifier, UID) as highdicom reads them from the written object."""
    machine = next(d for d in build_documents(request) if d.kind is DocumentKind.MACHINE)
    path = folder / f"{machine.sop_instance_uid}.dcm"
    machine.dataset.save_as(path, enforce_file_format=True)
    return dict(_groups(srread(path)))


def _groups(report: Dataset) -> Iterator[tuple[str, tuple[str, str]]]:
    for group in find_content_items(report, name=codes.DCM.MeasurementGroup, recursive=True):
        names = find_content_items(group, name=codes.DCM.TrackingIdentifier)
        uids = find_content_items(group, name=codes.DCM.TrackingUniqueIdentifier)
        finding = find_content_items(group, name=codes.DCM.Finding)
        if finding and not find_content_items(group, name=codes.DCM.ImageRegion):
            yield finding[0].value.value, (names[0].value, uids[0].value)


def test_highdicom_reads_one_uid_for_a_finding_over_five_studies(tmp_path: Path) -> None:
    """New, worse, unchanged, better and gone: when it is gone and names no side, it is the side that it had."""
    seen = {"pleural_effusion": EarlierStatement(seen=Seen.SEEN, location="left")}
    course = [
        _study(1, Change.NEW),
        _study(2, Change.WORSENING, earlier=seen),
        _study(3, Change.STABLE, earlier=seen, model=dataclasses.replace(cases.MODEL, device_uid="2.25.9")),
        _study(4, Change.IMPROVING, earlier=seen, language="de"),
        _study(5, Change.RESOLVED, side=None, earlier=seen),
    ]
    tracked = [_tracked(request, tmp_path) for request in course]
    assert len({one[EFFUSION] for one in tracked}) == 1
    assert tracked[0][EFFUSION][0].endswith(", left")
    assert len({uid for _, uid in tracked[0].values()}) == len(tracked[0]) == len(cases.BATTERY)


@pytest.mark.parametrize(
    "change",
    [{"side": "right"}, {"patient_key": ("T-0002", "HOSPITAL")}, {"patient_key": ("T-0001", "ELSEWHERE")}],
    ids=["side", "patient", "issuer"],
)
def test_another_side_or_person_has_another_uid(tmp_path: Path, change: dict[str, object]) -> None:
    one = _tracked(_study(1, Change.NEW), tmp_path)
    other = _tracked(_study(1, Change.NEW, **change), tmp_path)  # type: ignore[arg-type]
    assert one[EFFUSION][1] != other[EFFUSION][1]


def test_a_patient_without_a_proper_id_is_followed_within_the_study_only(tmp_path: Path) -> None:
    nobody = {"patient_key": ("", "")}
    one, again, other = (_tracked(_study(day, Change.NEW, **nobody), tmp_path) for day in (1, 1, 2))  # type: ignore[arg-type]
    assert one[EFFUSION] == again[EFFUSION]
    assert one[EFFUSION][1] != other[EFFUSION][1]
