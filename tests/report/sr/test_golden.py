"""DCMTK's print-out of six typical results, word for word.

After an intended change: `REGENERATE_GOLDEN=1 pytest tests/report/sr/test_golden.py`, then read the difference in git.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dicom_node.report.documents import build_documents
from dicom_node.report.render.text import as_text
from dicom_node.report.sr.iod import NODE_VERSION
from tests.support.report_cases import kinds
from tests.support.validators import dsrdump, save

GOLDEN = Path(__file__).parents[1] / "golden"
TYPICAL = ("new", "worse", "stable", "resolved", "no prior", "refused")
KINDS = kinds()


def _compare(path: Path, text: str) -> None:
    """Compare with the file, but for the version of the program, which is another at each release."""
    text = text.replace(f"#{NODE_VERSION})", "#VERSION)")
    if os.environ.get("REGENERATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8"), f"{path.name} differs; see the head of this file"


@pytest.mark.parametrize("name", TYPICAL)
def test_dsrdump_of_both_documents(name: str, tmp_path: Path) -> None:
    dumps = []
    for document in build_documents(KINDS[name]):
        dumps.append(f"### {document.kind.value}\n{dsrdump(save(document.dataset, tmp_path / 'report.dcm'))}")
    _compare(GOLDEN / f"{name.replace(' ', '_')}.txt", "\n".join(dumps))


def test_the_printed_report(tmp_path: Path) -> None:
    _compare(GOLDEN / "printed.txt", "\n".join(as_text(KINDS[name]) for name in TYPICAL))
