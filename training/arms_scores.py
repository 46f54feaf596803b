"""Answers of the study's runs → figures of each arm with intervals, and whether two arms differ.

Every figure is a function of sums over answers (counts of n-grams, hits, right answers), so that a resample of patients
is one matrix product. Figures are averaged over the runs (seeds) of an arm, in every resample as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.questions_answers import CHANGE_ANSWERS
from model.questions_grammar import EventKind, Tense, parse_events
from model.schema import INVERSE_CHANGE, Change
from training.arms_asking import AnswerSet, Said
from training.metrics.answers import exact_matches, recalls
from training.metrics.classification import ratio
from training.metrics.significance import Interval, compare
from training.metrics.text import bleu, bleu_counts, bleu_of_counts, cider, rouge_l, tokenise

RESAMPLES = 1000
TOGETHER = (AnswerSet.DIFFERENCE, AnswerSet.PREDICTION)
"""The prognostic sentences that are also scored as one set, as the paper does."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """One figure of one run. sums: float64 [answers, k]; value: of their sum [k]; each: score of each answer by key."""

    pairs: NDArray[np.intp]
    sums: NDArray[np.float64]
    value: Callable[[NDArray[np.float64]], float]
    each: Mapping[str, float]


def measure_run(said: Sequence[Said]) -> dict[str, Measured]:
    """Every figure of one run by name; a figure without an answer is left out."""
    of = {kind: [item for item in said if item.set is kind] for kind in AnswerSet}
    figures: dict[str, Measured] = {}
    if closed := of[AnswerSet.CLOSED]:
        figures["closed accuracy"] = _mean(closed, exact_matches([i.truth for i in closed], [i.said for i in closed]))
    if opened := of[AnswerSet.OPEN]:
        figures["open recall"] = _mean(opened, recalls([i.truth for i in opened], [i.said for i in opened]))
    together = [item for kind in TOGETHER for item in of[kind]]
    for name, items in (
        ("difference", of[AnswerSet.DIFFERENCE]),
        ("prediction", of[AnswerSet.PREDICTION]),
        ("together", together),
        ("prediction, both images", of[AnswerSet.PREDICTION_BOTH]),
    ):
        if items:
            figures |= {f"{name} {metric}": found for metric, found in _texts(items).items()}
    if differences := of[AnswerSet.DIFFERENCE]:
        figures["event F1"] = _events(differences)
    if changes := of[AnswerSet.CHANGE]:
        figures["change macro F1"] = _changes(changes)
        figures["order-swap"] = _mean(changes, [float(_inverse(i.said) == i.back) for i in changes])
        stated = [i for i in changes if {i.truth, i.said, i.back} != {"none"}]
        figures["order-swap, changed"] = _mean(stated, [float(_inverse(i.said) == i.back) for i in stated])
    return figures


def _keyed(items: Sequence[Said], scores: Sequence[float]) -> dict[str, float]:
    return {f"{item.set.value}/{item.key}": float(score) for item, score in zip(items, scores, strict=True)}


def _places(items: Sequence[Said]) -> NDArray[np.intp]:
    return np.array([item.pair for item in items], dtype=np.intp)


def _mean(items: Sequence[Said], scores: Sequence[float]) -> Measured:
    sums = np.stack([np.asarray(scores, float), np.ones(len(items))], axis=1)
    return Measured(
        pairs=_places(items), sums=sums, value=lambda s: ratio(float(s[0]), float(s[1])), each=_keyed(items, scores)
    )


def _texts(items: Sequence[Said]) -> dict[str, Measured]:
    references = [[tokenise(item.truth)] for item in items]
    answers = [tokenise(item.said) for item in items]
    counts = [bleu_counts([text.split() for text in r], a.split()) for r, a in zip(references, answers, strict=True)]
    of_bleu = Measured(
        pairs=_places(items),
        sums=np.asarray(counts, float),
        value=lambda s: bleu_of_counts(s.tolist()),
        each=_keyed(items, bleu(references, answers).each),
    )
    return {
        "BLEU-4": of_bleu,
        "ROUGE-L": _mean(items, rouge_l(references, answers).each),
        "CIDEr": _mean(items, cider(references, answers).each),
    }


def _events(items: Sequence[Said]) -> Measured:
    """Events as (kind, finding, direction); each: F1 of one answer, 1 where neither names a change."""
    sums, each = [], []
    for item in items:
        true, said = _event_keys(item.truth), _event_keys(item.said)
        hits = len(true & said)
        sums.append([2.0 * hits, float(len(true) + len(said))])
        each.append(2 * hits / (len(true) + len(said)) if true or said else 1.0)
    return Measured(
        pairs=_places(items),
        sums=np.asarray(sums),
        value=lambda s: ratio(float(s[0]), float(s[1])),
        each=_keyed(items, each),
    )


def _event_keys(text: str) -> set[tuple[str, str, str]]:
    return {
        (event.kind.value, event.finding, event.change.value if event.change else "")
        for event in parse_events(text, Tense.DIFFERENCE).events
        if event.kind is not EventKind.NONE
    }


def _changes(items: Sequence[Said]) -> Measured:
    """Macro F1 over the changes that occur; each: right or wrong."""
    size = len(CHANGE_ANSWERS)
    sums = np.zeros((len(items), size * size))
    for row, item in enumerate(items):
        sums[row, CHANGE_ANSWERS.index(item.truth) * size + CHANGE_ANSWERS.index(item.said)] = 1
    right = [float(item.truth == item.said) for item in items]
    return Measured(pairs=_places(items), sums=sums, value=_macro_f1, each=_keyed(items, right))


def _macro_f1(sums: NDArray[np.float64]) -> float:
    size = len(CHANGE_ANSWERS)
    table = sums.reshape(size, size)
    true, said, hits = table.sum(1), table.sum(0), np.diag(table)
    occurs = true > 0
    return float(np.mean(2 * hits[occurs] / (true[occurs] + said[occurs]))) if occurs.any() else float("nan")


def _inverse(stated: str) -> str:
    return stated if stated == "none" else INVERSE_CHANGE[Change(stated)].value


def arm_figures(runs: Sequence[Mapping[str, Measured]], *, seed: int = 0) -> dict[str, Interval]:
    """Each figure averaged over the runs, with its 95 % interval from a bootstrap over patients (= pairs here)."""
    return {name: _interval([run[name] for run in runs], seed) for name in runs[0]}


def _interval(runs: Sequence[Measured], seed: int) -> Interval:
    pairs = int(max(run.pairs.max() for run in runs)) + 1
    by_pair = [_summed(run, pairs) for run in runs]
    value = float(np.mean([run.value(sums.sum(0)) for run, sums in zip(runs, by_pair, strict=True)]))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(pairs, np.full(pairs, 1 / pairs), size=RESAMPLES).astype(float)
    resampled = [drawn @ sums for sums in by_pair]
    scores = [
        float(np.mean([run.value(part[row]) for run, part in zip(runs, resampled, strict=True)]))
        for row in range(RESAMPLES)
    ]
    finite = [score for score in scores if np.isfinite(score)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite else (float("nan"), float("nan"))
    return Interval(value=value, low=float(low), high=float(high), resamples=len(finite))


def _summed(run: Measured, pairs: int) -> NDArray[np.float64]:
    sums = np.zeros((pairs, run.sums.shape[1]))
    np.add.at(sums, run.pairs, run.sums)
    return sums


def p_values(first: Sequence[Mapping[str, Measured]], second: Sequence[Mapping[str, Measured]]) -> dict[str, float]:
    """Two-sided Wilcoxon signed-rank p of each figure: runs averaged for each answer, then the two arms paired.

    Left out where the two do not score the same answers ("order-swap, changed" depends on what was said).
    """
    result = {}
    for name in first[0]:
        a, b = [run[name].each for run in first], [run[name].each for run in second]
        if all(set(run) == set(a[0]) for run in (*a, *b)):
            result[name] = compare(a, b).p
    return result
