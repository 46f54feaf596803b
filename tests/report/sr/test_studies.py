"""Every case of the shared studies as a source of headers: documents without an error."""

from __future__ import annotations

import csv
import dataclasses
import warnings
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from dicom_node.report.documents import build_documents
from dicom_node.report.request import ReportRequest, SourceImage
from model.schema import Change
from tests.support import report_cases as cases
from tests.support.common import shared
from tests.support.validators import dciodvfy_errors, pixelmed_errors, save

pytestmark = pytest.mark.shared_data


def _requests() -> dict[str, ReportRequest]:
    """One request for each file of the manifest, compared with the file before it of the same person."""
    folder = shared("data", "studies")
    requests: dict[str, ReportRequest] = {}
    before: tuple[str, Dataset] | None = None
    said = cases.prediction(cases.finding("pleural_effusion", Change.NEW, location="left"))
    said = dataclasses.replace(said, findings=said.findings[:1])
    with (folder / "manifest.csv").open(encoding="utf-8") as rows, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in csv.DictReader(rows):
            header = dcmread(folder / row["file"], stop_before_pixels=True)
            person = row["file"].split("/")[0]
            prior = SourceImage(header=before[1]) if before is not None and before[0] == person else None
            made = cases.request(said, prior=prior)
            requests[row["file"]] = dataclasses.replace(made, current=SourceImage(header=header))
            before = person, header
    return requests


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("studies")
    made = []
    for name, request in _requests().items():
        for document in build_documents(request):
            path = folder / f"{name.replace('/', '_')}_{document.kind.value}.dcm"
            made.append(save(document.dataset, path))
    return made


def test_dciodvfy_finds_no_error_for_any_case(files: list[Path]) -> None:
    assert len(files) == 2 * 37
    assert dciodvfy_errors(files) == {}


def test_pixelmed_finds_no_error_for_the_last_study_of_each_person(files: list[Path]) -> None:
    """PixelMed checks the content tree, which differs between the cases only by references and dates."""
    last = {path.name.split("_")[0]: path for path in files if path.name.endswith("_machine.dcm")}
    assert pixelmed_errors(list(last.values())) == {}


@pytest.mark.soak
def test_pixelmed_finds_no_error_for_any_case(files: list[Path]) -> None:
    assert pixelmed_errors(files) == {}


def test_names_come_through_whole(files: list[Path]) -> None:
    """Latin 1, Japanese (ISO 2022 IR 87) and Chinese (UTF-8) names are what the image says."""
    for name, request in _requests().items():
        path = next(f for f in files if f.name == f"{name.replace('/', '_')}_reading.dcm")
        assert str(dcmread(path).PatientName) == str(request.current.header.get("PatientName", "")), name
