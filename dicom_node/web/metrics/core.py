"""Metrics read from the rows at each scrape: right for any number of processes, and after every restart."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator
from statistics import quantiles

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.index.tables.backfill import BackfillItem, BackfillRun
from dicom_node.index.tables.core import (
    Delivery,
    DeliveryState,
    Document,
    Instance,
    Notice,
    Quarantine,
    Result,
    Study,
    StudyPurpose,
    StudyState,
    Tally,
)
from dicom_node.jobs import backlog
from dicom_node.receive import audit_trail as auditing
from dicom_node.report.rules import Doubt
from dicom_node.retention.disk import disk_usage
from dicom_node.web.metrics import feedback as metrics_feedback
from dicom_node.web.metrics.models import families as model_families

WINDOW = dt.timedelta(hours=24)
"""Durations are those of the last day."""
DRIFT_WINDOW = dt.timedelta(days=7)
MOST_ROWS = 5000
COUNTERS = {
    auditing.RECEIVED: ("dicom_node_instances_received", "Instances answered with Success", "which"),
    auditing.INSTANCE_REFUSED: ("dicom_node_instances_refused", "C-STORE answered with a failure", "status"),
    auditing.ASSOCIATION_REFUSED: ("dicom_node_associations_refused", "Connections and associations refused", "why"),
}
"""Tally → (metric, what it says, name of its label)."""
Metric = CounterMetricFamily | GaugeMetricFamily


class NodeCollector(Collector):
    """Collects everything in one read transaction."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node

    def collect(self) -> Iterable[Metric]:
        """All families. Raises IndexUnavailableError."""
        now = self._node.clock()
        with self._node.database.read() as session:
            yield from _counts(session)
            yield from _queue(session)
            yield from _durations(session, now)
            yield from _results(session, now)
            yield from model_families(session, self._node, now)
            yield from metrics_feedback.families(session, now)
        usage = disk_usage(self._node)
        disk = GaugeMetricFamily("dicom_node_disk_bytes", "Disk of the data folder", labels=["what"])
        disk.add_metric(["total"], usage.total)
        disk.add_metric(["free"], usage.free)
        yield disk


def _counts(session: Session) -> Iterator[Metric]:
    received = GaugeMetricFamily("dicom_node_instances", "Instances in the store")
    received.add_metric([], session.scalar(select(func.count(Instance.id))) or 0)
    yield received
    yield from _tallies(session)
    quarantined = GaugeMetricFamily("dicom_node_quarantine", "Objects kept apart", labels=["reason"])
    for reason, count in session.execute(
        select(Quarantine.reason, func.count()).where(Quarantine.resolved_at.is_(None)).group_by(Quarantine.reason)
    ):
        quarantined.add_metric([reason.value], count)
    yield quarantined
    studies = GaugeMetricFamily("dicom_node_studies", "Studies", labels=["state", "purpose"])
    for state, purpose, count in session.execute(
        select(Study.state, Study.purpose, func.count()).group_by(Study.state, Study.purpose)
    ):
        studies.add_metric([state.value, purpose], count)
    yield studies
    backfilled = GaugeMetricFamily("dicom_node_backfill_studies", "Studies of backfills", labels=["run", "state"])
    of_runs = select(BackfillRun.name, BackfillItem.state, func.count()).join(
        BackfillRun, BackfillItem.run_pk == BackfillRun.id
    )
    for run, item_state, count in session.execute(of_runs.group_by(BackfillRun.name, BackfillItem.state)):
        backfilled.add_metric([run, item_state.value], count)
    yield backfilled
    notices = GaugeMetricFamily("dicom_node_notices_unsent", "Notices that nobody was told of yet")
    notices.add_metric([], session.scalar(select(func.count(Notice.id)).where(Notice.sent_at.is_(None))) or 0)
    yield notices


def _tallies(session: Session) -> Iterator[Metric]:
    """Counters of what leaves no row of its own; since the index was made, whatever retention removed meanwhile."""
    families = {
        name: CounterMetricFamily(metric, text, labels=[label]) for name, (metric, text, label) in COUNTERS.items()
    }
    others = CounterMetricFamily("dicom_node_events", "Other events", labels=["event", "label"])
    for name, label, value in session.execute(select(Tally.name, Tally.label, Tally.value).order_by(Tally.label)):
        if name in families:
            families[name].add_metric([label], value)
        else:
            others.add_metric([name, label], value)
    yield from families.values()
    yield others


def _queue(session: Session) -> Iterator[Metric]:
    depth = GaugeMetricFamily("dicom_node_jobs", "Jobs", labels=["kind", "state"])
    for (kind, state), count in backlog.depth(session).items():
        depth.add_metric([kind.value, state.value], count)
    yield depth
    deliveries = GaugeMetricFamily("dicom_node_deliveries", "Deliveries", labels=["destination", "state"])
    for destination, reached, count in session.execute(
        select(Delivery.destination, Delivery.state, func.count()).group_by(Delivery.destination, Delivery.state)
    ):
        deliveries.add_metric([destination, reached.value], count)
    yield deliveries


def _durations(session: Session, now: dt.datetime) -> Iterator[Metric]:
    since = now - WINDOW
    lag = [
        (completed - last).total_seconds()
        for completed, last in session.execute(
            select(Study.completed_at, Study.last_instance_at)
            .where(Study.completed_at >= since, Study.purpose == StudyPurpose.ROUTED)
            .limit(MOST_ROWS)
        )
        if completed is not None
    ]
    yield _quantiles("dicom_node_completion_lag_seconds", "From the last image to completion, last day", lag)
    proven = [
        (confirmed - last).total_seconds()
        for confirmed, last in session.execute(
            select(Delivery.confirmed_at, Study.last_instance_at)
            .join(Document, Delivery.document_pk == Document.id)
            .join(Result, Document.result_pk == Result.id)
            .join(Study, Result.study_pk == Study.id)
            .where(Delivery.confirmed_at >= since, Delivery.state == DeliveryState.CONFIRMED)
            .limit(MOST_ROWS)
        )
        if confirmed is not None
    ]
    yield _quantiles(
        "dicom_node_study_to_delivery_seconds", "From the last image to proof of delivery, last day", proven
    )
    oldest = session.scalar(select(func.min(Study.last_instance_at)).where(Study.state == StudyState.COMPLETE))
    waiting = GaugeMetricFamily("dicom_node_oldest_waiting_seconds", "Age of the oldest study without its result")
    waiting.add_metric([], (now - oldest).total_seconds() if oldest is not None else 0.0)
    yield waiting


def _quantiles(name: str, text: str, values: list[float]) -> GaugeMetricFamily:
    """Median and 95th percentile; no samples where nothing was measured."""
    family = GaugeMetricFamily(name, text, labels=["quantile"])
    if values:
        cuts = quantiles(values, n=20, method="inclusive") if len(values) > 1 else values * 19
        family.add_metric(["0.5"], cuts[9])
        family.add_metric(["0.95"], cuts[18])
    return family


def _results(session: Session, now: dt.datetime) -> Iterator[Metric]:
    """Outcomes, abstentions, stages, prior hit rate, model and drift."""
    outcomes = GaugeMetricFamily("dicom_node_results", "Results by outcome", labels=["outcome"])
    for outcome, count in session.execute(select(Result.outcome, func.count()).group_by(Result.outcome)):
        outcomes.add_metric([outcome.value], count)
    yield outcomes
    recent = session.execute(
        select(Result.prediction, Result.seconds, Result.prior_sop_instance_uid, Result.model_name)
        .add_columns(Result.model_version, Result.device_uid)
        .where(Result.created_at >= now - DRIFT_WINDOW, Result.is_current)
        .order_by(Result.id.desc())
        .limit(MOST_ROWS)
    ).all()
    hits = GaugeMetricFamily("dicom_node_prior_hit_ratio", "Share of results with a prior, last week")
    if recent:
        hits.add_metric([], sum(1 for row in recent if row.prior_sop_instance_uid) / len(recent))
        model = GaugeMetricFamily(
            "dicom_node_model_info", "Checkpoint of the newest result", labels=["name", "version", "device_uid"]
        )
        model.add_metric([recent[0].model_name, recent[0].model_version, recent[0].device_uid], 1)
        yield model
    yield hits
    yield from _stages([row.seconds for row in recent])
    yield from _drift([row.prediction for row in recent])


def _stages(seconds: list[dict[str, float]]) -> Iterator[Metric]:
    family = GaugeMetricFamily("dicom_node_inference_seconds", "Mean by stage, last week", labels=["stage"])
    for stage in sorted({stage for row in seconds for stage in row}):
        values = [float(row[stage]) for row in seconds if stage in row]
        family.add_metric([stage], sum(values) / len(values))
    yield family


def _count_unstated_changes(predictions: list[dict[str, object]]) -> Metric:
    """The number of changes that were not stated, by reason (`dicom_node.report.rules.Doubt`)."""
    family = GaugeMetricFamily(
        "dicom_node_changes_not_stated", "Findings whose change was not stated, last week", labels=["reason"]
    )
    counts: Counter[str] = Counter({doubt.value: 0 for doubt in Doubt})
    for prediction in predictions:
        findings = prediction.get("findings")
        for finding in findings if isinstance(findings, list) else []:
            counts.update([finding["doubt"]] if finding.get("doubt") else [])
    for reason, count in sorted(counts.items()):
        family.add_metric([reason], count)
    return family


def _drift(predictions: list[dict[str, object]]) -> Iterator[Metric]:
    """Frequency of each finding and certainty of the model; compare with the model card's figures."""
    abstained = GaugeMetricFamily("dicom_node_abstained_ratio", "Share of results without an answer, last week")
    if predictions:
        abstained.add_metric([], sum(1 for p in predictions if p.get("abstained")) / len(predictions))
    yield abstained
    yield _count_unstated_changes(predictions)
    rates = GaugeMetricFamily(
        "dicom_node_finding_ratio", "Share with the finding present, last week", labels=["finding"]
    )
    sure = GaugeMetricFamily("dicom_node_certainty_mean", "Mean of |2p - 1|, last week", labels=["finding"])
    present: dict[str, list[bool]] = {}
    certainty: dict[str, list[float]] = {}
    for prediction in predictions:
        findings = prediction.get("findings")
        for finding in findings if isinstance(findings, list) else []:
            present.setdefault(finding["key"], []).append(finding["presence"] == "present")
            # 0 at p = 0.5, 1 where the model is sure either way.
            certainty.setdefault(finding["key"], []).append(abs(2 * float(finding["probability"]) - 1))
    for key, values in sorted(present.items()):
        rates.add_metric([key], sum(values) / len(values))
        sure.add_metric([key], sum(certainty[key]) / len(certainty[key]))
    yield rates
    yield sure
