"""A stored result's page and picture are made when asked for, to the letter as when the result was made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from sqlalchemy import delete, select

from dicom_node.analysis.outputs import SHOWN_FILE, write_outputs
from dicom_node.analysis.rendering import StoredReport, load_report, page_of, picture_of, text_of
from dicom_node.errors import StorageError
from dicom_node.index.tables.core import Instance, Result
from dicom_node.report.render.shown import shown_from_json, shown_report
from model.schema import Change
from tests.support.report_cases import kinds
from tests.support.web_site import Site, report_request, running_site
from training.phantom.dicom import write_study_pair

GOLDEN = Path(__file__).parent / "report-of-version-1.json"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path) as site:
        yield site


def _stored(site: Site) -> StoredReport:
    with site.node.database.read() as session:
        result_id = session.scalars(select(Result.id)).one()
    stored = load_report(site.node, result_id)
    assert stored is not None
    return stored


def _folder(site: Site, stored: StoredReport) -> Path:
    return site.node.documents_dir / stored.folder


def _pictures(site: Site, stored: StoredReport) -> list[Path]:
    return list(_folder(site, stored).glob("pair-*.jpg"))


@pytest.mark.parametrize("name", kinds())
def test_shown_report_of_every_kind_survives_its_file(name: str) -> None:
    shown = shown_report(kinds()[name])
    assert shown_from_json(shown.to_json()) == shown


def test_page_made_when_asked_for_is_the_page_of_the_analysis(site: Site, tmp_path: Path) -> None:
    pair = write_study_pair(tmp_path / "again", 3, wanted={"pleural_effusion": Change.NEW}, long_side=512)  # the site's
    request = report_request(site.node, *(pydicom.dcmread(study.files[0]) for study in (pair.prior, pair.current)))
    write_outputs(tmp_path / "out", request)
    stored = _stored(site)
    kept = replace(stored, folder="elsewhere", shown=shown_from_json((tmp_path / "out" / SHOWN_FILE).read_bytes()))
    assert page_of(site.node, kept) == (tmp_path / "out" / "report.html").read_text("utf-8")
    assert picture_of(site.node, kept) == (tmp_path / "out" / "pair.jpg").read_bytes()
    assert text_of(kept) == (tmp_path / "out" / "report.txt").read_text("utf-8")


def test_analysis_writes_no_picture_and_the_first_look_keeps_one(site: Site) -> None:
    stored = _stored(site)
    assert {path.name for path in _folder(site, stored).iterdir()} == {"machine.dcm", "reading.dcm", SHOWN_FILE}
    first = picture_of(site.node, stored)
    assert [path.read_bytes() for path in _pictures(site, stored)] == [first]
    assert picture_of(site.node, stored) == first


def test_picture_without_its_prior_says_so_and_is_not_kept(site: Site) -> None:
    stored = _stored(site)
    whole = picture_of(site.node, stored)
    for path in _pictures(site, stored):
        path.unlink()
    with site.node.database.write() as session:
        session.execute(delete(Instance).where(Instance.sop_instance_uid == site.prior_sop))
    assert picture_of(site.node, stored) != whole
    assert not _pictures(site, stored), "when the image is stored again, the picture is whole again"


def test_report_of_an_earlier_version_still_says_its_own_words(site: Site) -> None:
    """The file was written by version 1 with words that no catalogue has: a new wording does not reach it."""
    shown = shown_from_json(GOLDEN.read_bytes())
    stored = replace(_stored(site), shown=shown)
    assert "A wording of former days, kept to the letter." in text_of(stored)
    assert "A wording of former days, kept to the letter." in page_of(site.node, stored)


def test_damaged_report_is_named_and_a_missing_one_is_none(site: Site) -> None:
    stored = _stored(site)
    with site.node.database.read() as session:
        result_id = session.scalars(select(Result.id)).one()
    (_folder(site, stored) / SHOWN_FILE).write_bytes(b"{}")
    with pytest.raises(StorageError, match="no kept report"):
        load_report(site.node, result_id)
    (_folder(site, stored) / SHOWN_FILE).unlink()
    assert load_report(site.node, result_id) is None


def test_report_page_needs_a_log_in_and_is_audited_and_lets_no_script_run(site: Site) -> None:
    with site.node.database.read() as session:
        result_id = session.scalars(select(Result.id)).one()
    with site.client() as stranger:
        assert stranger.get(f"/results/{result_id}/report.html").status_code == 401
    with site.client("viewer") as viewer:
        page = viewer.get(f"/results/{result_id}/report.html")
        assert page.status_code == 200
        assert "script-src" not in page.headers["content-security-policy"]
        assert "sandbox" in page.headers["content-security-policy"]
        assert page.headers["x-frame-options"] == "DENY"
        pdf = viewer.get(f"/results/{result_id}/report.pdf")
        assert (pdf.headers["content-type"], pdf.content[:5]) == ("application/pdf", b"%PDF-")
        picture = viewer.get(f"/results/{result_id}/pair.jpg")
        assert picture.headers["content-type"] == "image/jpeg"
        assert picture.content.startswith(b"\xff\xd8")
        assert viewer.get("/results/999/report.html").status_code == 404
        assert viewer.get("/results/x/report.html").status_code == 404
