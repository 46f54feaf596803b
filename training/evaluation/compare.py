"""Comparison of two systems on the same questions, from the evaluation.json files of their runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.metrics.significance import Comparison, average_runs, compare
from training.metrics.summed import interval, mean_figure
from training.records.drops import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureComparison:
    """One figure of two systems. low, high: 95 % interval of the difference, patients drawn with replacement."""

    name: str
    comparison: Comparison
    low: float
    high: float

    def line(self) -> str:
        """As one line."""
        comparison = self.comparison
        return (
            f"{self.name} {comparison.first:.4f} → {comparison.second:.4f}, difference {comparison.difference:+.4f}, "
            f"two-sided p = {comparison.p:.3g}, {comparison.n} questions; 95 % interval of the difference by patient "
            f"{self.low:+.4f} to {self.high:+.4f}"
        )


def compare_reports(first: Sequence[Path], second: Sequence[Path]) -> list[FigureComparison]:
    """Every figure that all runs of both systems have; runs (seeds) of one system are averaged for each answer first.

    Raises DataError where a file is no evaluation.json, where two runs answered other questions, or nothing is shared.
    """
    reports = {path: _read(path) for path in (*first, *second)}
    shared = [name for name in reports[first[0]][0] if all(name in scores for scores, _ in reports.values())]
    if not shared:
        raise DataError("the reports share no figure that has a score for each answer")
    patients: dict[str, str] = {}
    for _, known in reports.values():
        patients |= known
    try:
        return [
            _compare_figure(name, [reports[p][0][name] for p in first], [reports[p][0][name] for p in second], patients)
            for name in shared
        ]
    except ValueError as error:
        raise DataError(str(error)) from error


def _compare_figure(
    name: str,
    first: Sequence[Mapping[str, float]],
    second: Sequence[Mapping[str, float]],
    patients: Mapping[str, str],
) -> FigureComparison:
    comparison = compare(first, second)
    before, after = average_runs(first), average_runs(second)
    keys = list(before)
    owners = [patient_of(key, patients) for key in keys]
    # The test is over answers; the interval is by patient, because answers on one patient are not independent.
    spread = interval([mean_figure(keys, owners, [after[key] - before[key] for key in keys])])
    return FigureComparison(name=name, comparison=comparison, low=spread.low, high=spread.high)


def patient_of(key: str, patients: Mapping[str, str]) -> str:
    """The patient of an answer: the key is its record's id, or that and the question behind slashes."""
    record = key
    while record and record not in patients:
        record = record.rpartition("/")[0]
    return patients.get(record, key)


def _read(path: Path) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    try:
        values: Any = json.loads(path.read_text("utf-8"))
        scores = values.get("per_answer") or {"findings accuracy": values["per_question"]}
        figures = {str(name): {str(k): float(v) for k, v in each.items()} for name, each in scores.items()}
        return figures, {str(k): str(v) for k, v in values.get("patients", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no evaluation.json: {error}") from error
