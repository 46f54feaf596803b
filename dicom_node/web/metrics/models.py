"""Prometheus metrics of the models' life: who answers, what does not load, the shadow, nights, drift."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import func, literal_column, select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.drift import weekly as weeks
from dicom_node.drift.baselines import validation_sets
from dicom_node.drift.samples import certainty_of
from dicom_node.index.tables.core import Outcome, Result
from dicom_node.index.tables.models import ModelServing, ScheduledTraining, ShadowResult
from dicom_node.serving.workers import serving_lines
from model.checkpoints.validation_counts import ValidationSet, bin_counts

LIVE_WINDOW = dt.timedelta(days=7)
MOST_ROWS = 5000
"""Newest results of a checkpoint that a scrape reads."""


def families(session: Session, node: NodeContext, now: dt.datetime) -> Iterator[GaugeMetricFamily]:
    """All of them."""
    yield from _serving(session, now)
    yield from _shadow(session)
    yield from _nights(session)
    yield from _drift(session)
    yield from _validation(session, node, now)


def _serving(session: Session, now: dt.datetime) -> Iterator[GaugeMetricFamily]:
    serving = GaugeMetricFamily(
        "dicom_node_model_serving", "Workers that answer with this checkpoint", labels=["folder", "device_uid"]
    )
    broken = GaugeMetricFamily("dicom_node_model_not_loaded", "Workers whose champion does not load", labels=["folder"])
    counts: dict[tuple[str, str], int] = {}
    failing: dict[str, int] = {}
    for line in serving_lines(session, now):
        key = (line["folder"] or "configured", line["device_uid"])
        counts[key] = counts.get(key, 0) + bool(line["device_uid"])
        if line["error"]:
            folder = line["wanted"] or "configured"
            failing[folder] = failing.get(folder, 0) + 1
    for key, count in sorted(counts.items()):
        serving.add_metric(list(key), count)
    for folder, count in sorted(failing.items()):
        broken.add_metric([folder], count)
    yield serving
    yield broken


def _shadow(session: Session) -> Iterator[GaugeMetricFamily]:
    family = GaugeMetricFamily(
        "dicom_node_shadow_results", "Pairs that a challenger saw in the shadow", labels=["folder", "outcome"]
    )
    # Written out, not bound: PostgreSQL takes two parameters of one value for two different expressions.
    failed = ShadowResult.error != literal_column("''")
    differs = ShadowResult.disagreements > literal_column("0")
    rows = session.execute(
        select(ShadowResult.folder, failed, differs, func.count()).group_by(ShadowResult.folder, failed, differs)
    )
    for folder, has_failed, does_differ, count in rows:
        outcome = "failed" if has_failed else "differs" if does_differ else "agrees"
        family.add_metric([folder, outcome], count)
    yield family


def _nights(session: Session) -> Iterator[GaugeMetricFamily]:
    state = GaugeMetricFamily("dicom_node_scheduled_training", "The newest window's state", labels=["state"])
    paused = GaugeMetricFamily("dicom_node_scheduled_training_paused_seconds", "In it, given way to analyses")
    night = session.scalars(
        select(ScheduledTraining).order_by(ScheduledTraining.begins_at.desc()).limit(1)
    ).one_or_none()
    if night is not None:
        state.add_metric([night.state.value], 1)
        paused.add_metric([], night.paused_seconds)
    yield state
    yield paused


def _drift(session: Session) -> Iterator[GaugeMetricFamily]:
    """The newest judged week of images and of each checkpoint."""
    labels = ["of", "figure"]
    against = GaugeMetricFamily("dicom_node_drift_against", "1: what it is held against", labels=[*labels, "baseline"])
    value = GaugeMetricFamily("dicom_node_drift_value", "Figure of the newest judged week", labels=labels)
    baseline = GaugeMetricFamily("dicom_node_drift_baseline", "The same of the baseline", labels=labels)
    limit = GaugeMetricFamily("dicom_node_drift_limit", "Control limits", labels=[*labels, "side"])
    alarm = GaugeMetricFamily("dicom_node_drift_alarm", "1 where it lies outside its limits", labels=labels)
    for row in weeks.latest(session):
        names = [row.device_uid or "images", row.figure]
        against.add_metric([*names, weeks.source_of(row)], 1)
        value.add_metric(names, row.value)
        if row.baseline is not None:
            baseline.add_metric(names, row.baseline)
        limit.add_metric([*names, "low"], row.low)
        limit.add_metric([*names, "high"], row.high)
        alarm.add_metric(names, float(row.alarm))
    yield from (value, baseline, limit, alarm, against)


def _validation(session: Session, node: NodeContext, now: dt.datetime) -> Iterator[GaugeMetricFamily]:
    """The validation counts of each checkpoint that answers, or answered last week, beside its counts here.

    Shares of pairs; certainty in the validation set's bins, so that the two distributions lie side by side.
    """
    labels = ["device_uid", "finding", "of"]
    rates = GaugeMetricFamily("dicom_node_checkpoint_finding_ratio", "Share with the finding present", labels=labels)
    labels = ["device_uid", "bin", "of"]
    sure = GaugeMetricFamily("dicom_node_checkpoint_certainty_ratio", "Share by mean |2p - 1|", labels=labels)
    serving = set(session.scalars(select(ModelServing.device_uid)))
    for device, validation in validation_sets(session, node.settings, node.models_dir).items():
        live = _live(session, device, now)
        if not live and device not in serving:
            continue
        for key, count in validation.present.items():
            rates.add_metric([device, key, "validation"], count / validation.pairs)
            asked = [f["presence"] == "present" for findings in live for f in findings if f["key"] == key]
            if asked:
                rates.add_metric([device, key, "live"], sum(asked) / len(asked))
        live_counts = bin_counts([certainty_of(findings) for findings in live], validation.certainty_edges)
        for name, before, count in zip(_bin_names(validation), validation.certainty, live_counts, strict=True):
            sure.add_metric([device, name, "validation"], before / validation.pairs)
            if live:
                sure.add_metric([device, name, "live"], count / len(live))
    yield rates
    yield sure


def _live(session: Session, device: str, now: dt.datetime) -> list[list[dict[str, Any]]]:
    """The findings of the checkpoint's answered pairs of the last week, newest first."""
    rows = session.scalars(
        select(Result.prediction)
        .where(Result.created_at >= now - LIVE_WINDOW, Result.is_current, Result.device_uid == device)
        .where(Result.outcome != Outcome.NOT_ANALYSED)
        .order_by(Result.id.desc())
        .limit(MOST_ROWS)
    )
    return [findings for prediction in rows if (findings := prediction.get("findings"))]


def _bin_names(found: ValidationSet) -> list[str]:
    borders = [0.0, *found.certainty_edges, 1.0]
    return [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(borders)]
