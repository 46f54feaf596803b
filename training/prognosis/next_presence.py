"""Ranking of films by whether a finding is on the next one: AUROC by setting, with intervals by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.metrics.classification import auroc
from training.metrics.forecasts import Shares
from training.prognosis.fit import PrognosisCase

RESAMPLES = 300
PRESENT_NEXT = ("new", "stable", "worsening", "improving")
"""Answers after which the finding is on the next film."""
Ends = tuple[float, float, float]
"""A value with the ends of its 95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextPresence:
    """One setting. macro: mean over the findings. by_finding: of each. gain: the macro figure less that of the first
    setting, on the same draws of patients (None for the first)."""

    setting: str
    macro: Ends
    by_finding: Mapping[str, Ends]
    gain: Ends | None = None


def rank_settings(
    cases: Sequence[tuple[str, PrognosisCase]], shares: Mapping[str, Sequence[Shares]], findings: Sequence[str]
) -> list[NextPresence]:
    """Score each setting (name → the shares given for each case). Cases in which a finding is not known later are left
    out of its figure; a finding that never comes, or always, has none (not a number) and is no part of the mean."""
    names = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in cases))}
    patients = np.array([names[name] for name, _ in cases])
    came = np.array([[case.came.get(key) in PRESENT_NEXT for key in findings] for _, case in cases])
    known = np.array([[key in case.came for key in findings] for _, case in cases])
    rng = np.random.default_rng(0)
    rows_of = [np.flatnonzero(patients == number) for number in range(len(names))]
    draws = [
        np.concatenate([rows_of[number] for number in rng.integers(len(names), size=len(names))])
        for _ in range(RESAMPLES)
    ]
    ranks: list[NextPresence] = []
    first: NDArray[np.float64] | None = None
    for setting, given in shares.items():
        probabilities = np.array(
            [[sum(prediction[key].get(a, 0.0) for a in PRESENT_NEXT) for key in findings] for prediction in given]
        )
        whole = _aurocs(probabilities, came, known)
        drawn = np.stack([_aurocs(probabilities[rows], came[rows], known[rows]) for rows in draws])
        # The same draws for every setting: a gain is the difference within a draw, and its interval that of the pair.
        macros = np.append(np.nanmean(whole), np.nanmean(drawn, axis=1))
        ranks.append(
            NextPresence(
                setting=setting,
                macro=_ends(macros),
                by_finding={
                    key: _ends(np.append(whole[column], drawn[:, column]))
                    for column, key in enumerate(findings)
                    if not np.isnan(whole[column])
                },
                gain=None if first is None else _ends(macros - first),
            )
        )
        first = macros if first is None else first
    return ranks


def _ends(values: NDArray[np.float64]) -> Ends:
    """The first value with the interval of the others."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


def _aurocs(said: NDArray[np.float64], came: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The AUROC of each finding over the rows where it is known, not a number where one class is missing."""
    values = np.full(said.shape[1], np.nan)
    for column in range(said.shape[1]):
        rows = known[:, column]
        if 0 < came[rows, column].sum() < rows.sum():
            values[column] = auroc(came[rows, column], said[rows, column])
    return values


def rank_lines(ranks: Sequence[NextPresence]) -> list[str]:
    """Markdown: macro figures and gains, then a row for each finding."""
    lines = ["| setting | AUROC of presence on the next film, macro | gain over the first row |", "|---|---|---|"]
    lines += [f"| {rank.setting} | {_text(rank.macro)} | {_text(rank.gain) if rank.gain else '-'} |" for rank in ranks]
    lines += ["", f"| finding | {' | '.join(rank.setting for rank in ranks)} |", "|---" * (len(ranks) + 1) + "|"]
    for key in ranks[0].by_finding if ranks else ():
        cells = " | ".join(_text(rank.by_finding[key]) for rank in ranks)
        lines.append(f"| {key.replace('_', ' ')} | {cells} |")
    return lines


def _text(ends: Ends) -> str:
    value, low, high = ends
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
