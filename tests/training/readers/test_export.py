"""The node's index and feedback, exported and read back: what a radiologist said becomes truth, names stay behind."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.feedback.record import Aspect, FeedbackWord, Source, record
from dicom_node.index.tables.core import Result, Study, Verdict
from dicom_node.index.tables.models import PairStatistics
from dicom_node.retrain.site_export import KEY_NAME, export_site
from model.schema import Change
from tests.support.web_site import Site, running_site
from training.data.datasets import load_pair
from training.readers.site import read_site
from training.records.drops import DropReport
from training.records.truth import MANUFACTURER, FindingTruth, ImageTruth


def say(site: Site, *words: FeedbackWord, author: str = "radiologist") -> None:
    with site.node.database.write() as session:
        result = session.query(Result).one()
        study = session.query(Study).filter_by(study_instance_uid=site.study_instance_uid).one()
        for word in words:
            record(
                session,
                result,
                study,
                word,
                author=author,
                role="radiologist",
                source=Source.WEB,
                now=site.node.clock(),
            )


@pytest.mark.timeout(120)
def test_what_was_said_comes_back_as_truth_without_names(tmp_path: Path) -> None:
    with running_site(tmp_path / "node") as site:
        export, report = tmp_path / "out" / "site.jsonl", DropReport()
        assert export_site(site.node, export, report) == 0
        assert list(read_site(export, DropReport())) == []
        say(
            site,
            FeedbackWord(finding="pleural_effusion", aspect=Aspect.PRESENCE, verdict=Verdict.AGREE),
            FeedbackWord(finding="pleural_effusion", aspect=Aspect.CHANGE, verdict=Verdict.CORRECT, value="worsening"),
            FeedbackWord(finding="pleural_effusion", aspect=Aspect.LEVEL, verdict=Verdict.CORRECT, value="severe"),
            FeedbackWord(finding="cardiomegaly", aspect=Aspect.PRESENCE, verdict=Verdict.WRONG),
        )
        with site.node.database.write() as session:
            for result_pk in session.scalars(select(Result.id)).all():
                session.merge(PairStatistics(result_pk=result_pk, created_at=site.node.clock(), manufacturer="ACME"))
        assert export_site(site.node, export, report) == 1
        (found,) = read_site(export, DropReport())
        assert found.truth.findings["pleural_effusion"] == FindingTruth(
            key="pleural_effusion",
            current=ImageTruth(present=True, grade="severe"),
            prior=ImageTruth(present=True),
            change=Change.WORSENING,
        )
        assert found.truth.findings["cardiomegaly"].current == ImageTruth(present=True)
        assert set(found.truth.findings) == {"pleural_effusion", "cardiomegaly"}
        pair = load_pair(found)
        assert pair.prior is not None
        assert pair.current.sop_instance_uid == site.current_sop
        assert pair.prior.sop_instance_uid == site.prior_sop
        assert found.truth.facts == {MANUFACTURER: "ACME"}
        text = export.read_text("utf-8")
        for private in (site.patient_id, site.patient_name, "radiologist^"):
            assert private not in text
        key = site.node.settings.node.data_dir / KEY_NAME
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        export_site(site.node, export, DropReport())
        (again,) = read_site(export, DropReport())
        assert again.patient_id == found.patient_id


@pytest.mark.timeout(120)
def test_agreeing_with_a_replaced_result_says_nothing_of_the_new_one(tmp_path: Path) -> None:
    with running_site(tmp_path / "node") as site:
        say(site, FeedbackWord(finding="", aspect=Aspect.RESULT, verdict=Verdict.AGREE))
        export, report = tmp_path / "site.jsonl", DropReport()
        export_site(site.node, export, report)
        (found,) = read_site(export, DropReport())
        assert found.truth.findings["pleural_effusion"].change is Change.NEW
        assert "pneumothorax" not in found.truth.findings
        with site.node.database.write() as session:
            old = session.query(Result).one()
            values = {
                c.name: getattr(old, c.name) for c in Result.__table__.columns if c.name not in ("id", "generation")
            }
            old.is_current = False
            session.flush()
            session.add(Result(**values | {"is_current": True, "generation": 2}))
        export_site(site.node, export, report)
        assert report.dropped["word on a whole result that was replaced"] == 1
        assert list(read_site(export, DropReport())) == []


@pytest.mark.timeout(120)
def test_a_film_that_is_gone_is_counted(tmp_path: Path) -> None:
    with running_site(tmp_path / "node") as site:
        say(site, FeedbackWord(finding="pleural_effusion", aspect=Aspect.PRESENCE, verdict=Verdict.AGREE))
        for path in list(site.node.store.iterate_paths()):
            site.node.store.delete(path)
        report = DropReport()
        assert export_site(site.node, tmp_path / "site.jsonl", report) == 0
        assert report.dropped["film is no longer in the store"] == 1
