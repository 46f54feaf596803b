"""A report says what the result says, of whom, when and of which image, and never contradicts itself."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from dicom_node.report.documents import build_documents
from dicom_node.report.patient import clean_header
from dicom_node.report.render.text import as_text
from dicom_node.report.request import DocumentKind, ReportRequest, SourceImage
from dicom_node.report.result import result_json
from model.schema import Change, Presence
from tests.support import report_cases as cases
from tests.support.report_cases import CURRENT, PRIOR, finding, kinds, prediction, request
from tests.support.validators import dciodvfy_errors, save

LANGUAGES = ("en", "de")


def of(**elements: object) -> ReportRequest:
    """A result with a new finding, of an image with these header elements; None removes."""
    base = kinds()["new"]
    header = copy.deepcopy(base.current.header)
    for keyword, value in elements.items():
        if value is None:
            del header[keyword]
        else:
            setattr(header, keyword, value)
    return dataclasses.replace(base, current=dataclasses.replace(base.current, header=header))


def flat(result: ReportRequest) -> str:
    """The text without the breaks of its lines."""
    return " ".join(as_text(result).split())


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", "1234567890" * 7),
        ("PatientID", ["A-1", "B-2"]),
        ("PatientID", "A\x1bB"),
        ("AccessionNumber", "2026-11-23-RAD-0001"),
        ("AccessionNumber", ["ACC1", "ACC2"]),
        ("IssuerOfPatientID", "H" * 65),
    ],
)
def test_an_identifier_is_whole_or_empty_never_another_ones(keyword: str, value: object) -> None:
    changed = of(**{keyword: value})
    for document in build_documents(changed):
        assert str(document.dataset.get(keyword, "") or "") == ""
        for item in document.dataset.get("ReferencedRequestSequence", []):
            assert keyword != "AccessionNumber" or item.AccessionNumber == ""
    assert keyword in clean_header(changed.current.header).faults
    assert keyword in as_text(changed)


def test_a_legal_identifier_in_any_script_is_kept_whole(tmp_path: Path) -> None:
    changed = of(PatientID="患者番号" * 8)
    for document in build_documents(changed):
        assert document.dataset.PatientID == "患者番号" * 8
    assert (
        dciodvfy_errors(
            [save(document.dataset, tmp_path / f"{document.kind}.dcm") for document in build_documents(changed)]
        )
        == {}
    )


def test_the_accession_number_of_a_request_is_whole_or_the_images_own() -> None:
    item = Dataset()
    item.AccessionNumber, item.RequestedProcedureID = "A" * 17, "P" * 17
    asked = build_documents(of(RequestAttributesSequence=[item]))[0].dataset.ReferencedRequestSequence[0]
    assert (asked.AccessionNumber, asked.RequestedProcedureID) == (CURRENT.header.AccessionNumber, "")


def test_the_report_is_dated_on_the_images_clock(berlin: None) -> None:
    """Half past midnight in Berlin is the day before in UTC: the report would be older than its images."""
    night = dt.datetime(2026, 7, 1, 22, 30, tzinfo=dt.UTC)
    made = build_documents(dataclasses.replace(of(), produced_at=night))[0].dataset
    assert (made.ContentDate, made.ContentTime) == ("20260702", "003000")
    stated = build_documents(dataclasses.replace(of(TimezoneOffsetFromUTC="-0500"), produced_at=night))[0].dataset
    assert (stated.ContentDate, stated.ContentTime, stated.TimezoneOffsetFromUTC) == ("20260701", "173000", "-0500")
    assert stated.ContributingEquipmentSequence[0].ContributionDateTime == "20260701223000+0000"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_time_of_day_is_made_up(language: str) -> None:
    header = cases.header("prior", "20260310")  # of the same day, so that the times are said where they are known
    del header.StudyTime
    text = as_text(dataclasses.replace(of(), prior=SourceImage(header=header, image=PRIOR.image), language=language))
    assert "00:00" not in text
    assert "08:15" in text, "the current image's time is known"


def test_every_document_dates_the_prior_by_its_exposure() -> None:
    """A series date between exposure and study, and a date and time of acquisition that holds only a year."""
    header = cases.header("prior", "20260301")
    header.AcquisitionDateTime, header.SeriesDate, header.SeriesTime = "2026", "20260304", "101500"
    changed = dataclasses.replace(of(), prior=SourceImage(header=header, image=PRIOR.image))
    assert result_json(changed)["prior"]["date"] == "2026-03-04T10:15:00"
    assert "since 4 March 2026" in as_text(changed)
    assert "compared with that of 4 March 2026." in flat(changed)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_present_finding_stands_in_the_impressions_whatever_was_asked_of_change(language: str) -> None:
    unasked = finding("pneumothorax", None)
    text = as_text(request(prediction(unasked), language=language))
    impressions = text.split("\n\n")[1]
    assert "pneumothorax" in impressions.lower()
    assert {"en": "No finding is new", "de": "Kein erfragter Befund ist"}[language] not in text


def test_beside_no_result_no_document_states_one() -> None:
    wrong = finding("pneumothorax", Change.NEW, probability=float("nan"))
    assert wrong.presence is Presence.PRESENT
    documents = build_documents(request(prediction(wrong)), kinds=list(DocumentKind))
    assert [document.kind for document in documents] == [DocumentKind.READING]


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_of_several_images_says_which_it_is(language: str) -> None:
    text = as_text(dataclasses.replace(of(), frontal_images=3, frontal_number=2, language=language))
    assert {"en": "holds 3 frontal images", "de": "enthält 3 frontale"}[language] in text
    assert {
        "en": "Image 2 of 3 of this study, taken 10 March 2026, 08:15.",
        "de": "Aufnahme 2 von 3 dieser Untersuchung, vom 10. März",
    }[language] in " ".join(text.split())
    assert "frontal images" not in as_text(of())


@pytest.mark.parametrize("language", LANGUAGES)
def test_another_projection_is_told(language: str) -> None:
    assert PRIOR.image is not None
    bed = SourceImage(header=PRIOR.header, image=dataclasses.replace(PRIOR.image, view="AP"))
    word = {
        "en": "different projections (current PA, prior AP)",
        "de": "verschieden projiziert (aktuell PA, Voraufnahme AP)",
    }
    assert word[language] in " ".join(as_text(dataclasses.replace(of(), prior=bed, language=language)).split())
    assert "projections" not in as_text(of())


@pytest.mark.parametrize(
    ("born", "is_child"), [("20080310", False), ("20080311", True), ("20260301", True), ("", False), ("1950", False)]
)
def test_a_childs_film_is_told(born: str, is_child: bool) -> None:
    assert ("films of children" in flat(of(PatientBirthDate=born))) is is_child


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 144", "Достоевская-Преображенская^Александра Константиновна"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        (["ISO 2022 IR 6", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 127", "قباني^لنزار"),
    ],
)
def test_a_legal_name_is_the_images_in_every_document(charset: str | list[str], name: str, tmp_path: Path) -> None:
    header = cases.header("current", "20260310")
    header.SpecificCharacterSet, header.PatientName = charset, name
    header.file_meta = build_documents(of())[0].dataset.file_meta
    read = dcmread(save(header, tmp_path / "image.dcm"))
    changed = dataclasses.replace(of(), current=dataclasses.replace(CURRENT, header=read))
    files = []
    for document in build_documents(changed, kinds=list(DocumentKind)):
        files.append(save(document.dataset, tmp_path / f"{document.kind}.dcm"))
        assert str(dcmread(files[-1]).PatientName) == name
    assert dciodvfy_errors(files) == {}
