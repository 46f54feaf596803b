"""No header stops a result: whatever stands in it, documents come out and dciodvfy finds no error in them."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag

from dicom_node.report.documents import build_documents
from dicom_node.report.patient import clean_header
from dicom_node.report.render.html import as_html
from dicom_node.report.render.text import as_text
from dicom_node.report.request import DocumentKind, ReportRequest
from tests.support import report_cases as cases
from tests.support.report_cases import CURRENT, kinds
from tests.support.validators import dciodvfy_errors, save

NEW = kinds()["new"]
KEYWORDS = """
PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber
ReferringPhysicianName StudyDescription TimezoneOffsetFromUTC StudyInstanceUID SeriesInstanceUID SOPInstanceUID
SOPClassUID Rows Columns RequestAttributesSequence ReferencedRequestSequence SpecificCharacterSet
IssuerOfAccessionNumberSequence IssuerOfPatientIDQualifiersSequence
""".split()  # noqa: SIM905
CHARACTER_SETS = [b"", b"ISO_IR 100", b"ISO_IR 126", b"ISO_IR 144", b"ISO_IR 192", b"GB18030", b"ISO_IR 13"]
CHARACTER_SETS += [b"\\ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"ISO 2022 IR 13\\ISO 2022 IR 87", b"NO SUCH SET"]
VALUES = st.one_of(
    st.binary(max_size=90),
    st.text(max_size=90).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"", b"UNK", b"1950", b"25:99", b"20260230", b"2026.03.10", b"081500.1234567", b"A\\B\\C"]),
    st.sampled_from([b"^^^^^^^", b"A=B=C=D", b"../..", b"1.2.3.", b"x" * 70, b"\x1b$B\x00\x00", b"\xff\xfe"]),
)


@st.composite
def headers(draw: st.DrawFn) -> Dataset:
    """A complete header in which any elements are missing or hold any bytes, under any character set."""
    ds = cases.header("current", "20260310")
    ds.SpecificCharacterSet = draw(st.sampled_from(CHARACTER_SETS)).decode().split("\\")
    for keyword in draw(st.lists(st.sampled_from(KEYWORDS), unique=True, max_size=12)):
        if keyword in ds and draw(st.booleans()):
            del ds[keyword]
            continue
        vr = dictionary_VR(keyword)
        tag = Tag(keyword)
        if vr == "SQ":
            ds[tag] = DataElement(tag, "SQ", [ds_item(draw) for _ in range(draw(st.integers(0, 2)))])
        else:
            value = draw(VALUES)
            ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    ds.private_block(0x0009, "ANYONE", create=True).add_new(1, "LO", "private")
    return ds


def ds_item(draw: st.DrawFn) -> Dataset:
    """An item that may hold anything or nothing."""
    item = Dataset()
    for keyword in ("RequestedProcedureID", "AccessionNumber", "UniversalEntityIDType", "StudyInstanceUID"):
        if draw(st.booleans()):
            value = draw(VALUES)
            tag = Tag(keyword)
            item[tag] = RawDataElement(tag, dictionary_VR(keyword), len(value), value, 0, False, True)
    return item


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate],  # shrinking would write and validate hundreds of files; the seed is fixed
)
@given(header=headers())
def test_any_header_gives_valid_documents(header: Dataset) -> None:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        request = dataclasses.replace(NEW, current=dataclasses.replace(CURRENT, header=header))
        documents = build_documents(request)
        assert documents[0].kind is DocumentKind.READING
        files = [save(d.dataset, Path(folder) / f"{d.kind.value}.dcm") for d in documents]
        assert dciodvfy_errors(files) == {}
        assert re.search(r"New\b[^.]*moderate left pleural effusion", " ".join(as_text(request).split()))


NAMES = {
    "Japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "Greek": (["ISO_IR 126"], "Διονυσιος^Αλέξανδρος"),
    "Cyrillic": (["ISO_IR 144"], "Люкceмбypг^Пётр^Иванович^Др^мл"),
    "Chinese": (["GB18030"], "Wang^XiaoDong=王^小东"),
    "Latin 1": (["ISO_IR 100"], "Müller^Jürgen^Ägidius^Prof.^jun."),
    "UTF-8": (["ISO_IR 192"], "Zoë^Ångström=王^小東="),
}


@pytest.mark.parametrize("script", NAMES)
def test_a_name_of_any_script_comes_through(script: str, tmp_path: Path) -> None:
    """Stored under its own character set, read back from the file, found whole in UTF-8 in every document."""
    charset, name = NAMES[script]
    header = cases.header("current", "20260310")
    header.SpecificCharacterSet, header.PatientName = charset, name
    header.file_meta = build_documents(NEW)[0].dataset.file_meta
    read = dcmread(save(header, tmp_path / "image.dcm"))
    request = dataclasses.replace(NEW, current=dataclasses.replace(CURRENT, header=read))
    for document in build_documents(request):
        back = dcmread(save(document.dataset, tmp_path / "report.dcm"))
        assert back.SpecificCharacterSet == "ISO_IR 192"
        assert str(back.PatientName) == name.rstrip("=")
    assert dciodvfy_errors([tmp_path / "report.dcm"]) == {}
    assert name.split("^")[0] in as_html(request)


@pytest.mark.parametrize("keyword", ["AccessionNumber", "StudyID", "StudyDate", "PatientName", "PatientSex"])
def test_a_missing_element_stands_empty_and_is_named(keyword: str) -> None:
    header = cases.header("current", "20260310")
    del header[keyword]
    cleaned = clean_header(header)
    assert keyword in cleaned.faults
    assert cleaned.elements[keyword].value in ("", None)
    request = dataclasses.replace(NEW, current=dataclasses.replace(CURRENT, header=header))
    assert keyword in as_text(request)


def test_a_complete_header_has_no_fault() -> None:
    assert clean_header(CURRENT.header).faults == ()


def _rungs(request: ReportRequest) -> list[str]:
    return [document.kind.value for document in build_documents(request)]


def test_the_ladder_full_then_text_then_no_result() -> None:
    """A region outside its image stops the coded document, a finding without a change word stops the sentences."""
    assert _rungs(NEW) == ["reading", "machine"]
    outside = dataclasses.replace(cases.region(), points=((0.0, 0.0), (9e9, 0.0), (9e9, 9e9), (0.0, 0.0)))
    assert NEW.prediction is not None
    first = dataclasses.replace(NEW.prediction.findings[0], regions=(outside,))
    text = dataclasses.replace(NEW, prediction=dataclasses.replace(NEW.prediction, findings=(first,)))
    assert _rungs(text) == ["reading"]
    assert re.search(r"New\b[^.]*moderate left pleural effusion", " ".join(as_text(text).split()))
    assert build_documents(text)[0].sop_instance_uid != build_documents(NEW)[0].sop_instance_uid
    nonsense = dataclasses.replace(first, probability=float("nan"))
    last = dataclasses.replace(NEW, prediction=dataclasses.replace(NEW.prediction, findings=(nonsense,)))
    document = build_documents(last)[0].dataset
    said = next(i for i in document.ContentSequence if i.ValueType == "CONTAINER").ContentSequence[0].TextValue
    assert said.startswith("No automated result for this study: the full report could not be written")
