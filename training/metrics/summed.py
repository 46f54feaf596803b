"""Figures that are functions of sums over answers: one matrix product resamples them, patients drawn with replacement.

BLEU is a function of summed n-gram counts, an F1 of summed hits, an accuracy of a sum and a count; each is computed
over a whole corpus from its columns, so a bootstrap needs no text twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.questions.grammar import EventKind, Tense, parse_events
from training.metrics.classification import ratio
from training.metrics.significance import FEW_PATIENTS, Interval
from training.metrics.text import bleu, bleu_counts, bleu_of_counts, cider, rouge_l, tokenise

PROGRESSIONS = ("improving", "stable", "worsening")
"""MS-CXR-T's labels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SummedFigure:
    """One figure of one run. patients: of each answer. sums: float64 [answers, k]; value: of a sum of rows [k].

    each: the score of each answer by key, for paired tests.
    """

    patients: tuple[str, ...]
    sums: NDArray[np.float64]
    value: Callable[[NDArray[np.float64]], float]
    each: Mapping[str, float]

    def total(self) -> float:
        """The figure over all answers."""
        return self.value(self.sums.sum(0))


def mean_figure(keys: Sequence[str], patients: Sequence[str], scores: Sequence[float]) -> SummedFigure:
    """The mean of scores."""
    sums = np.stack([np.asarray(scores, float), np.ones(len(scores))], axis=1)
    return SummedFigure(
        patients=tuple(patients),
        sums=sums,
        value=lambda s: ratio(float(s[0]), float(s[1])),
        each=dict(zip(keys, map(float, scores), strict=True)),
    )


def text_figures(
    keys: Sequence[str], patients: Sequence[str], truth: Sequence[str], said: Sequence[str]
) -> dict[str, SummedFigure]:
    """BLEU-4 of the corpus, ROUGE-L and CIDEr as means over it (CIDEr's document frequencies are the corpus's own)."""
    references, answers = [[tokenise(text)] for text in truth], [tokenise(text) for text in said]
    counts = [bleu_counts([text.split() for text in r], a.split()) for r, a in zip(references, answers, strict=True)]
    of_bleu = SummedFigure(
        patients=tuple(patients),
        sums=np.asarray(counts, float),
        value=lambda s: bleu_of_counts(s.tolist()),
        each=dict(zip(keys, bleu(references, answers).each, strict=True)),
    )
    return {
        "BLEU-4": of_bleu,
        "ROUGE-L": mean_figure(keys, patients, rouge_l(references, answers).each),
        "CIDEr": mean_figure(keys, patients, cider(references, answers).each),
    }


def event_figure(
    keys: Sequence[str],
    patients: Sequence[str],
    truth: Sequence[str],
    said: Sequence[str],
    *,
    tense: Tense = Tense.DIFFERENCE,
) -> SummedFigure:
    """Micro F1 of events (kind, finding, direction); each: F1 of one answer, 1 where neither side names a change."""
    sums, each = [], []
    for true_text, said_text in zip(truth, said, strict=True):
        true, stated = _events(true_text, tense), _events(said_text, tense)
        hits, size = len(true & stated), len(true) + len(stated)
        sums.append([2.0 * hits, float(size)])
        each.append(2 * hits / size if size else 1.0)
    return SummedFigure(
        patients=tuple(patients),
        sums=np.asarray(sums).reshape(-1, 2),
        value=lambda s: ratio(float(s[0]), float(s[1])),
        each=dict(zip(keys, each, strict=True)),
    )


def progression_figures(
    keys: Sequence[str], patients: Sequence[str], findings: Sequence[str], truth: Sequence[str], said: Sequence[str]
) -> dict[str, SummedFigure]:
    """MS-CXR-T's macro accuracy of each finding (mean recall of the progressions that occur), and "macro" over them."""
    known, size = list(dict.fromkeys(findings)), len(PROGRESSIONS)
    # For each answer and finding (right, asked), in the column of the true progression: from sums over the rows of a
    # resample every recall follows.
    sums = np.zeros((len(truth), len(known), 2, size))
    for row, (finding, true, answer) in enumerate(zip(findings, truth, said, strict=True)):
        column = PROGRESSIONS.index(true)
        sums[row, known.index(finding), :, column] = (float(true == answer), 1.0)
    right = dict(zip(keys, (float(t == s) for t, s in zip(truth, said, strict=True)), strict=True))

    def mean_recall(table: NDArray[np.float64]) -> float:
        occurs = table[1] > 0
        return float((table[0][occurs] / table[1][occurs]).mean()) if occurs.any() else float("nan")

    def macro(total: NDArray[np.float64]) -> float:
        return float(np.mean([mean_recall(table) for table in total.reshape(len(known), 2, size)]))

    def figure(columns: NDArray[np.float64], value: Callable[[NDArray[np.float64]], float]) -> SummedFigure:
        return SummedFigure(patients=tuple(patients), sums=columns.reshape(len(truth), -1), value=value, each=right)

    each = {
        finding: figure(sums[:, number], lambda total: mean_recall(total.reshape(2, size)))
        for number, finding in enumerate(known)
    }
    return {**each, "macro": figure(sums, macro)} if known else {}


def _events(text: str, tense: Tense) -> set[tuple[str, str, str]]:
    return {
        (event.kind.value, event.finding, event.change.value if event.change else "")
        for event in parse_events(text, tense).events
        if event.kind is not EventKind.NONE
    }


def interval(runs: Sequence[SummedFigure], *, resamples: int = 1000, seed: int = 0) -> Interval:
    """A figure averaged over runs with its 95 % percentile interval; the same patients are drawn for every run.

    NaN throughout where nothing was answered.
    """
    everybody = sorted({patient for run in runs for patient in run.patients})
    if not everybody:
        return Interval(value=float("nan"), low=float("nan"), high=float("nan"), resamples=0)
    number_of = {patient: number for number, patient in enumerate(everybody)}
    by_patient = []
    for run in runs:
        sums = np.zeros((len(everybody), run.sums.shape[1]))
        np.add.at(sums, [number_of[patient] for patient in run.patients], run.sums)
        by_patient.append(sums)
    value = float(np.mean([run.total() for run in runs]))
    rng = np.random.default_rng(seed)
    # Drawing patients with replacement counts each so many times: sums of a resample are then one product of matrices.
    drawn = rng.multinomial(len(everybody), np.full(len(everybody), 1 / len(everybody)), size=resamples).astype(float)
    resample_rows = np.arange(resamples)
    if len(everybody) <= FEW_PATIENTS:
        drawn, resample_rows = np.unique(drawn, axis=0, return_inverse=True)  # each resample once
    tables = [drawn @ sums for sums in by_patient]
    scores = [
        float(np.mean([run.value(table[row]) for run, table in zip(runs, tables, strict=True)]))
        for row in range(len(drawn))
    ]
    finite = [scores[row] for row in resample_rows if np.isfinite(scores[row])]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite else (float("nan"), float("nan"))
    return Interval(value=value, low=float(low), high=float(high), resamples=len(finite))
