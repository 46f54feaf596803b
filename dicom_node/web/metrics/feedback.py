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
        found = agreement.figures(judged, since=now - WINDOW, aspect=aspect)
        for key, one in found.items():
            counts.add_metric([key, aspect, "agree"], one.agree)
            counts.add_metric([key, aspect, "contradictory"], one.contradictory)
            if aspect == "presence":
                counts.add_metric([key, aspect, "node only"], one.node_only)
                counts.add_metric([key, aspect, "radiologist only"], one.radiologist_only)
            else:
                counts.add_metric([key, aspect, "disagree"], one.judged - one.agree)
            if one.kappa is not None:
                kappas.add_metric([key, aspect], one.kappa)
    yield counts
    yield kappas
    reports = GaugeMetricFamily("dicom_node_reports", "Radiologists' reports received", labels=["state"])
    for state, count in sorted(feedback_listing.report_counts(session).items()):
        reports.add_metric([state], count)
    yield reports
