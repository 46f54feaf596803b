"""Figures of single findings on films, with intervals by patient, and what they allow a checkpoint to state: a finding,
its change, and from which belief "not seen"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
MAX_MISSED, MAX_MISSED_UPPER = 0.1, 0.2
"""A belief is low enough for "not seen" where at most this share of the films that show the finding lie below it, and
Wilson's upper 95 % limit of that share is at most the second value: too few films allow nothing (ADR 0028)."""
STATED_FROM = 0.5
"""Belief from which a report states a finding (`dicom_node.report.rules.MIN_BELIEF`)."""
Z = 1.96


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
    # Patients are drawn and not films: those of one patient are alike, and the interval would come out too narrow.
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(groups), len(groups))
        chosen = np.concatenate([groups[group] for group in drawn])
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


def measure_misses(rows: Mapping[str, Sequence[Scored]], on: Mapping[str, str]) -> tuple[float, dict[str, Figure]]:
    """`FilmRule.deny_below`, and the shares of films that show the finding below it ("denied") and below the belief
    from which a report states it ("missed"). rows, on: "marks" and "reports" → films with their beliefs, and the words
    for them."""
    kind, positives = choose_positives(rows)
    below = deny_below(positives)
    figures = {
        "denied": missed_figure(positives, below, on[kind]),
        "missed": missed_figure(positives, STATED_FROM, on[kind]),
    }
    return below, {name: figure for name, figure in figures.items() if figure is not None}


def choose_positives(rows: Mapping[str, Sequence[Scored]]) -> tuple[str, list[Scored]]:
    """("marks" or "reports", the films that show the finding): by marks where these are enough, else by reports."""
    positives = {name: [row for row in rows[name] if row.truth] for name in ("marks", "reports")}
    name = "marks" if len(positives["marks"]) >= MIN_POSITIVES else "reports"
    return name, positives[name]


def deny_below(positives: Sequence[Scored]) -> float:
    """The greatest belief below which few enough of these films lie; 0 where no belief is low enough."""
    beliefs = sorted(row.score for row in positives)
    if len(beliefs) < MIN_POSITIVES:
        return 0.0
    allowed = [missed for missed in range(len(beliefs)) if _is_few(missed, len(beliefs))]
    # Rounded down, so that the film at the limit itself is not missed.
    return math.floor(min(beliefs[max(allowed)], STATED_FROM) * 1e3) / 1e3 if allowed else 0.0


def missed_figure(positives: Sequence[Scored], below: float, on: str, *, seed: int = 0) -> Figure | None:
    """The share of these films that are believed less, with its 95 % interval by bootstrap over patients."""
    if not positives:
        return None
    missed = np.array([row.score < below for row in positives])
    groups = _by_patient(positives)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([groups[group] for group in rng.integers(0, len(groups), len(groups))])
        values.append(missed[drawn].mean())
    low, high = np.percentile(values, [2.5, 97.5])
    value = float(missed.mean())
    return Figure(
        value=round(value, 4), low=round(float(low), 4), high=round(float(high), 4), positives=len(positives), on=on
    )


def _by_patient(rows: Sequence[Scored]) -> list[NDArray[np.intp]]:
    places: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        places.setdefault(row.patient, []).append(number)
    return [np.array(row_numbers, dtype=np.intp) for row_numbers in places.values()]


def _is_few(missed: int, of: int) -> bool:
    share, square = missed / of, Z * Z
    middle = share + square / (2 * of)
    half = Z * math.sqrt(share * (1.0 - share) / of + square / (4 * of * of))
    return share <= MAX_MISSED and (middle + half) / (1.0 + square / of) <= MAX_MISSED_UPPER
