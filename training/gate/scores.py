"""The figures that the gate compares: the frozen questions, each system's correct answers, and both in one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluation.evaluate import Evaluation
from training.records.record import Record

FEWEST = 10
"""Frozen cases from which a class of answers is judged by itself; rarer ones are judged together."""
MAIN = "share of right answers"
RARE = "rare answers together"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenQuestion:
    """One question of the frozen set. truth: its right answer as a word ("present", "worsening", …)."""

    key: str
    patient: str
    finding: str
    aspect: str
    truth: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemScores:
    """The scores of one checkpoint. right: question key → 1 or 0. figures: of `PairScores` by name, NaN allowed."""

    device_uid: str
    right: Mapping[str, float]
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPairs:
    """The challenger's answers on known pairs; only those count that the champion answers correctly.

    wrong: names of those that it answers otherwise. asked: how many there were before the champion was asked.
    """

    asked: int
    counted: int
    wrong: tuple[str, ...]


class PairedTable:
    """The questions as numbers: each belongs to a class (finding, aspect, true answer), a class to a group.

    A group is a finding's aspect, or all rare classes together; its score is the mean over its classes of the share
    right, so that a model cannot gain by always giving the frequent answer.
    """

    def __init__(self, questions: Sequence[FrozenQuestion], champion: SystemScores, challenger: SystemScores) -> None:
        self.patients = [question.patient for question in questions]
        names = [(question.finding, question.aspect, question.truth) for question in questions]
        counts = Counter(names)
        self.classes = sorted(counts)
        self.cases = np.array([counts[name] for name in self.classes])
        number_of = {name: number for number, name in enumerate(self.classes)}
        self.class_of = np.array([number_of[name] for name in names])
        # Too few of one truth to be judged by themselves are judged together.
        labels = [f"{f} {a}" if counts[f, a, t] >= FEWEST else RARE for f, a, t in self.classes]
        self.groups = sorted(set(labels))
        self.group_of = np.array([self.groups.index(label) for label in labels])
        self.first = np.array([champion.right[question.key] for question in questions])
        self.second = np.array([challenger.right[question.key] for question in questions])

    def scores(self, right: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """[groups]: mean over classes of the share right; NaN where the rows hold nothing of a group."""
        drawn, size = self.class_of[rows], len(self.classes)
        counts = np.bincount(drawn, minlength=size).astype(float)
        sums = np.bincount(drawn, weights=right[rows], minlength=size)
        # rare answers are pooled case by case: a class of one case would weigh as much as one of nine
        pooled = self.groups.index(RARE) if RARE in self.groups else -1
        seen = counts > 0
        share = np.divide(sums, counts, out=np.zeros_like(sums), where=seen)
        weight = np.where(self.group_of == pooled, counts, seen.astype(float))
        total = np.bincount(self.group_of, weights=weight, minlength=len(self.groups))
        summed = np.bincount(self.group_of, weights=share * weight, minlength=len(self.groups))
        return np.divide(summed, total, out=np.full_like(summed, np.nan), where=total > 0)

    def differences(self, rows: NDArray[np.intp]) -> dict[str, float]:
        """Challenger − champion of every group and of the main figure."""
        falls = self.scores(self.second, rows) - self.scores(self.first, rows)
        main = float((self.second[rows] - self.first[rows]).mean())
        return {MAIN: main} | dict(zip(self.groups, falls.tolist(), strict=True))


def frozen_questions(records: Iterable[Record]) -> list[FrozenQuestion]:
    """The questions of these records, keyed as `Evaluation.per_question` keys them."""
    questions = []
    for record in records:
        for key, truth in record.truth.findings.items():
            words = []
            if truth.current is not None:
                words.append(("presence", "present" if truth.current.present else "absent"))
            if record.truth.has_prior and truth.change_answer is not None:
                words.append(("change", truth.change_answer))
            questions += [
                FrozenQuestion(
                    key=f"{record.record_id}/{key}/{aspect}",
                    patient=record.patient_id,
                    finding=key,
                    aspect=aspect,
                    truth=word,
                )
                for aspect, word in words
            ]
    return questions


def system_scores(evaluation: Evaluation) -> SystemScores:
    """One side of the comparison."""
    figures = evaluation.scores.figures if evaluation.scores is not None else {}
    return SystemScores(
        device_uid=evaluation.model.device_uid,
        right=evaluation.per_question,
        figures={name: interval.value for name, interval in figures.items()},
    )
