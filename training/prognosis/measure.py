"""Quality of predictions of the next image: by setting, against the commonest answer and the ceiling, by patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.prognosis.inputs import Known
from training.metrics.significance import compare
from training.prognosis.fit import PrognosisCase

Shares = Mapping[str, Mapping[str, float]]
"""Finding -> probability of each answer."""
BINS = 10
"""Of the calibration error."""


def in_setting(known: Known, setting: str) -> Known:
    """The part that a reader of this setting (`model.prognosis.inputs.SETTINGS`) knows of it."""
    images, _, chart = setting.partition(" and ")
    shown = known.newest({"current": 1, "both": 2}.get(images, len(known.readings)))
    return shown if chart else replace(shown, context=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingScore:
    """One setting. Intervals are of 95 %, patients drawn with replacement.

    accuracy, common, ceiling: shares of right answers of the model, of always the commonest answer of each finding, and
    of the best possible reader of this setting (None where nobody can know it). skill: (accuracy - common) / (ceiling -
    common). ece: calibration error of the likeliest answers. log_loss: mean over answers. by_finding: accuracy, common,
    ceiling. p: paired test (Wilcoxon, by patient) against the setting before it.
    """

    setting: str
    answers: int
    accuracy: tuple[float, float, float]
    common: float
    ceiling: float | None
    skill: tuple[float, float, float] | None
    ece: float
    log_loss: float
    by_finding: Mapping[str, tuple[float, float, float | None]]
    p: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _MeasureTable:
    """One row for each answer: patient, finding, right, commonest right, best possible right, certainty, probability of
    what came."""

    patients: NDArray[np.int64]
    keys: NDArray[np.str_]
    right: NDArray[np.bool_]
    common: NDArray[np.bool_]
    best: NDArray[np.bool_] | None
    certainty: NDArray[np.float64]
    came: NDArray[np.float64]


def measure(
    cases: Sequence[tuple[str, PrognosisCase]],
    predict: Callable[[Known], Shares],
    settings: Sequence[str],
    commonest: Mapping[str, str],
    *,
    best: Callable[[int, str], Shares] | None = None,
    resamples: int = 1000,
) -> list[SettingScore]:
    """Score each setting on the same cases. cases: (patient, case). best: case's number and setting -> best answers."""
    scores: list[SettingScore] = []
    before: dict[str, float] | None = None
    for setting in settings:
        table = _table(cases, predict, setting, commonest, best)
        score, by_patient = _score(setting, table, resamples)
        shares = {str(number): float(share) for number, share in enumerate(by_patient)}
        scores.append(replace(score, p=compare([before], [shares]).p if before is not None else None))
        before = shares
    return scores


def commonest_answers(cases: Sequence[PrognosisCase]) -> dict[str, str]:
    """Finding -> the answer that came most often, of equal ones the alphabetically first."""
    counts: dict[str, Counter[str]] = {}
    for case in cases:
        for key, answer in case.came.items():
            counts.setdefault(key, Counter())[answer] += 1
    return {key: min(found, key=lambda word: (-found[word], word)) for key, found in counts.items()}


def _table(
    cases: Sequence[tuple[str, PrognosisCase]],
    predict: Callable[[Known], Shares],
    setting: str,
    commonest: Mapping[str, str],
    best: Callable[[int, str], Shares] | None,
) -> _MeasureTable:
    patients = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in cases))}
    rows = []
    for number, (name, case) in enumerate(cases):
        said = predict(in_setting(case.known, setting))
        ideal = best(number, setting) if best is not None else None
        for key, answer in case.came.items():
            top = likeliest(said[key])
            ideal_right = None if ideal is None else likeliest(ideal[key]) == answer
            rows.append(
                (
                    patients[name],
                    key,
                    top == answer,
                    commonest.get(key) == answer,
                    ideal_right,
                    said[key][top],
                    said[key].get(answer, 0.0),
                )
            )
    columns = list(zip(*rows, strict=True))
    return _MeasureTable(
        patients=np.array(columns[0]),
        keys=np.array(columns[1]),
        right=np.array(columns[2]),
        common=np.array(columns[3]),
        best=np.array(columns[4]) if best is not None else None,
        certainty=np.array(columns[5]),
        came=np.array(columns[6]),
    )


def likeliest(shares: Mapping[str, float]) -> str:
    """The answer with the greatest share, of equal ones the first."""
    return max(shares, key=lambda answer: shares[answer])


def _score(setting: str, table: _MeasureTable, resamples: int) -> tuple[SettingScore, NDArray[np.float64]]:
    count = int(table.patients.max()) + 1
    totals = np.bincount(table.patients, minlength=count).astype(float)
    columns = [table.right, table.common, *([table.best] if table.best is not None else [])]
    sums = [np.bincount(table.patients, values.astype(float), minlength=count) for values in columns]
    rng = np.random.default_rng(0)
    drawn = rng.integers(count, size=(resamples, count))
    accuracies = [values[drawn].sum(1) / totals[drawn].sum(1) for values in sums]
    whole = [float(values.sum() / totals.sum()) for values in sums]
    skill = None
    if table.best is not None:
        spread = (accuracies[0] - accuracies[1]) / (accuracies[2] - accuracies[1])
        skill = ((whole[0] - whole[1]) / (whole[2] - whole[1]), *_interval(spread))
    by_finding: dict[str, tuple[float, float, float | None]] = {}
    for key in dict.fromkeys(table.keys.tolist()):
        own = table.keys == key
        ceiling = float(table.best[own].mean()) if table.best is not None else None
        by_finding[key] = (float(table.right[own].mean()), float(table.common[own].mean()), ceiling)
    score = SettingScore(
        setting=setting,
        answers=len(table.right),
        accuracy=(whole[0], *_interval(accuracies[0])),
        common=whole[1],
        ceiling=None if table.best is None else whole[2],
        skill=skill,
        ece=calibration_error(table.certainty, table.right),
        log_loss=float(-np.log(np.clip(table.came, 1e-6, 1.0)).mean()),
        by_finding=by_finding,
    )
    return score, sums[0] / totals


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def calibration_error(certainty: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean distance of certainty and share of right answers over BINS bins of equal counts."""
    order = np.argsort(certainty, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return float(sum(len(p) * abs(certainty[p].mean() - right[p].mean()) for p in parts) / len(order))


def as_table(scores: Sequence[SettingScore]) -> list[str]:
    """Markdown lines."""
    lines = [
        "| setting | accuracy | always the commonest | ceiling | skill | calibration error | log loss | p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for score in scores:
        skill = "-" if score.skill is None else f"{score.skill[0]:.2f} ({score.skill[1]:.2f}-{score.skill[2]:.2f})"
        ceiling = "-" if score.ceiling is None else f"{score.ceiling:.3f}"
        p = "-" if score.p is None else "< 0.001" if score.p < 0.001 else f"{score.p:.3f}"
        value, low, high = score.accuracy
        lines.append(
            f"| {score.setting} | {value:.3f} ({low:.3f}-{high:.3f}) | {score.common:.3f} | {ceiling} | {skill} "
            f"| {score.ece:.3f} | {score.log_loss:.3f} | {p} |"
        )
    return lines
