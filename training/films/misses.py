"""How much of a finding a checkpoint misses on films of people, and from which belief "not seen" may be said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from model.film_rules import Figure
from training.films.measure import MIN_POSITIVES, RESAMPLES, Scored

MAX_MISSED, MAX_MISSED_UPPER = 0.1, 0.2
"""A belief is low enough for "not seen" where at most this share of the films that show the finding lie below it, and
Wilson's upper 95 % limit of that share is at most the second value: too few films allow nothing (ADR 0028)."""
STATED_FROM = 0.5
"""Belief from which a report states a finding (`dicom_node.report.rules.MIN_BELIEF`)."""
Z = 1.96


def measure_misses(rows: Mapping[str, Sequence[Scored]], on: Mapping[str, str]) -> tuple[float, dict[str, Figure]]:
    """`FilmRule.deny_below`, and the shares of films that show the finding below it ("denied") and below the belief
    from which a report states it ("missed"). rows, on: "marks" and "reports" → films with their beliefs, and the words
    for them."""
    kind, positives = choose_positives(rows)
    below = deny_below(positives)
    found = {
        "denied": missed_figure(positives, below, on[kind]),
        "missed": missed_figure(positives, STATED_FROM, on[kind]),
    }
    return below, {name: figure for name, figure in found.items() if figure is not None}


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
    names = np.array([row.patient for row in positives])
    groups = [np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([groups[place] for place in rng.integers(0, len(groups), len(groups))])
        values.append(missed[drawn].mean())
    low, high = np.percentile(values, [2.5, 97.5])
    value = float(missed.mean())
    return Figure(
        value=round(value, 4), low=round(float(low), 4), high=round(float(high), 4), positives=len(positives), on=on
    )


def _is_few(missed: int, of: int) -> bool:
    share, square = missed / of, Z * Z
    middle = share + square / (2 * of)
    half = Z * math.sqrt(share * (1.0 - share) / of + square / (4 * of * of))
    return share <= MAX_MISSED and (middle + half) / (1.0 + square / of) <= MAX_MISSED_UPPER
