"""Radiologists' reports as DICOM SR: stored, read, matched, turned into feedback once; corrections take back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from sqlalchemy import func, select

from dicom_node.config import CompletionSection
from dicom_node.feedback.reports.sr_text import sr_text
from dicom_node.index.tables.core import Feedback, Job, JobKind, Study, StudyState
from dicom_node.index.tables.reports import ReportState
from dicom_node.studies import completion
from dicom_node.studies.received_reports import look_again
from tests.support.delivery_node import _code
from tests.support.reporting import (
    STATED,
    STUDY,
    TEXT,
    add_study,
    finding,
    new_uid,
    read_reports,
    receive,
    replacing,
    report_sr,
    reporting_node,
    reports,
    words,
)
from tests.support.text_server import text_server

BASIC, ENHANCED, COMPREHENSIVE, COMPREHENSIVE_3D = (f"1.2.840.10008.5.1.4.1.1.88.{n}" for n in (11, 22, 33, 34))


@pytest.mark.parametrize("sop_class", [BASIC, ENHANCED, COMPREHENSIVE, COMPREHENSIVE_3D])
def test_report_becomes_feedback(tmp_path: Path, sop_class: str) -> None:
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        receive(node, report_sr(sop_class=sop_class))
        assert read_reports(node) == 1
        (report,) = reports(node)
        assert (report.state, report.author, report.is_verified) == (ReportState.USED, "Curie^Marie", True)
        assert words(node) == {
            ("pleural_effusion", "presence"): ("present", "agree", ""),
            ("pleural_effusion", "change"): ("new", "correct", "worsening"),
            ("pleural_effusion", "location"): ("left", "agree", ""),
            ("pleural_effusion", "level"): ("moderate", "agree", ""),
            ("pneumothorax", "presence"): ("absent", "agree", ""),
            ("cardiomegaly", "presence"): ("present", "correct", "absent"),
        }
        with node.database.read() as session:
            row = session.scalars(select(Feedback).where(Feedback.finding == "pneumothorax")).one()
        assert (row.source, row.role, row.author, row.report_pk) == ("report", "radiologist", "Curie^Marie", report.id)
        assert "No pneumothorax" in row.comment
        assert 'denial "no"' in row.comment


def test_finding_that_was_not_asked_for_labels_too(tmp_path: Path) -> None:
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        receive(node, report_sr("Mild pulmonary edema. Old left rib fracture."))
        read_reports(node)
        found = words(node)
        assert found["edema", "presence"] == ("abstained", "correct", "present")
        assert found["fracture", "presence"] == ("", "correct", "present")


def test_same_object_and_same_text_add_nothing(tmp_path: Path) -> None:
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        report = report_sr()
        receive(node, report)
        receive(node, report)
        read_reports(node)
        before = words(node)
        receive(node, report_sr())  # the same text in another object
        read_reports(node)
        assert words(node) == before
        assert [row.state for row in reports(node)] == [ReportState.USED, ReportState.DUPLICATE]
        with node.database.read() as session:
            assert session.scalar(select(func.count(Feedback.id))) == len(before)


@pytest.mark.parametrize("original_first", [True, False])
def test_corrected_report_takes_the_original_back(tmp_path: Path, original_first: bool) -> None:
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        original = report_sr("Small right pneumothorax. Mild edema.")
        corrected = replacing(report_sr("ADDENDUM: No pneumothorax."), original)
        for sent in (original, corrected) if original_first else (corrected, original):
            receive(node, sent)
            read_reports(node)
        assert words(node) == {("pneumothorax", "presence"): ("absent", "agree", "")}
        states = {row.source_key: row.state for row in reports(node)}
        assert states == {
            original.SOPInstanceUID: ReportState.SUPERSEDED,
            corrected.SOPInstanceUID: ReportState.USED,
        }


@pytest.mark.parametrize("verified_first", [True, False])
def test_verified_report_is_preferred(tmp_path: Path, verified_first: bool) -> None:
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        unverified = report_sr("Right pneumothorax.", VerificationFlag="UNVERIFIED", VerifyingObserverSequence=None)
        verified = report_sr("No pneumothorax.")
        for sent in (verified, unverified) if verified_first else (unverified, verified):
            receive(node, sent)
            read_reports(node)
        assert words(node)["pneumothorax", "presence"] == ("absent", "agree", "")
        assert {row.state for row in reports(node)} == {ReportState.USED, ReportState.SUPERSEDED}


@pytest.mark.parametrize(
    ("elements", "why"),
    [
        ({"CompletionFlag": "PARTIAL"}, "partial"),
        ({"PreliminaryFlag": "PRELIMINARY"}, "preliminary"),
        ({"ManufacturerModelName": "dicom-node"}, "machine"),
        ({"ContentSequence": None}, "no text"),
    ],
)
def test_what_is_no_final_word_is_refused(tmp_path: Path, elements: dict[str, Any], why: str) -> None:
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        receive(node, report_sr(**elements))
        read_reports(node)
        (report,) = reports(node)
        assert report.state is ReportState.REFUSED
        assert why in report.reason
        assert not words(node)


def test_device_observer_is_no_radiologist(tmp_path: Path) -> None:
    observer = Dataset()
    observer.RelationshipType, observer.ValueType = "HAS OBS CONTEXT", "CODE"
    observer.ConceptNameCodeSequence = Sequence([_code("121005", "DCM", "Observer Type")])
    observer.ConceptCodeSequence = Sequence([_code("121007", "DCM", "Device")])
    report = report_sr(VerificationFlag="UNVERIFIED", VerifyingObserverSequence=None)
    report.ContentSequence.insert(0, observer)
    assert sr_text(report).refusal == "a machine wrote it"


def test_headings_of_the_content_tree_are_kept(tmp_path: Path) -> None:
    def text(name: str, words: str) -> Dataset:
        item = Dataset()
        item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", words
        item.ConceptNameCodeSequence = Sequence([_code("1", "99X", name)])
        return item

    def section(name: str, *items: Dataset) -> Dataset:
        item = Dataset()
        item.RelationshipType, item.ValueType = "CONTAINS", "CONTAINER"
        item.ConceptNameCodeSequence = Sequence([_code("2", "99X", name)])
        item.ContentSequence = Sequence(items)
        return item

    report = report_sr(sop_class=COMPREHENSIVE)
    report.ContentSequence = Sequence(
        [
            section("History", text("Finding", "Known pneumothorax.")),
            section("Findings", text("Finding", "No effusion."), text("Recommendation", "Exclude fracture by CT.")),
            section("Impressions", text("Impression", "Mild edema.")),
        ]
    )
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        receive(node, report)
        read_reports(node)
        assert {key for key, _aspect in words(node)} == {"pleural_effusion", "edema"}
        assert "HISTORY:\nKnown pneumothorax." in reports(node)[0].text


def test_contradictory_findings_are_listed_and_not_used(tmp_path: Path) -> None:
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        receive(node, report_sr("No pleural effusion. No pneumothorax.\nIMPRESSION: Small left pleural effusion."))
        read_reports(node)
        (report,) = reports(node)
        assert report.state is ReportState.CONTRADICTORY
        assert [one["finding"] for one in report.contradictions] == ["pleural_effusion"]
        assert set(words(node)) == {("pneumothorax", "presence")}


def test_report_before_the_result_waits_for_it(tmp_path: Path) -> None:
    with reporting_node(tmp_path) as (node, clock):
        receive(node, report_sr())
        read_reports(node)
        assert reports(node)[0].state is ReportState.UNMATCHED
        assert read_reports(node) == 0
        clock.forward(minutes=1)
        add_study(node)
        assert read_reports(node) == 1
        assert reports(node)[0].state is ReportState.USED
        assert words(node)["pneumothorax", "presence"] == ("absent", "agree", "")


def test_newer_result_of_the_study_is_judged_too(tmp_path: Path) -> None:
    with reporting_node(tmp_path) as (node, clock):
        add_study(node)
        receive(node, report_sr("Right pneumothorax."))
        read_reports(node)
        clock.forward(hours=1)
        newer = add_study(node, findings=(finding("pneumothorax", "present"), *STATED[:1]), device_uid="2.25.4712")
        read_reports(node)
        with node.database.read() as session:
            row = session.scalars(select(Feedback).where(Feedback.result_pk == newer)).first()
        assert row is not None
        assert (row.stated, row.verdict.value, row.device_uid) == ("present", "agree", "2.25.4712")
        assert read_reports(node) == 0


def test_matched_by_accession_number_and_patient(tmp_path: Path) -> None:
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        receive(node, report_sr(study_uid=new_uid()))
        read_reports(node)
        assert reports(node)[0].matched_study_uid == STUDY
        assert words(node)


def test_unmatched_report_is_looked_at_again_for_a_while(tmp_path: Path) -> None:
    """Its study UID is not ours: only another look by accession number finds the result that came later."""
    with reporting_node(tmp_path) as (node, clock):
        receive(node, report_sr(study_uid=new_uid()))
        receive(node, report_sr("No edema.", study_uid=new_uid(), AccessionNumber="ACC-9"))
        read_reports(node)
        add_study(node)
        look_again(node)
        assert read_reports(node) == 0, "too early"
        clock.forward(minutes=11)
        look_again(node)
        assert read_reports(node) == 2
        assert [row.state for row in reports(node)] == [ReportState.USED, ReportState.UNMATCHED]
        clock.forward(days=31)
        look_again(node)
        assert read_reports(node) == 0, "too late"


@pytest.mark.parametrize("elements", [{"PatientID": "SOMEBODY-ELSE"}, {"PatientID": ""}, {"AccessionNumber": "ACC-9"}])
def test_accession_number_alone_proves_nothing(tmp_path: Path, elements: dict[str, Any]) -> None:
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node)
        receive(node, report_sr(study_uid=new_uid(), **elements))
        read_reports(node)
        assert reports(node)[0].state is ReportState.UNMATCHED
        assert not words(node)


def test_report_opens_no_study_and_is_no_image(tmp_path: Path) -> None:
    """Of a study of which only a report came nothing is analysed; a late report re-opens none; an image still does."""
    with reporting_node(tmp_path) as (node, clock):
        add_study(node)
        receive(node, report_sr())
        receive(node, report_sr(study_uid="1.2.3.5"))
        clock.forward(hours=1)
        with node.database.write() as session:
            closed = completion.sweep(session, completion=CompletionSection(), now=node.clock())
            assert closed == ["1.2.3.5"]
            assert session.scalar(select(func.count()).where(Job.kind == JobKind.ANALYSE)) == 0
            states = dict(session.execute(select(Study.study_instance_uid, Study.state)).all())
        assert states == {STUDY: StudyState.ANALYSED, "1.2.3.5": StudyState.COMPLETE}
        image = report_sr(study_uid="1.2.3.5")
        image.SOPClassUID, image.SOPInstanceUID, image.Modality = "1.2.840.10008.5.1.4.1.1.1", new_uid(), "CR"
        image.SeriesInstanceUID = new_uid()
        receive(node, image)
        clock.forward(hours=1)
        with node.database.write() as session:
            assert completion.sweep(session, completion=CompletionSection(), now=node.clock()) == ["1.2.3.5"]
            assert session.scalar(select(func.count()).where(Job.kind == JobKind.ANALYSE)) == 1


def test_reports_can_be_switched_off(tmp_path: Path) -> None:
    with reporting_node(tmp_path, feedback={"reports": False}) as (node, _clock):
        add_study(node)
        receive(node, report_sr())
        read_reports(node)
        assert reports(node)[0].state is ReportState.REFUSED
        assert not words(node)


@pytest.mark.parametrize(
    ("comparison", "is_used"),
    [
        ("COMPARISON: 2026-02-01.", True),
        ("COMPARISON: Chest radiograph of 02/01/2026 and 11/5/2025.", True),
        ("COMPARISON: 1.2.2026", True),
        ("Compared with February 1, 2026, the effusion has increased.", True),
        ("COMPARISON: None available.", True),
        ("COMPARISON: 15 January 2026.", False),
        ("In comparison to the study dated 1/15/26.", False),
    ],
)
def test_change_counts_only_for_our_pair(tmp_path: Path, comparison: str, is_used: bool) -> None:
    """Where the report says with which film it compares and that is not our prior, its changes are no labels."""
    with reporting_node(tmp_path) as (node, _clock):
        add_study(node, prior_date="20260201")
        receive(node, report_sr(f"{comparison}\n{TEXT}"))
        read_reports(node)
        assert (("pleural_effusion", "change") in words(node)) == is_used
        assert ("pleural_effusion", "presence") in words(node)
        assert ("another film" in reports(node)[0].reason) == (not is_used)


ANSWER = """{"findings": [{"finding": "pneumothorax", "presence": "no", "side": null, "level": null, "change": null,
"sentence": "No pneumothorax."}]}"""


@pytest.mark.parametrize(("answer", "state"), [(ANSWER, ReportState.USED), ("I see nothing.", ReportState.PENDING)])
def test_language_model_reads_instead(tmp_path: Path, answer: str, state: ReportState) -> None:
    """A useless answer is no label: the job fails, is tried again later, and the report waits."""
    with text_server(lambda _prompt: answer, []) as url:
        settings = {"labeller": "llm", "llm_base_url": url, "llm_model": "reader"}
        with reporting_node(tmp_path, feedback=settings) as (node, _clock):
            add_study(node)
            receive(node, report_sr())
            read_reports(node)
            (report,) = reports(node)
            assert report.state is state
            if state is ReportState.USED:
                assert words(node) == {("pneumothorax", "presence"): ("absent", "agree", "")}
                assert report.labeller.startswith("reader at ")
            else:
                assert not words(node)
                with node.database.read() as session:
                    error = session.scalars(select(Job.last_error).where(Job.kind == JobKind.REPORT)).one()
                assert "not the JSON" in error
