"""Every kind of result, as every document in every SOP class: no validator finds an error, other readers read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.report.documents import STANDARD_KINDS, build_documents
from dicom_node.report.request import DocumentKind
from dicom_node.report.sr.fallback_classes import variants
from tests.support.report_cases import kinds
from tests.support.validators import dciodvfy_errors, dsr2html, dsrdump, pixelmed_errors, save

KINDS = kinds()
PAGES_OF = ("new", "no prior", "refused")
"""Kinds whose page and picture are made too: drawing is most of the time."""
READINGS = ("new reading 0", "no prior reading 0", "refused reading 0", "prognosis reading 0")
"""Reading reports for PixelMed; the others have the same sections as one of these."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ "kind reading 0" → file; the number counts down the ladder of SOP classes."""
    folder = tmp_path_factory.mktemp("documents")
    made = {}
    for name, request in KINDS.items():
        wanted = set(DocumentKind) if name in PAGES_OF else STANDARD_KINDS
        for document in build_documents(request, wanted):
            for step, variant in enumerate(variants(document.dataset)):
                key = f"{name} {document.kind.value} {step}"
                made[key] = save(variant, folder / (key.replace(" ", "_") + ".dcm"))
    return made


def test_every_kind_gives_every_document_and_every_step(files: dict[str, Path]) -> None:
    """4 classes of the machine report and 2 of the reading report for each kind, page and picture for some."""
    assert len(files) == len(KINDS) * (4 + 2) + len(PAGES_OF) * 2


def test_dciodvfy_finds_no_error_in_any_document(files: dict[str, Path]) -> None:
    assert dciodvfy_errors(list(files.values())) == {}


def test_a_broken_report_is_an_error_to_dciodvfy(files: dict[str, Path], tmp_path: Path) -> None:
    """The check above can fail."""
    broken = build_documents(KINDS["new"])[1].dataset
    del broken.ContentSequence[0].ConceptNameCodeSequence
    broken.PatientSex = "UNK"
    assert dciodvfy_errors([save(broken, tmp_path / "broken.dcm")])


def test_pixelmed_finds_no_error_in_any_kind(files: dict[str, Path], tmp_path: Path) -> None:
    """The machine report of every kind in one process, with one broken report among them that it must name."""
    broken = build_documents(KINDS["nothing"])[1].dataset
    broken.ContentSequence = [item for item in broken.ContentSequence if item.ValueType != "CONTAINER"]
    wrong = save(broken, tmp_path / "broken.dcm")
    checked = [path for key, path in files.items() if key.endswith(" machine 0") or key in READINGS]
    assert set(pixelmed_errors([*checked, wrong])) == {"broken.dcm"}


@pytest.mark.parametrize("name", KINDS)
def test_dcmtk_reads_every_kind(files: dict[str, Path], name: str, tmp_path: Path) -> None:
    """dsrdump reads every step; dsr2html's page of the reading report holds its first sentence."""
    for key, path in files.items():
        if key.rsplit(" ", 2)[0] == name and (" machine " in key or " reading " in key):
            assert "CONTAINER" in dsrdump(path)
    said = build_documents(KINDS[name])[0].dataset
    sentence = next(i for i in said.ContentSequence if i.ValueType == "CONTAINER").ContentSequence[0].TextValue
    assert sentence.strip() in dsr2html(files[f"{name} reading 0"], tmp_path / "page.html")
