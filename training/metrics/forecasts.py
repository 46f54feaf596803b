"""Figures of predictions of the next image by setting, against the commonest answer and the best possible one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.metrics.significance import compare

Shares = Mapping[str, Mapping[str, float]]
"""Finding -> probability of each answer."""
BINS = 10
"""Of the calibration error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastRow:
    """One answer. right: the model's; common: the commonest answer's; best: the best possible reader's (None where
    nobody can know it). certainty: of what was said, came: probability that was given to what came; None where the
    model gives none."""

    patient: str
    key: str
    right: bool
    common: bool
    best: bool | None
    certainty: float | None
    came: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingScore:
    """One setting. Intervals are of 95 %, patients drawn with replacement.

    accuracy, common, ceiling: shares of right answers of the model, of always the commonest answer of each finding, and
    of the best possible reader of this setting (None where nobody can know it). skill: (accuracy - common) / (ceiling -
    common), None where the ceiling is not above it. ece: calibration error of the likeliest answers that have a
    certainty. log_loss: mean over answers, None where not every one has a probability. by_finding: accuracy, common,
    ceiling. p: paired test (Wilcoxon, by patient) against the setting before it.
    """

    setting: str
    answers: int
    accuracy: tuple[float, float, float]
    common: float
    ceiling: float | None
    skill: tuple[float, float, float] | None
    ece: float
    log_loss: float | None
    by_finding: Mapping[str, tuple[float, float, float | None]]
    p: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _ForecastTable:
    """The rows as columns."""

    patients: NDArray[np.int64]
    keys: NDArray[np.str_]
    right: NDArray[np.bool_]
    common: NDArray[np.bool_]
    best: NDArray[np.bool_] | None
    certainty: NDArray[np.float64]
    came: NDArray[np.float64]


def score_settings(rows: Mapping[str, Sequence[ForecastRow]], *, resamples: int = 1000) -> list[SettingScore]:
    """Score each setting (name -> its rows, the same answers in the same order); p compares it with the one before."""
    scores: list[SettingScore] = []
    before: dict[str, float] | None = None
    for setting, own in rows.items():
        score, by_patient = _score(setting, own, resamples)
        shares = {str(number): float(share) for number, share in enumerate(by_patient)}
        scores.append(replace(score, p=compare([before], [shares]).p if before is not None else None))
        before = shares
    return scores


def _table(rows: Sequence[ForecastRow]) -> _ForecastTable:
    patients = {name: number for number, name in enumerate(dict.fromkeys(row.patient for row in rows))}
    # Ceilings are known for phantom courses only; a column that is known in part would compare different cases.
    is_known = all(row.best is not None for row in rows)
    return _ForecastTable(
        patients=np.array([patients[row.patient] for row in rows]),
        keys=np.array([row.key for row in rows]),
        right=np.array([row.right for row in rows]),
        common=np.array([row.common for row in rows]),
        best=np.array([bool(row.best) for row in rows]) if is_known else None,
        certainty=np.array([np.nan if row.certainty is None else row.certainty for row in rows]),
        came=np.array([np.nan if row.came is None else row.came for row in rows]),
    )


def likeliest(shares: Mapping[str, float]) -> str:
    """The answer with the greatest share, of equal ones the first."""
    return max(shares, key=lambda answer: shares[answer])


def _score(setting: str, rows: Sequence[ForecastRow], resamples: int) -> tuple[SettingScore, NDArray[np.float64]]:
    table = _table(rows)
    count = int(table.patients.max()) + 1
    totals = np.bincount(table.patients, minlength=count).astype(float)
    columns = [table.right, table.common, *([table.best] if table.best is not None else [])]
    sums = [np.bincount(table.patients, values.astype(float), minlength=count) for values in columns]
    rng = np.random.default_rng(0)
    drawn = rng.integers(count, size=(resamples, count))
    # A patient is drawn with all of his answers. The ratio of the sums, not the mean of ratios, because that is the
    # figure whose interval is asked for.
    accuracies = [values[drawn].sum(1) / totals[drawn].sum(1) for values in sums]
    whole = [float(values.sum() / totals.sum()) for values in sums]
    skill = None
    if table.best is not None and whole[2] > whole[1]:  # else nothing can be foretold that is not the commonest
        room = accuracies[2] - accuracies[1]
        # A resample in which the best reader is no better than the commonest answer has no skill to speak of.
        spread = (accuracies[0] - accuracies[1])[room > 0] / room[room > 0]
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
        ece=_error_of_sure(table),
        log_loss=None if np.isnan(table.came).any() else float(-np.log(np.clip(table.came, 1e-6, 1.0)).mean()),
        by_finding=by_finding,
    )
    return score, sums[0] / totals


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _error_of_sure(table: _ForecastTable) -> float:
    """The calibration error of the rows that have a certainty; 0 where none has."""
    sure = ~np.isnan(table.certainty)
    return calibration_error(table.certainty[sure], table.right[sure]) if sure.any() else 0.0


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
        loss = "-" if score.log_loss is None else f"{score.log_loss:.3f}"
        ceiling = "-" if score.ceiling is None else f"{score.ceiling:.3f}"
        p = "-" if score.p is None else "< 0.001" if score.p < 0.001 else f"{score.p:.3f}"
        value, low, high = score.accuracy
        lines.append(
            f"| {score.setting} | {value:.3f} ({low:.3f}-{high:.3f}) | {score.common:.3f} | {ceiling} | {skill} "
            f"| {score.ece:.3f} | {loss} | {p} |"
        )
    return lines
