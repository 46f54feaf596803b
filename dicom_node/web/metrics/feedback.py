"""Metrics of feedback: how far node and radiologists agree, and what became of received reports."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from sqlalchemy.orm import Session

from dicom_node.feedback import agreement
from dicom_node.feedback import consensus as opinions
from dicom_node.feedback import listing as feedback_listing

WINDOW = dt.timedelta(days=7)


def families(session: Session, now: dt.datetime) -> Iterator[GaugeMetricFamily]:
    """Counts by finding of the words of the last week; reports by state."""
    judged = opinions.load(session, since=now - WINDOW)
    counts = GaugeMetricFamily(
        "dicom_node_agreement",
        "Statements that radiologists judged, last week",
        labels=["finding", "aspect", "outcome"],
    )
    kappas = GaugeMetricFamily("dicom_node_agreement_kappa", "Cohen's kappa, last week", labels=["finding", "aspect"])
    for aspect in ("presence", "change"):
        by_finding = agreement.figures(judged, since=now - WINDOW, aspect=aspect)
        for key, finding_agreement in by_finding.items():
            counts.add_metric([key, aspect, "agree"], finding_agreement.agree)
            counts.add_metric([key, aspect, "contradictory"], finding_agreement.contradictory)
            if aspect == "presence":
                counts.add_metric([key, aspect, "node only"], finding_agreement.node_only)
                counts.add_metric([key, aspect, "radiologist only"], finding_agreement.radiologist_only)
            else:
                counts.add_metric([key, aspect, "disagree"], finding_agreement.judged - finding_agreement.agree)
            if finding_agreement.kappa is not None:
                kappas.add_metric([key, aspect], finding_agreement.kappa)
    yield counts
    yield kappas
    reports = GaugeMetricFamily("dicom_node_reports", "Radiologists' reports received", labels=["state"])
    for state, count in sorted(feedback_listing.report_counts(session).items()):
        reports.add_metric([state], count)
    yield reports
