"""Agreement of structured predictions on pairs with the truth: presence, change, side, consistency, calibration.

This is the evaluation of the demonstration model on phantoms (exact truth) and of every checkpoint that is compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.questions.answers import CHANGE_ANSWERS, side_of_place
from model.questions.vocabulary import grade_of_level
from model.schema import INVERSE_CHANGE, Change, Finding, Prediction, Presence
from training.metrics.classification import ClassScore, class_scores, macro_f1
from training.metrics.pair_columns import (
    PairColumns,
    PairRow,
    auroc_by_finding,
    change_f1_by_finding,
    change_scores,
    figures_of,
)
from training.metrics.significance import Interval, bootstrap_by_patient
from training.records.truth import PairTruth


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered:
    """One pair with its truth and what the model said; swapped and same only where those were asked.

    swapped: the prediction on the pair in the other order. same: on the current image given twice.
    """

    truth: PairTruth
    prediction: Prediction
    swapped: Prediction | None = None
    same: Prediction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScores:
    """Every figure with its patient-clustered interval; a value is NaN where its set is empty.

    presence_auroc: mean over findings of the AUROC of `Finding.probability` on the current image.
    presence_accuracy: share of (pair, finding) with the right presence; an abstention is wrong.
    change_f1: macro F1 over new, worsening, stable, improving, resolved and none, all findings pooled; "not
      comparable" and a missing answer are misses.
    side_accuracy: share with the right side among lateral findings that are present and were called present.
    grade_accuracy: the same for the grade. side_coverage: share of present lateral findings that got a side.
    swap_consistency: share of (pair, finding) whose change in the other order is the inverse (none: none).
    swap_consistency_changed: the same, only where either order states a change or the truth holds the finding.
    same_image_consistency: share of (pair, finding) with "stable" or no change on an image given twice.
    presence_ece, change_ece: expected calibration error of the presence probability (of the stated side of 0.5) and
      of the stated change's probability.
    """

    pairs: int
    patients: int
    abstained: int
    figures: dict[str, Interval]
    finding_auroc: dict[str, float]
    changes: tuple[ClassScore, ...]
    finding_change_f1: dict[str, float]
    unscored: tuple[str, ...]

    def value(self, name: str) -> float:
        """The figure itself; raises KeyError naming the figures that there are."""
        if name not in self.figures:
            raise KeyError(f"no figure {name!r}; there are {sorted(self.figures)}")
        return self.figures[name].value


def change_said(finding: Finding) -> str:
    """The stated change as an answer: "none" where the model states no change (absent on both images)."""
    return "none" if finding.change is None else finding.change.value


def score_pairs(answered: Sequence[Answered], *, resamples: int = 1000, seed: int = 0) -> PairScores:
    """All figures of a set of answered pairs. Pairs that the model abstained on count as wrong, not as missing."""
    columns = PairColumns([row for number, item in enumerate(answered) for row in _rows(number, item)], len(answered))
    patients = [item.truth.patient_id for item in answered]
    figures = bootstrap_by_patient(
        patients, lambda chosen: figures_of(columns.of_pairs(chosen)), resamples=resamples, seed=seed
    )
    everything = columns.of_pairs(np.arange(len(answered), dtype=np.intp))
    by_finding = auroc_by_finding(everything)
    return PairScores(
        pairs=len(answered),
        patients=len(set(patients)),
        abstained=sum(item.prediction.abstained is not None for item in answered),
        figures=figures,
        finding_auroc={key: value for key, value in by_finding.items() if not math.isnan(value)},
        changes=change_scores(everything),
        finding_change_f1=change_f1_by_finding(everything),
        unscored=tuple(key for key, value in by_finding.items() if math.isnan(value)),
    )


def _rows(number: int, item: Answered) -> list[PairRow]:
    findings = {finding.key: finding for finding in item.prediction.findings}
    swapped = {finding.key: finding for finding in item.swapped.findings} if item.swapped else {}
    same = {finding.key: finding for finding in item.same.findings} if item.same else {}
    rows = []
    for key, truth in item.truth.findings.items():
        answer = findings.get(key)
        current = truth.current
        stated = change_said(answer) if answer is not None else "missing"
        back = change_said(swapped[key]) if key in swapped else "missing"
        again = change_said(same[key]) if key in same else "missing"
        happened = truth.change_answer
        rows.append(
            PairRow(
                pair=number,
                key=key,
                present=float("nan") if current is None else float(current.present),
                probability=answer.probability if answer is not None else 0.5,
                said_present=_presence_value(answer),
                change=happened or "" if item.truth.has_prior else "",
                said_change=stated,
                change_probability=_probability_of_change(answer),
                side=(current.side or "") if current is not None and current.present else "",
                said_side=_side(answer),
                grade=(current.grade or "") if current is not None and current.present else "",
                said_grade=_grade(answer),
                swap_agrees=float(_inverse(stated) == back) if item.swapped is not None else float("nan"),
                # Where nothing happened and neither order states anything, agreement is no merit.
                swap_counts=stated != "none" or back != "none" or happened not in (None, "none"),
                same_agrees=float(again in ("stable", "none")) if item.same is not None else float("nan"),
            )
        )
    return rows


def _presence_value(answer: Finding | None) -> float:
    """1 present, 0 absent, NaN for an abstention or no answer (which then equals neither)."""
    if answer is None or answer.presence is Presence.ABSTAINED:
        return float("nan")
    return float(answer.presence is Presence.PRESENT)


def _probability_of_change(answer: Finding | None) -> float:
    if answer is None or answer.change_probability is None:
        return float("nan")
    return answer.change_probability


def _side(answer: Finding | None) -> str:
    if answer is None or answer.location is None:
        return ""
    return side_of_place(answer.location) or ""


def _grade(answer: Finding | None) -> str:
    if answer is None or answer.level is None:
        return ""
    return grade_of_level(answer.level) or ""


def _inverse(stated: str) -> str:
    return stated if stated in ("none", "missing") else INVERSE_CHANGE[Change(stated)].value


@dataclass(frozen=True, slots=True, kw_only=True)
class PrognosisScores:
    """Predictions from the prior image alone, compared with what came. f1: macro over the changes and none, pooled.

    majority_f1: of the most frequent true change of each finding in this very set, which flatters the baseline.
    """

    pairs: int
    answers: int
    f1: float
    majority_f1: float
    changes: tuple[ClassScore, ...]


def score_prognosis(foretold: Sequence[tuple[PairTruth, Prediction]]) -> PrognosisScores:
    """Score predictions of change; a finding without a statement counts as "none", as `prognosis` means it."""
    keys: list[str] = []
    truth: list[str] = []
    answers: list[str] = []
    for known, answer in foretold:
        stated = {item.key: item.change.value for item in answer.prognosis}
        asked = {finding.key for finding in answer.findings}
        for key, finding in known.findings.items():
            if finding.change_answer is not None:
                keys.append(key)
                truth.append(finding.change_answer)
                # Asked and not stated is "none"; never asked is missing, and wrong.
                answers.append(stated.get(key, "none") if key in asked else "missing")
    frequent = {
        key: Counter(true for other, true in zip(keys, truth, strict=True) if other == key)
        for key in dict.fromkeys(keys)
    }
    likeliest = {key: _most_frequent(counts) for key, counts in frequent.items()}
    majority = [likeliest[key] for key in keys]
    scores = class_scores(truth, answers, CHANGE_ANSWERS)
    return PrognosisScores(
        pairs=len(foretold),
        answers=len(truth),
        f1=macro_f1(scores),
        majority_f1=macro_f1(class_scores(truth, majority, CHANGE_ANSWERS)),
        changes=scores,
    )


def _most_frequent(counts: Counter[str]) -> str:
    """Ties go to the alphabetically first."""
    return min(counts, key=lambda word: (-counts[word], word))
