"""The PDF page says every name rightly, or says that it cannot."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_node.report.documents import build_documents
from dicom_node.report.patient import name_text
from dicom_node.report.render import fonts
from dicom_node.report.render.pdf import pdf_bytes
from dicom_node.report.request import DocumentKind, ReportRequest
from tests.support import report_cases as cases
from tests.support.common import program
from tests.support.report_cases import CURRENT, kinds
from tests.support.typical_results import typical

NAMES = {
    "Greek": ("Παπαδόπουλος^Γιώργος", "Παπαδόπουλος, Γιώργος"),
    "Cyrillic": ("Люкceмбypг^Ярославна", "Люкceмбypг, Ярославна"),
    "Chinese": ("Zhang^XiaoDong=张^小东", "Zhang, XiaoDong (张 小东)"),
    "Japanese": ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou (山田 太郎)"),
    "Korean": ("Hong^Gildong=洪^吉洞=홍^길동", "Hong, Gildong (洪 吉洞)"),
    "Latin": ("Åsbrink^Žofia", "Åsbrink, Žofia"),
}


def named(name: str) -> ReportRequest:
    header = copy.deepcopy(CURRENT.header)
    header.PatientName = name
    return dataclasses.replace(kinds()["new"], current=dataclasses.replace(CURRENT, header=header))


def text_of(content: bytes, folder: Path) -> str:
    path = folder / "page.pdf"
    path.write_bytes(content)
    done = subprocess.run([program("pdftotext"), "-layout", path, "-"], check=True, capture_output=True, text=True)
    return done.stdout


def page(request: ReportRequest) -> bytes:
    return pdf_bytes(request)


@pytest.mark.parametrize("script", NAMES)
def test_a_name_of_any_script_is_readable(tmp_path: Path, script: str) -> None:
    if script in fonts.missing_scripts():
        pytest.skip(f"no font with {script} here; scripts/install_test_tools.sh installs one where it may")
    name, shown = NAMES[script]
    text = text_of(page(named(name)), tmp_path)
    assert shown in text
    assert "cannot be shown" not in text


@pytest.mark.parametrize("name", ["محمد^علي", "שרה^לוי", "राम^कुमार", "Doe^\U0001f9bb"])
def test_what_cannot_be_shown_is_said(tmp_path: Path, name: str) -> None:
    text = text_of(page(named(name)), tmp_path)
    assert "cannot be shown with the fonts of this machine" in text
    assert not any(ord(character) > 0x5FF for character in text), "no wrong glyph in its place"


def test_without_any_font_file_latin_is_shown_and_the_rest_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.report.render.pdf.faces", lambda: ())
    assert "Müller, Änne" in text_of(page(named("Müller^Änne")), tmp_path)
    text = text_of(page(named("Иванов^Иван")), tmp_path)
    assert "10 characters cannot be shown" in text
    assert "??????, ????" in text


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("name", ["edema worse, effusions larger", "uncertain, and other projection", "first film"])
def test_a_typical_result_stands_on_one_page(tmp_path: Path, name: str, language: str) -> None:
    text = text_of(page(dataclasses.replace(typical()[name], language=language)), tmp_path)
    assert text.count("\f") == 1
    assert text.count("Example, Erika") == 1
    assert {"en": "Page 1 of 1", "de": "Seite 1 von 1"}[language] in text


def test_each_page_of_a_long_report_bears_the_patient_and_its_number(tmp_path: Path) -> None:
    long = dataclasses.replace(kinds()["worse"], prior_reasons=tuple(f"Reason number {n}" for n in range(90)))
    pages = text_of(page(long), tmp_path).split("\f")[:-1]
    assert len(pages) > 1
    for number, text in enumerate(pages, start=1):
        assert "Example, Erika T-0001" in " ".join(text.split())
        assert f"Page {number} of {len(pages)}" in text


def test_the_same_request_makes_the_same_object_twice() -> None:
    made = [build_documents(named(NAMES["Greek"][0]), kinds=(DocumentKind.PDF,)) for _ in range(2)]
    first, second = (document.dataset for documents in made for document in documents if "PDF" in document.kind.upper())
    assert first.EncapsulatedDocument == second.EncapsulatedDocument
    assert bytes(first.EncapsulatedDocument).startswith(b"%PDF")


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(max_size=40))
def test_every_character_is_shown_or_counted(text: str) -> None:
    for having in (fonts.faces(), ()):
        shown, missing = fonts.showable(text, having)
        assert fonts.showable(shown, having) == (shown, 0)
        assert shown.count(fonts.PLACEHOLDER) <= missing + text.count(fonts.PLACEHOLDER)


def test_names_are_read_as_people_read_them() -> None:
    assert name_text("Adams^John Robert Quincy^^Rev.^B.A.") == "Adams, John Robert Quincy Rev. B.A."
    assert name_text("=山田^太郎") == "山田 太郎"
    assert name_text("") == ""


def test_a_case_of_each_kind_has_a_page() -> None:
    for name, request in cases.kinds().items():
        assert page(request).startswith(b"%PDF"), name
