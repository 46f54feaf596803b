"""`dicom-node report show`: any Structured Report as a tree on the terminal or a page, other people's too."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from dicom_node.cli import report
from dicom_node.dicom.write import part10_bytes
from dicom_node.report.documents import build_documents
from tests.support import report_cases as cases
from tests.support.common import shared

app = Typer()
report.register(app)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Both documents of a result with a worsening finding."""
    found = {}
    for document in build_documents(cases.kinds()["worse"]):
        found[document.kind.value] = tmp_path / f"{document.kind}.dcm"
        found[document.kind.value].write_bytes(part10_bytes(document.dataset))
    return found


def _show(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["report", "show", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_both_documents_are_shown_with_what_they_say(files: dict[str, Path]) -> None:
    assert "Worse since 1 March 2026: severe pulmonary edema" in " ".join(_show(str(files["reading"])).split())
    machine = _show(str(files["machine"]))
    assert "Pulmonary edema" in machine
    assert "Worsening" in machine


def test_a_page_is_written(files: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    _show(str(files["reading"]), "--html", str(page))
    assert "Worse since 1 March 2026: severe pulmonary edema" in page.read_text("utf-8")


@pytest.mark.shared_data
def test_reports_of_others_are_shown() -> None:
    for path in sorted(shared("data", "dicom", "sr").glob("*.dcm")):
        assert len(_show(str(path)).splitlines()) > 3, path.name


def test_a_file_name_is_not_warned_of_as_a_wrong_uid(files: dict[str, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _show(str(files["reading"]))


def test_what_is_no_report_is_called_so(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.dcm"
    wrong.write_text("not DICOM", "utf-8")
    done = CliRunner().invoke(app, ["report", "show", str(wrong)])
    assert done.exit_code != 0
    assert done.exception is not None
    assert "wrong.dcm" in str(done.exception)
