"""Figures of answers on films of people, with intervals by bootstrap over patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.schema import COMPARED_CHANGES, Change, Finding
from training.metrics.classification import auroc, class_scores, expected_calibration_error, macro_f1
from training.metrics.pairs import Answered, change_said
from training.metrics.significance import Interval, bootstrap_one_by_patient
from training.records.record import Record

SIX = ("pleural_effusion", "pneumothorax", "atelectasis", "consolidation", "edema", "cardiomegaly")
CHANGING = ("pleural_effusion", "consolidation", "pneumothorax", "atelectasis")
WORSE, BETTER = frozenset({"new", "worsening"}), frozenset({"resolved", "improving"})
RESAMPLES = 500
OLD = 60
"""Years; the border of the two age bands."""


def presence_figures(answered: Sequence[Answered], keys: Sequence[str]) -> dict[str, Interval]:
    """AUROC of each finding, "macro" over all that have both classes, and "ece" of the probabilities."""
    rows = [(item.truth.patient_id, finding, item) for item in answered for finding in item.prediction.findings]
    intervals: dict[str, Interval] = {}
    for key in keys:
        table = _presence_table(answered, key)
        if has_both_classes(table):
            intervals[key] = auroc_interval(table)
    named = [_presence_table(answered, key) for key in intervals]
    if named:
        intervals["macro"] = _macro(named)
    # The likelier side of each answer and whether it is right, over all findings: each alone has few positives.
    truths = [
        (patient, max(f.probability, 1.0 - f.probability), (f.probability >= 0.5) == truth.current.present)
        for patient, f, item in rows
        if f.key in keys and (truth := item.truth.findings.get(f.key)) is not None and truth.current is not None
    ]
    intervals["ece"] = bootstrap_one_by_patient(
        [patient for patient, *_ in truths],
        lambda chosen: expected_calibration_error(
            [truths[index][1] for index in chosen], [truths[index][2] for index in chosen]
        ),
        resamples=RESAMPLES // 5,
    )
    return intervals


def change_figures(answered: Sequence[Answered], keys: Sequence[str] = CHANGING) -> dict[str, Any]:
    """Macro F1 over the five states for the model and two baselines; AUROC of worse against better by finding."""
    rows = [
        (item.truth.patient_id, truth.change_answer, change_said(finding), key)
        for item in answered
        for key, truth in item.truth.findings.items()
        if key in keys and truth.change_answer is not None and (finding := _finding(item, key)) is not None
    ]
    patients = [patient for patient, *_ in rows]
    commonest = "none"  # most findings are on neither film
    baselines = {"model": [stated_change for *_, stated_change, _ in rows], "majority": [commonest] * len(rows)}
    baselines["nothing has changed"] = [
        "stable" if truth not in ("none", "new") else "none" for _, truth, *_ in rows
    ]  # told which findings the prior shows
    figures: dict[str, Any] = {"answers": len(rows), "pairs": sum(item.truth.has_prior for item in answered)}
    truths = [truth for _, truth, *_ in rows]
    for name, stated in baselines.items():
        figures[name] = _macro_f1(patients, truths, stated)
    scores = class_scores(truths, baselines["model"], COMPARED_CHANGES)
    figures["by state"] = {score.label: round(score.f1, 3) for score in scores}
    worse = {key: _worse_table(answered, [key]) for key in keys}
    worse["all"] = [row for table in worse.values() for row in table]
    figures["worse against better"] = {
        key: auroc_interval(table) for key, table in worse.items() if has_both_classes(table)
    }
    return figures


def _macro_f1(patients: Sequence[str], truths: Sequence[str], said: Sequence[str]) -> Interval:
    return bootstrap_one_by_patient(
        patients,
        lambda chosen: macro_f1(
            class_scores([truths[index] for index in chosen], [said[index] for index in chosen], COMPARED_CHANGES)
        ),
        resamples=RESAMPLES,
    )


def statements(answered: Sequence[Answered]) -> dict[str, int]:
    """Stated presences: hits, false ones, and present findings that were not stated, over the checkpoint's findings."""
    counts = {"hit": 0, "false": 0, "missed": 0, "not asked": 0}
    for item in answered:
        for finding in item.prediction.findings:
            truth = item.truth.findings.get(finding.key)
            if truth is None or truth.current is None:
                continue
            stated = finding.presence.value == "present"
            if finding.key in item.prediction.unstated:
                counts["not asked"] += truth.current.present
            elif truth.current.present:
                counts["hit" if stated else "missed"] += 1
            else:
                counts["false"] += stated
    return counts


def subgroups(answered: Sequence[Answered], records: Sequence[Record], keys: Sequence[str]) -> dict[str, Interval]:
    """Macro AUROC by sex, age band and view."""
    groups: dict[str, list[Answered]] = {}
    for item, record in zip(answered, records, strict=True):
        context = record.context
        age, sex = (context.age_years, context.sex) if context is not None else (None, None)
        names = [f"view {item.truth.view}", f"sex {sex}"]
        if age is not None:
            names.append(f"age {'from' if age >= OLD else 'below'} {OLD}")
        for name in names:
            groups.setdefault(name, []).append(item)
    tables = {
        name: [table for table in (_presence_table(some, key) for key in keys) if has_both_classes(table)]
        for name, some in sorted(groups.items())
    }
    return {name: _macro(some) for name, some in tables.items() if some}


def has_both_classes(table: Sequence[tuple[str, bool, float]]) -> bool:
    return 0 < sum(truth for _, truth, _ in table) < len(table)


def _presence_table(answered: Sequence[Answered], key: str) -> list[tuple[str, bool, float]]:
    return [
        (item.truth.patient_id, truth.current.present, finding.probability)
        for item in answered
        if (truth := item.truth.findings.get(key)) is not None
        and truth.current is not None
        and (finding := _finding(item, key)) is not None
    ]


def _worse_table(answered: Sequence[Answered], keys: Sequence[str]) -> list[tuple[str, bool, float]]:
    return [
        (item.truth.patient_id, truth.change_answer in WORSE, worse_score(finding))
        for item in answered
        for key in keys
        if (truth := item.truth.findings.get(key)) is not None
        and truth.change_answer in WORSE | BETTER
        and (finding := _finding(item, key)) is not None
    ]


def worse_score(said: Finding) -> float:
    """The score of worse against better, from what a prediction holds: log-odds now less log-odds before, and the
    stated degree."""
    if said.prior_probability is None:
        return 0.0
    moved = _log_odds(said.probability) - _log_odds(said.prior_probability)
    degree = {Change.WORSENING: 1.0, Change.IMPROVING: -1.0}.get(said.change, 0.0) if said.change is not None else 0.0
    return moved + degree * (said.change_probability or 0.0)


def _log_odds(probability: float) -> float:
    clipped = min(max(probability, 1e-6), 1.0 - 1e-6)
    return math.log(clipped / (1.0 - clipped))


def _finding(item: Answered, key: str) -> Finding | None:
    return next((finding for finding in item.prediction.findings if finding.key == key), None)


def auroc_interval(table: Sequence[tuple[str, bool, float]]) -> Interval:
    truths, scores = [truth for _, truth, _ in table], [score for *_, score in table]
    return bootstrap_one_by_patient(
        [patient for patient, *_ in table],
        lambda chosen: auroc([truths[index] for index in chosen], [scores[index] for index in chosen]),
        resamples=RESAMPLES,
    )


def _macro(tables: Sequence[Sequence[tuple[str, bool, float]]]) -> Interval:
    """Mean AUROC of several findings; a resample in which one lacks a class does not count."""
    rows = [(patient, number, truth, score) for number, table in enumerate(tables) for patient, truth, score in table]
    kinds = np.array([number for _, number, *_ in rows])
    truths, scores = np.array([row[2] for row in rows]), np.array([row[3] for row in rows])

    def mean(chosen: np.ndarray[Any, np.dtype[np.intp]]) -> float:
        # All findings from the same draw of patients: their figures move together, and so must their mean.
        parts = [chosen[kinds[chosen] == number] for number in range(len(tables))]
        return float(np.mean([auroc(truths[part].tolist(), scores[part].tolist()) for part in parts]))

    return bootstrap_one_by_patient([patient for patient, *_ in rows], mean, resamples=RESAMPLES)
