"""`dicom-node feedback read`: which rule read which characters, on the terminal and as a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.feedback.reading import phrases, reading_lines, reading_page
from model.labeller.rules import read_text
from model.labeller.text.plain_text import plain_text

REPORT = """INDICATION: ?pneumothorax
FINDINGS: No consolidation, pneumothorax, or large effusion. ETT no longer in the right main bronchus.
ADDENDUM: Small left pneumothorax.
"""


def test_every_phrase_names_its_rule_and_its_characters() -> None:
    plain = plain_text(REPORT)
    found = [phrase for reading in read_text(REPORT) for phrase in phrases(reading)]
    assert all(" ".join(plain[one.start : one.end].split()) == one.text for one in found)
    denial = next(one for one in found if one.text == "No")
    assert denial.rule == "denial; denied, left open"
    assert denial.findings == ("consolidation", "pneumothorax", "pleural_effusion")
    assert next(one for one in found if one.text == "no longer").rule == "no longer at a place"


def test_lines_say_what_is_stated_what_is_not_and_what_an_addendum_replaces() -> None:
    lines = "\n".join(reading_lines(REPORT))
    assert "= consolidation: no" in lines
    assert "- pleural_effusion: not stated, only a new or a large one is denied" in lines
    assert 'pneumothorax: yes, left, small; an addendum replaces "No consolidation' in lines
    assert "1 findings named without a statement" in lines
    assert "?pneumothorax" not in lines, "the indication is not read"


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pre, self._inside = "", False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._inside = self._inside or tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "pre"

    def handle_data(self, data: str) -> None:
        self.pre += data if self._inside else ""


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200) | st.just(REPORT) | st.just("<script>alert(1)</script> No <b>edema</b> & a < b."))
def test_page_shows_the_whole_text_and_runs_none_of_it(text: str) -> None:
    page = reading_page(text)
    parser = _Text()
    parser.feed(page)
    assert parser.pre.split() == plain_text(text).split()
    assert "<script" not in page


def test_command_reads_a_file(tmp_path: Path) -> None:
    file, page = tmp_path / "report.txt", tmp_path / "report.html"
    file.write_text(REPORT, "utf-8")
    shown = CliRunner().invoke(app, ["feedback", "read", str(file)])
    assert shown.exit_code == 0
    assert re.search(r"No\s+denial; denied, left open", shown.output)
    written = CliRunner().invoke(app, ["feedback", "read", str(file), "--html", "--out", str(page)])
    assert written.exit_code == 0
    assert "<mark" in page.read_text("utf-8")


@pytest.mark.parametrize(("content", "why"), [(None, "no such file"), (b"Gr\xf6\xdfe", "not UTF-8 at byte 2")])
def test_unreadable_file_is_named(tmp_path: Path, content: bytes | None, why: str) -> None:
    file = tmp_path / "report.txt"
    if content is not None:
        file.write_bytes(content)
    result = CliRunner().invoke(app, ["feedback", "read", str(file)])
    assert result.exit_code != 0
    assert why in result.output + str(result.exception)
