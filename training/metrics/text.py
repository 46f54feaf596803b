"""BLEU, ROUGE-L and CIDEr with the definitions of the COCO caption evaluation, so that figures can be compared.

Written from the papers and equal to pycocoevalcap 1.2 on its output for our examples (docs/adr/0004-caption-metrics.md
says why it is no dependency). All functions take tokenised text: words separated by single spaces, from `tokenise`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

MAX_N = 4
"""Longest n-gram."""

_BRACKETS = {"(": " -lrb- ", ")": " -rrb- ", "[": " -lsb- ", "]": " -rsb- ", "{": " -lcb- ", "}": " -rcb- "}
_WORD = re.compile(r"-[lr][rsc]b-|[^\W_]+(?:[-/.,'][^\W_]+)*|'[a-z]+|[%$&+=<>#@*°²³µ~^|\\]")
_CLITIC = re.compile(r"(?<=[a-z])(n't|'(?:s|re|ve|ll|d|m))\b")

Grams = Counter[tuple[str, ...]]


def tokenise(text: str) -> str:
    """Lower-case words separated by spaces, punctuation dropped, as the Penn Treebank tokeniser of COCO leaves them.

    Equal to it on report-like text (tests); brackets stay as "-lrb-" because it forgets to drop them in lower case.
    """
    text = text.lower().replace("’", "'")
    for bracket, name in _BRACKETS.items():
        text = text.replace(bracket, name)
    return " ".join(_WORD.findall(_CLITIC.sub(r" \1", text)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusScore:
    """A metric over a corpus. each: one value for every hypothesis, in order (for paired tests)."""

    value: float
    each: tuple[float, ...]


def grams(tokens: Sequence[str], n: int) -> Grams:
    """Counts of the n-grams."""
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def bleu(references: Sequence[Sequence[str]], said: Sequence[str], *, n: int = MAX_N) -> CorpusScore:
    """Corpus BLEU-n (Papineni et al. 2002): (∏ pₖ)^(1/n)·BP, clipped counts summed over the corpus.

    BP = exp(1 − r/c) where the corpus is shorter than its closest references. Counts are smoothed by 1e-15 / 1e-9,
    which makes an n-gram order without any match a tiny factor, not zero; each: the same of one hypothesis.
    """
    _check(references, said)
    totals = [0] * (2 * n + 2)
    each = []
    for texts, answer in zip(references, said, strict=True):
        counts = bleu_counts([text.split() for text in texts], answer.split(), n)
        each.append(bleu_of_counts(counts, n))
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
    return CorpusScore(value=bleu_of_counts(totals, n), each=tuple(each))


def bleu_counts(references: Sequence[Sequence[str]], answer: Sequence[str], n: int = MAX_N) -> list[int]:
    """[matches of order 1..n, possible of order 1..n, length, closest reference length (the shorter of two equals)]."""
    matches, possible = [], []
    for order in range(1, n + 1):
        of_references: Grams = Counter()
        for reference in references:
            of_references |= grams(reference, order)
        produced = grams(answer, order)
        matches.append((produced & of_references).total())
        possible.append(max(0, len(answer) - order + 1))
    closest = min((abs(len(reference) - len(answer)), len(reference)) for reference in references)[1]
    return [*matches, *possible, len(answer), closest]


def bleu_of_counts(counts: Sequence[float], n: int = MAX_N) -> float:
    """BLEU-n of summed `bleu_counts`; counts of a bootstrap's resample are summed in the same way."""
    product = 1.0
    for order in range(n):
        # The tiny numbers are those of COCO's scorer: they avoid 0/0 and give the same figures as published ones.
        product *= (counts[order] + 1e-15) / (counts[n + order] + 1e-9)
    length, reference = counts[2 * n], counts[2 * n + 1]
    ratio = (length + 1e-15) / (reference + 1e-9)
    # The brevity penalty: a short answer would otherwise win by precision alone.
    shortness = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return math.pow(product, 1 / n) * shortness


def rouge_l(references: Sequence[Sequence[str]], said: Sequence[str], *, beta: float = 1.2) -> CorpusScore:
    """ROUGE-L (Lin 2004): (1 + β²)·P·R / (R + β²·P) from the longest common subsequence, mean over hypotheses.

    P and R are each the best over the references, as COCO takes them.
    """
    _check(references, said)
    each = []
    for texts, answer in zip(references, said, strict=True):
        tokens = answer.split()
        common = [(_longest_common(text.split(), tokens), max(len(text.split()), 1)) for text in texts]
        precision = max(length / max(len(tokens), 1) for length, _ in common)
        recall = max(length / size for length, size in common)
        both = recall + beta**2 * precision
        each.append((1 + beta**2) * precision * recall / both if precision and recall else 0.0)
    return CorpusScore(value=math.fsum(each) / len(each), each=tuple(each))


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            diagonal, row[column] = row[column], (diagonal + 1 if word == other else max(row[column], row[column - 1]))
    return row[-1]


def cider(references: Sequence[Sequence[str]], said: Sequence[str], *, sigma: float = 6.0) -> CorpusScore:
    """CIDEr-D (Vedantam et al. 2015): 10 · mean over n = 1..4 and references of the clipped tf-idf cosine times a
    Gaussian penalty of the length difference; document frequencies from the references of this corpus.

    The value depends on the corpus it is computed over: compare figures of one test set only.
    """
    _check(references, said)
    reference_grams = [[_all_grams(text) for text in texts] for texts in references]
    frequency: Counter[tuple[str, ...]] = Counter()
    for texts in reference_grams:
        # A gram counts once for each image, however many of its references have it.
        frequency.update({gram for counts in texts for gram in counts})
    log_size = math.log(len(references))
    each = []
    for texts, answer in zip(reference_grams, said, strict=True):
        vector = _tf_idf(_all_grams(answer), frequency, log_size)
        scores = [_similarity(vector, _tf_idf(counts, frequency, log_size), sigma) for counts in texts]
        each.append(10 * math.fsum(scores) / (len(scores) * MAX_N))
    return CorpusScore(value=math.fsum(each) / len(each), each=tuple(each))


def _all_grams(text: str) -> Grams:
    tokens = text.split()
    counted: Grams = Counter()
    for n in range(1, MAX_N + 1):
        counted.update(grams(tokens, n))
    return counted


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vector:
    """tf-idf weights by n-gram order, their norms, and the length as COCO counts it (number of bigrams)."""

    weights: tuple[dict[tuple[str, ...], float], ...]
    norms: tuple[float, ...]
    length: int


def _tf_idf(counts: Grams, frequency: Counter[tuple[str, ...]], log_size: float) -> _Vector:
    weights: tuple[dict[tuple[str, ...], float], ...] = tuple({} for _ in range(MAX_N))
    length = 0
    for gram, count in counts.items():
        weights[len(gram) - 1][gram] = count * (log_size - math.log(max(1, frequency[gram])))
        length += count if len(gram) == 2 else 0
    norms = tuple(math.sqrt(math.fsum(value**2 for value in order.values())) for order in weights)
    return _Vector(weights=weights, norms=norms, length=length)


def _similarity(answer: _Vector, reference: _Vector, sigma: float) -> float:
    """Sum over the orders of the clipped cosine, times the length penalty."""
    total = 0.0
    for order in range(MAX_N):
        weights = reference.weights[order]
        product = math.fsum(
            min(value, weights[gram]) * weights[gram]
            for gram, value in answer.weights[order].items()
            if gram in weights
        )
        norms = answer.norms[order] * reference.norms[order]
        total += product / norms if norms else product
    return total * math.exp(-((answer.length - reference.length) ** 2) / (2 * sigma**2))


def _check(references: Sequence[Sequence[str]], said: Sequence[str]) -> None:
    if len(references) != len(said) or not said:
        raise ValueError(f"{len(references)} sets of references and {len(said)} hypotheses")
    if not all(references):
        raise ValueError("a hypothesis has no reference")
