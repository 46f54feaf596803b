"""The report job: read, label, find the result, write feedback, settle with earlier reports; one commit at the end."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.config import FeedbackSection
from dicom_node.context import NodeContext
from dicom_node.errors import ReportError
from dicom_node.feedback import record as feedback
from dicom_node.feedback.record import FeedbackWord
from dicom_node.feedback.reports.compared_prior import is_of_pair
from dicom_node.feedback.reports.corrections import settle_with_others
from dicom_node.feedback.reports.judgements import words_of
from dicom_node.feedback.reports.matching import current_results, match
from dicom_node.index.queries import study_by_uid
from dicom_node.index.tables.core import Feedback, Instance, Result, Study
from dicom_node.index.tables.reports import ReceivedReport, ReportKind, ReportState
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.logs import get_logger
from model.errors import InferenceError, LabellerError
from model.labeller import rules as labeller
from model.labeller.report import ReportFinding, combine
from model.labeller.rules import Label
from model.labeller.text.sentences import sentences

log = get_logger(__name__)

ROLE, ROLE_UNVERIFIED = "radiologist", "radiologist, unverified"
UNNAMED = "unnamed author"
ENDED = (ReportState.SUPERSEDED, ReportState.DUPLICATE, ReportState.REFUSED)


def handle(job: ClaimedJob, node: NodeContext) -> None:
    """Look at one report. Runs twice without harm. Raises ReportError where a retry may help."""
    report_pk = int(job.payload["report_id"])
    with node.database.read() as session:
        report = session.get(ReceivedReport, report_pk)
    if report is None or report.state is not ReportState.PENDING:
        with node.database.write() as session:
            jobs.complete(session, job)
        return
    read = _read(node, report)
    labels, version = ([], "") if read["reason"] else _labels(str(read["text"]), node.settings.feedback)
    with node.database.write() as session:
        jobs.complete(session, job)
        # The job was ended first: a lost lease is found out before a row is changed.
        row = session.get_one(ReceivedReport, report_pk)
        for name, value in read.items():
            setattr(row, name, value)
        row.labels, row.labeller = [_label_json(label) for label in labels], version
        row.looked_at, row.looks = node.clock(), row.looks + 1
        settle(session, row, combine(labels), now=node.clock())
        state, kind = row.state, row.kind
    log.info("report read", report_pk=report_pk, kind=kind, state=state, labels=len(labels))


def _read(node: NodeContext, report: ReceivedReport) -> dict[str, Any]:
    """Column values: what the SR says. An HL7 message was read when it came. "reason" is set where it is no use."""
    if not node.settings.feedback.reports:
        return {"text": report.text, "reason": "reports are not read here: feedback.reports is false"}
    if report.kind is ReportKind.HL7:
        return {"text": report.text, "reason": report.reason}
    with node.database.read() as session:
        path = session.scalar(select(Instance.path).where(Instance.sop_instance_uid == report.source_key))
    if report.text and report.looks:  # read before; retention may have removed the object since
        return {"text": report.text, "reason": ""}
    if path is None or not node.store.has(path):
        raise ReportError("the report's object is not in the store")
    # highdicom and pydicom's reader are loaded in the worker only
    from dicom_node.feedback.reports.sr_text import read_sr

    try:
        read = read_sr(node.store.path(path))
    except ReportError as error:
        return {"text": "", "reason": str(error)}
    return {
        "text": read.text,
        "text_sha256": text_hash(read.text),
        "author": read.author[:255],
        "is_verified": read.is_verified,
        "written": read.written[:64],
        "accession_numbers": [read.accession_number] if read.accession_number else [],
        "patient_ids": [list(pair) for pair in read.patient_ids],
        "predecessors": list(read.predecessors),
        "reason": read.refusal,
    }


def text_hash(text: str) -> str:
    """Of the sentences' words alone: headings, layout and case make no other report."""
    read = ["".join(c for c in sentence.text.lower() if c.isalnum()) for sentence in sentences(text)]
    return hashlib.sha256("\n".join(read or [text]).encode()).hexdigest()


def _labels(text: str, settings: FeedbackSection) -> tuple[list[Label], str]:
    """The labels and which labeller made them. Raises ReportError where a language model does not answer usefully."""
    if settings.labeller == "rules":
        return labeller.label_report(text), labeller.version()
    assert settings.llm_base_url is not None
    # The client of a server takes a tenth of a second to import; most nodes go by the rules.
    from model.labeller import llm as labeller_llm
    from model.remote.client import ServerClient
    from model.remote.text_model import ServerText

    try:
        key = settings.llm_api_key_file.read_text("utf-8").strip() if settings.llm_api_key_file else None
        with ServerClient(settings.llm_base_url, api_key=key, timeout_seconds=settings.llm_seconds) as client:
            model = ServerText(client, settings.llm_model)
            return labeller_llm.label_report(text, model), labeller_llm.version(model)[:255]
    except (InferenceError, LabellerError, OSError) as error:
        raise ReportError(f"the language model gave no labels: {error}") from error


def _label_json(label: Label) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(label).items() if value not in (None, "", False)}


def settle(session: Session, row: ReceivedReport, findings: Mapping[str, ReportFinding], *, now: dt.datetime) -> None:
    """Give the report its state, in the caller's transaction, with all feedback that follows from it."""
    row.contradictions = [
        {"finding": key, "why": finding.contradiction} for key, finding in findings.items() if finding.contradiction
    ]
    study, why = match(session, row)
    row.matched_study_uid = study.study_instance_uid if study is not None else ""
    if row.reason:
        settle_with_others(session, row, now=now)  # a cancelled report takes its forerunner back
        row.state = ReportState.REFUSED
        return
    if study is None:
        row.state, row.reason = ReportState.UNMATCHED, why
        return
    if settle_with_others(session, row, now=now) in ENDED:
        return
    others = False
    for result in current_results(session, study):
        prior = study_by_uid(session, result.prior_study_instance_uid) if result.prior_sop_instance_uid else None
        of_pair = prior is None or is_of_pair(row.text, prior.study_date)
        others |= not of_pair
        if not _has_spoken(session, row, result.id):
            compared = bool(result.prior_sop_instance_uid) and of_pair
            _speak(session, row, result, study, words_of(findings, result.prediction, compared=compared), now=now)
    row.state = ReportState.CONTRADICTORY if row.contradictions else ReportState.USED
    row.reason = _reason(findings.values())
    if others:
        row.reason = "; ".join(filter(None, (row.reason, "it compares with another film: changes are not used")))


def _speak(
    session: Session, row: ReceivedReport, result: Result, study: Study, words: list[FeedbackWord], *, now: dt.datetime
) -> None:
    """The report's words as feedback on one result."""
    for word in words:
        feedback.record(
            session,
            result,
            study,
            word,
            author=row.author or UNNAMED,
            role=ROLE if row.is_verified else ROLE_UNVERIFIED,
            source=feedback.Source.REPORT,
            now=now,
            report_pk=row.id,
        )


def _has_spoken(session: Session, row: ReceivedReport, result_pk: int) -> bool:
    """Tell whether this report stands as feedback on this result already."""
    return (
        session.scalar(
            select(Feedback.id).where(Feedback.report_pk == row.id, Feedback.result_pk == result_pk).limit(1)
        )
        is not None
    )


def _reason(findings: Iterable[ReportFinding]) -> str:
    listed = list(findings)
    against = [finding.finding for finding in listed if finding.contradiction]
    if against:
        return f"it says two things of: {', '.join(against)}"
    return "" if listed else "no finding was read in it"
