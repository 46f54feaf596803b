"""Baselines that do not look at the images: the majority answer, and "nothing has changed"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from model.questions.grammar import NOTHING, Tense, write_events
from model.schema import Change, Finding, ModelIdentity, Prediction, Presence
from training.records.truth import PairTruth


@dataclass(frozen=True, slots=True, kw_only=True)
class MajorityAnswers:
    """The most frequent answer of the training set to each question; ties go to the alphabetically first.

    default: to a question that was never seen there.
    """

    by_question: Mapping[str, str]
    default: str

    def answer(self, question: str) -> str:
        """The baseline's answer to a question."""
        return self.by_question.get(question, self.default)


def majority_answers(training: Iterable[tuple[str, str]]) -> MajorityAnswers:
    """Learn the baseline from (question, answer) pairs of the training set; ValueError where there are none."""
    counts: dict[str, Counter[str]] = {}
    for question, answer in training:
        counts.setdefault(question, Counter())[answer] += 1
    if not counts:
        raise ValueError("a majority needs at least one answer")
    everything = Counter[str]()
    for counter in counts.values():
        everything.update(counter)
    return MajorityAnswers(
        by_question={question: _most(counter) for question, counter in counts.items()}, default=_most(everything)
    )


def _most(counter: Counter[str]) -> str:
    return min(counter, key=lambda answer: (-counter[answer], answer))


def nothing_has_changed(tense: Tense = Tense.DIFFERENCE) -> str:
    """The answer of the baseline that never sees a change."""
    return write_events([NOTHING], tense)


@dataclass(frozen=True, slots=True, kw_only=True)
class MajorityFindings:
    """Presence rate, most frequent change, side and grade of each finding in the training set."""

    rates: Mapping[str, float]
    changes: Mapping[str, str]
    sides: Mapping[str, str]
    grades: Mapping[str, str]

    def predict(self, truth: PairTruth, *, unchanged: bool = False) -> Prediction:
        """The baseline's prediction for a pair; of `truth` only the names of the findings are used.

        unchanged: the baseline "nothing has changed" (stable where it says present) instead of the majority change.
        """
        return Prediction(
            findings=tuple(self._finding(key, truth.has_prior, unchanged) for key in truth.findings),
            model=ModelIdentity(name="unchanged" if unchanged else "majority", version="1", device_uid=""),
        )

    def _finding(self, key: str, has_prior: bool, unchanged: bool) -> Finding:
        rate = self.rates.get(key, 0.0)
        present = rate >= 0.5
        word = self.changes.get(key, "none")
        change = Change(word) if word != "none" else None
        if unchanged:
            change = Change.STABLE if present else None
        return Finding(
            key=key,
            presence=Presence.PRESENT if present else Presence.ABSENT,
            probability=rate,
            change=change if has_prior else None,
            location=self.sides.get(key),
            level=self.grades.get(key),
        )


def majority_findings(training: Iterable[PairTruth]) -> MajorityFindings:
    """Learn rates and most frequent answers from the truths of the training set."""
    presence: dict[str, Counter[bool]] = {}
    words: dict[str, dict[str, Counter[str]]] = {"change": {}, "side": {}, "grade": {}}
    for truth in training:
        for key, finding in truth.findings.items():
            if finding.current is not None:
                presence.setdefault(key, Counter())[finding.current.present] += 1
            stated = {
                "change": finding.change_answer,
                "side": finding.current.side if finding.current else None,
                "grade": finding.current.grade if finding.current else None,
            }
            for aspect, word in stated.items():
                # Unknown is no answer: each aspect is counted over the images that are labelled with it.
                if word is not None:
                    words[aspect].setdefault(key, Counter())[word] += 1
    most = {aspect: {key: _most(counter) for key, counter in counters.items()} for aspect, counters in words.items()}
    return MajorityFindings(
        rates={key: counter[True] / counter.total() for key, counter in presence.items()},
        changes=most["change"],
        sides=most["side"],
        grades=most["grade"],
    )
