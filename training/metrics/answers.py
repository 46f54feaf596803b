"""Metrics of single answers: closed accuracy, open recall, and events and findings of difference answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model.ontology import ontology
from model.questions.grammar import EventKind, ParsedEvents, Tense, parse_events
from model.schema import Change
from training.metrics.classification import macro_accuracy, ratio

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
}
_TOKEN = re.compile(r"[^\W_]+")


def normalise_answer(text: str) -> list[str]:
    """Lower-case words without punctuation and articles, number words as digits (LUMEN.md section 5.10)."""
    words = (_NUMBERS.get(word, word) for word in _TOKEN.findall(text.lower()))
    return [word for word in words if word not in _ARTICLES]


def closed_accuracy(truth: Sequence[str], said: Sequence[str]) -> float:
    """Share of answers equal to the truth after `normalise_answer`."""
    return ratio(sum(exact_matches(truth, said)), len(truth))


def exact_matches(truth: Sequence[str], said: Sequence[str]) -> list[float]:
    """1 or 0 for each answer, for paired tests."""
    return [float(normalise_answer(t) == normalise_answer(s)) for t, s in zip(truth, said, strict=True)]


def open_recall(truth: Sequence[str], said: Sequence[str]) -> float:
    """Mean over answers of the share of the truth's words (with repetition) that the answer holds."""
    return ratio(sum(recalls(truth, said)), len(truth))


def recalls(truth: Sequence[str], said: Sequence[str]) -> list[float]:
    """Unigram recall of each answer; 1 where the truth is empty of words."""
    values = []
    for true, answer in zip(truth, said, strict=True):
        true_tokens, given = Counter(normalise_answer(true)), Counter(normalise_answer(answer))
        # The common part of two counters has the smaller count: a word said twice counts twice only where the truth has
        # it twice.
        values.append((true_tokens & given).total() / true_tokens.total() if true_tokens else 1.0)
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScore:
    """Precision, recall and F1 = 2·TP / (2·TP + FP + FN) over sets; NaN where 0/0."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceScores:
    """The agreement of difference (or prediction) answers with the reference.

    events: an event counts where kind, finding and (for degrees) direction agree. findings: only which of them
    changed. finding_f1_macro: mean over the findings that occur in the truth. change_accuracy: share of answers with
    the right verdict on whether anything changed at all. exact: share with the same event set. unparsed: share of
    model answers that the grammar does not fully read. An unreadable truth is an error of the caller, not of the model.
    """

    events: SetScore
    findings: SetScore
    finding_f1_macro: float
    by_finding: dict[str, SetScore]
    by_kind: dict[str, SetScore]
    change_accuracy: float
    exact: float
    unparsed: float
    answers: int


_Key = tuple[str, str, str]


def difference_scores(truth: Sequence[str], said: Sequence[str], tense: Tense = Tense.DIFFERENCE) -> DifferenceScores:
    """Score difference answers as text; raises ValueError where a truth does not parse."""
    true = [parse_events(text, tense) for text in truth]
    for text, parsed in zip(truth, true, strict=True):
        if not parsed.complete:
            raise ValueError(f"the true answer {text!r} is not of the grammar")
    answered = [parse_events(text, tense) for text in said]
    pairs = [(_keys(t), _keys(s)) for t, s in zip(true, answered, strict=True)]
    by_finding = {
        key: _score([(_of(t, 1, key), _of(s, 1, key)) for t, s in pairs])
        for key in ontology().findings
        if any(_of(t, 1, key) | _of(s, 1, key) for t, s in pairs)
    }
    kinds = [kind.value for kind in EventKind if kind is not EventKind.NONE]
    # Only findings that occur in a true answer: the recall of the others is not defined.
    scores = [score.f1 for score in by_finding.values() if score.support]
    return DifferenceScores(
        events=_score(pairs),
        findings=_score([({key[1] for key in t}, {key[1] for key in s}) for t, s in pairs]),
        finding_f1_macro=sum(scores) / len(scores) if scores else float("nan"),
        by_finding=by_finding,
        by_kind={kind: _score([(_of(t, 0, kind), _of(s, 0, kind)) for t, s in pairs]) for kind in kinds},
        # An answer that does not parse is wrong, even where its readable part fits.
        change_accuracy=ratio(
            sum(bool(t) == bool(s) and p.complete for (t, s), p in zip(pairs, answered, strict=True)), len(pairs)
        ),
        exact=ratio(sum(t == s and p.complete for (t, s), p in zip(pairs, answered, strict=True)), len(pairs)),
        unparsed=ratio(sum(not p.complete for p in answered), len(answered)),
        answers=len(pairs),
    )


def _keys(parsed: ParsedEvents) -> set[_Key]:
    """(kind, finding, direction) of every event that is a change."""
    return {
        (event.kind.value, event.finding, event.change.value if event.change else "")
        for event in parsed.events
        if event.kind is not EventKind.NONE
    }


def _of(keys: set[_Key], place: int, value: str) -> set[_Key]:
    return {key for key in keys if key[place] == value}


def _score(pairs: Iterable[tuple[set[_Key], set[_Key]] | tuple[set[str], set[str]]]) -> SetScore:
    hits = true_total = said_total = 0
    for true, stated in pairs:
        hits += sum(key in stated for key in true)
        true_total += len(true)
        said_total += len(stated)
    return SetScore(
        precision=ratio(hits, said_total),
        recall=ratio(hits, true_total),
        f1=ratio(2 * hits, true_total + said_total),
        support=true_total,
    )


def ms_cxr_t_accuracy(items: Iterable[tuple[str, Change, str]]) -> dict[str, float]:
    """Macro accuracy (mean recall over improving, stable, worsening) of each finding, and their mean as "macro".

    items: (finding, true change, stated change or anything else). Findings without a label are left out.
    """
    by_finding: dict[str, tuple[list[str], list[str]]] = {}
    for finding, true, answer in items:
        truths, answers = by_finding.setdefault(finding, ([], []))
        truths.append(true.value)
        answers.append(answer)
    labels = (Change.IMPROVING.value, Change.STABLE.value, Change.WORSENING.value)
    result = {finding: macro_accuracy(truths, answers, labels) for finding, (truths, answers) in by_finding.items()}
    return {**result, "macro": ratio(sum(result.values()), len(result))}
