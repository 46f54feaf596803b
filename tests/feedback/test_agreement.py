"""Feedback is settled from reports and corrections, agreement is counted, contradictions are shown, not trained on."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.dicom.part10 import FileMeta
from dicom_node.feedback import agreement
from dicom_node.feedback import consensus as opinions
from dicom_node.feedback import record as feedback
from dicom_node.feedback.consensus import Opinion
from dicom_node.feedback.record import Aspect, FeedbackWord, Source
from dicom_node.index.tables.core import Instance, Result, Series, Study, Verdict
from dicom_node.retrain.site_export import export_site
from model.schema import Change
from tests.support.reporting import (
    DEVICE,
    IMAGE,
    PRIOR_IMAGE,
    STUDY,
    add_study,
    moment,
    new_uid,
    read_reports,
    receive,
    report_sr,
    reporting_node,
    words,
)
from tests.support.web_site import running_site
from training.readers.site import read_site
from training.records.drops import DropReport
from training.records.truth import ImageTruth

CR = "1.2.840.10008.5.1.4.1.1.1"


def opinion(stated: str, *values: str, at: dt.datetime, finding: str = "pneumothorax", device: str = DEVICE) -> Opinion:
    return Opinion(
        study_instance_uid="1.2",
        sop_instance_uid="1.3",
        device_uid=device,
        finding=finding,
        aspect=Aspect.PRESENCE,
        stated=stated,
        values={value: (f"author of {value}",) for value in values},
        at=at,
    )


def test_counts_window_and_kappa() -> None:
    day = moment(2)
    judged = (
        [opinion("present", "present", at=day)] * 20
        + [opinion("present", "absent", at=day)] * 5
        + [opinion("absent", "present", at=day)] * 10
        + [opinion("absent", "absent", at=day)] * 15
        + [opinion("present", "present", "absent", at=day)] * 2
        + [opinion("abstained", "present", at=day), opinion("", "present", at=day)]
        + [opinion("present", "absent", at=moment(9)), opinion("present", "absent", at=day, device="2.25.1")]
    )
    (one,) = agreement.figures(judged, since=moment(1), until=moment(9), device_uid=DEVICE).values()
    assert (one.judged, one.agree, one.node_only, one.radiologist_only, one.contradictory) == (50, 35, 5, 10, 2)
    assert one.ratio == pytest.approx(0.7)
    assert one.kappa == pytest.approx(0.4)  # the worked example of many textbooks: p_o = 0.7, p_e = 0.5
    assert agreement.overall({"pneumothorax": one}).judged == 50


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["present", "absent"]), st.sampled_from(["present", "absent"])), max_size=40))
def test_kappa_lies_within_its_bounds(pairs: list[tuple[str, str]]) -> None:
    found = agreement.figures([opinion(node, said, at=moment(2)) for node, said in pairs])
    for one in found.values():
        assert one.judged == len(pairs) == one.agree + one.node_only + one.radiologist_only
        if one.kappa is None:
            assert len(set(pairs)) == 1
        else:
            assert -1.0 <= one.kappa <= 1.0
            assert (one.kappa == 1.0) == (one.agree == len(pairs))


def say(
    node: NodeContext, verdict: Verdict, value: str = "", *, author: str = "ada", source: Source = Source.WEB, **of: str
) -> None:
    with node.database.write() as session:
        study = session.scalars(select(Study).where(Study.study_instance_uid == STUDY)).one()
        (result,) = (one for one in study.results if one.is_current)
        word = FeedbackWord(
            finding=of.get("finding", "pneumothorax"),
            aspect=Aspect(of.get("aspect", "presence")),
            verdict=verdict,
            value=value,
        )
        feedback.record(
            session, result, study, word, author=author, role="radiologist", source=source, now=node.clock()
        )


def test_newest_word_of_an_author_counts_and_others_are_never_overridden(tmp_path: Path) -> None:
    with reporting_node(tmp_path) as (node, clock):
        add_study(node)
        say(node, Verdict.AGREE)
        clock.forward(hours=1)
        say(node, Verdict.WRONG)
        with node.database.read() as session:
            (settled,) = opinions.load(session)
        assert (settled.value, settled.contradictory) == ("present", False)
        clock.forward(hours=1)
        say(node, Verdict.AGREE, author="bob", source=Source.CSV)
        with node.database.read() as session:
            (contested,) = opinions.load(session)
        assert contested.contradictory
        assert contested.values == {
            "absent": ("bob (radiologist, csv)",),
            "present": ("ada (radiologist, web)",),
        }


def _films(session: Session, node: NodeContext) -> None:
    """Instance rows with files for the image and its prior, so that they can be exported."""
    study = session.scalars(select(Study).where(Study.study_instance_uid == STUDY)).one()
    series = Series(study_pk=study.id, series_instance_uid=new_uid(), modality="CR")
    session.add(series)
    session.flush()
    for uid, when in ((IMAGE, "20260301220000.000000"), (PRIOR_IMAGE, "20260201220000.000000")):
        meta = FileMeta(sop_class_uid=CR, sop_instance_uid=uid, transfer_syntax_uid="1.2.840.10008.1.2.1")
        path = node.store.put(b"film", meta).path
        session.add(
            Instance(
                series_pk=series.id,
                sop_instance_uid=uid,
                sop_class_uid=CR,
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                path=path,
                sha256="",
                size_bytes=4,
                received_at=node.clock(),
                acquired_at=when,
                view_position="PA",
            )
        )


def test_labels_of_all_sources_reach_training_without_the_contradictory_ones(tmp_path: Path) -> None:
    """Agreeing labels are labels too; what sources contradict each other in is left out and counted."""
    with reporting_node(tmp_path) as (node, clock):
        add_study(node)
        with node.database.write() as session:
            _films(session, node)
        receive(node, report_sr())  # effusion left, worse; no pneumothorax; heart not enlarged
        read_reports(node)
        clock.forward(hours=1)
        say(node, Verdict.CORRECT, "present", source=Source.CSV, finding="fracture")
        say(node, Verdict.AGREE, finding="cardiomegaly")  # against the report
        say(node, Verdict.AGREE)  # with it
        say(node, Verdict.AGREE, finding="", aspect="result", author="eve")
        out, counted = tmp_path / "site.jsonl", DropReport()
        assert export_site(node, out, counted) == 1
        assert counted.dropped == {"sources contradict each other": 1}
        line = json.loads(out.read_text("utf-8").splitlines()[1])
        assert {word["source"] for word in line["words"]} == {"report", "csv", "web"}
        assert {word["author"] for word in line["words"]} == {"Curie^Marie", "ada"}
        assert all(word["role"] for word in line["words"])
        (record,) = read_site(out, DropReport())
        truths = record.truth.findings
        assert truths["pleural_effusion"].change is Change.WORSENING
        assert truths["pneumothorax"].current == ImageTruth(present=False)
        assert truths["fracture"].current == ImageTruth(present=True)
        assert "cardiomegaly" not in truths


def test_withdrawn_words_train_nothing(tmp_path: Path) -> None:
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        with node.database.write() as session:
            _films(session, node)
        receive(node, report_sr("Right pneumothorax."))
        read_reports(node)
        with node.database.write() as session:
            assert feedback.withdraw(session, report_pk=1, now=node.clock()) == 2
        assert not words(node)
        assert export_site(node, tmp_path / "site.jsonl", DropReport()) == 0


def test_page_and_metrics(tmp_path: Path) -> None:
    with running_site(tmp_path, with_study=False) as site:
        add_study(site.node)
        receive(site.node, report_sr("No pleural effusion. Right pneumothorax.\nIMPRESSION: Left pleural effusion."))
        receive(site.node, report_sr(study_uid="1.2.3.9", AccessionNumber="ACC-9"))
        read_reports(site.node)
        say(site.node, Verdict.AGREE)
        with site.client("viewer") as client:
            page = client.get("/feedback")
            assert page.status_code == 200, page.text
            assert "pleural effusion: &#34;Left pleural effusion&#34;" in page.text
            assert "unmatched" in page.text
            assert "Curie^Marie (radiologist, report)" in page.text
            assert 'id="presence-pneumothorax"' in page.text
            assert 'href="/feedback" data-key="f" aria-current="page"' in page.text
            assert client.get("/feedback?days=3").status_code == 400
            assert client.get("/feedback?state=lost").status_code == 400
            assert client.get("/feedback?days=&state=used").status_code == 200
            metrics = client.get("/metrics").text
        with site.client() as stranger:
            assert stranger.get("/feedback").status_code == 401
        assert (
            'dicom_node_agreement{aspect="presence",finding="pneumothorax",outcome="contradictory"} 1.0' in metrics
        ), metrics
        assert 'dicom_node_reports{state="unmatched"} 1.0' in metrics


def test_result_rows_keep_their_place(tmp_path: Path) -> None:
    """A word on a result that was replaced still labels the image; one on the whole result does not."""
    with reporting_node(tmp_path) as (node, clock):
        add_study(node)
        say(node, Verdict.AGREE, finding="", aspect="result")
        clock.forward(hours=1)
        add_study(node)
        with node.database.read() as session:
            assert opinions.load(session) == []
            assert session.scalars(select(Result).where(Result.is_current)).one().id == 2
