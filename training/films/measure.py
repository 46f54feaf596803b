"""Figures of single findings on films, with intervals by patient, and what they allow a checkpoint to state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.film_rules import Figure, FilmRule, believe_films
from training.films.fit import PairSample
from training.metrics.classification import auroc

RESAMPLES = 500
MIN_POSITIVES = 12
"""With fewer, a figure decides nothing."""
MIN_AUROC, MIN_LOWER = 0.75, 0.6
"""A finding is stated where its AUROC and the lower limit of its interval reach these, against either kind of label."""
MIN_CHANGES = 20
MIN_WORSE_LOWER = 0.55
"""Change is stated where worse is told from better with at least this lower limit of the AUROC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One film's or pair's score for one finding, its truth, and the patient, who is the unit of the interval."""

    patient: str
    score: float
    truth: bool


def auroc_figure(rows: Sequence[Scored], on: str, *, seed: int = 0) -> Figure | None:
    """AUROC with its 95 % interval by bootstrap over patients; None without both classes."""
    positives = sum(row.truth for row in rows)
    if not 0 < positives < len(rows):
        return None
    scores = np.array([row.score for row in rows])
    truths = np.array([row.truth for row in rows])
    groups = _by_patient(rows)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(groups), len(groups))
        chosen = np.concatenate([groups[place] for place in drawn])
        value = auroc(truths[chosen].tolist(), scores[chosen].tolist())
        if not math.isnan(value):
            values.append(value)
    low, high = np.percentile(values, [2.5, 97.5]) if values else (math.nan, math.nan)
    return Figure(
        value=round(auroc(truths.tolist(), scores.tolist()), 4),
        low=round(float(low), 4),
        high=round(float(high), 4),
        positives=positives,
        on=on,
    )


def worse_log_odds(pair: PairSample, rule: FilmRule) -> float:
    """Log-odds of worse (new, worsening) against better (resolved, improving)."""
    states = believe_films(pair.current.scores, pair.prior.scores, rule).states
    assert states is not None
    worse, better = states["new"] + states["worsening"], states["resolved"] + states["improving"]
    return math.log(max(worse, 1e-12) / max(better, 1e-12))


def allows_presence(figures: Sequence[Figure | None]) -> bool:
    """Tell whether any figure that rests on enough positives allows statements of presence."""
    return any(
        figure is not None
        and figure.positives >= MIN_POSITIVES
        and figure.value >= MIN_AUROC
        and figure.low >= MIN_LOWER
        for figure in figures
    )


def allows_change(figure: Figure | None, pairs: int) -> bool:
    """Tell whether statements of change are allowed; figure: AUROC of worse against better on so many changed pairs."""
    return figure is not None and pairs >= MIN_CHANGES and figure.low >= MIN_WORSE_LOWER


def _by_patient(rows: Sequence[Scored]) -> list[NDArray[np.intp]]:
    places: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        places.setdefault(row.patient, []).append(number)
    return [np.array(found, dtype=np.intp) for found in places.values()]
