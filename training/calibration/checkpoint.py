"""Fitting how a checkpoint's answers are read: temperatures, joint weights, thresholds and the certainty floor.

All on validation pairs that neither training nor the test has seen; the formulas stand in `training.calibration.fit`.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.checkpoints.manifest import Manifest
from model.engine.answers import ClosedAnswer
from model.finding_answers import finding_answers
from model.finding_states import FindingAnswers, JointWeights, believe, read_finding
from model.predict import Predictor
from model.questions.battery import Question, QuestionType
from model.schema import Change, StudyPair
from training.calibration.fit import ThresholdObjective, choose_floor, choose_threshold, fit_joint, fit_temperature
from training.calibration.validation import PairAnswers, ask_closed_questions, count_answers
from training.records.record import Record
from training.records.truth import FindingTruth, ImageTruth

FEWEST = 20
"""With fewer positive (or negative) validation answers a finding keeps the threshold 0.5; with fewer stated changes the
certainty floor stays what it was."""
FEWEST_STATES = 200
"""With fewer findings of known change the joint weights stay what the checkpoint's manifest says."""
OBJECTIVE = ThresholdObjective.F1
"""With one finding in five present, Youden's index calls present what is not there in nearly two of five cases."""
SLACK = 0.05
"""Of the F1: with some thirty positives a finding, cuts of 0.1 and 0.6 were chosen by chance without it (measured)."""
FLOOR_ACCURACY, FLOOR_COVERAGE = 0.8, 0.8
"""The certainty floor is the smallest at which so many stated changes are right while so many remain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The fitted values. answers: how many validation answers were seen. coverage, accuracy: of the stated changes at
    the floor; None where none was stated. pairs: the answers themselves, as scored."""

    temperatures: Mapping[str, float]
    thresholds: Mapping[str, float]
    answers: int
    joint: JointWeights = field(default_factory=JointWeights)
    floor: float = 0.0
    coverage: float | None = None
    accuracy: float | None = None
    pairs: Sequence[PairAnswers] = field(default=(), repr=False)

    def manifest_values(self, kept: Manifest | None = None) -> dict[str, Any]:
        """The fields of `model.checkpoints.manifest.Manifest` that it gives; what was too rare to fit stays as in
        `kept`."""
        temperatures, thresholds = (kept.calibration, kept.thresholds) if kept is not None else ({}, {})
        rules = {
            "calibration": dict(temperatures) | _round_values(self.temperatures),
            "thresholds": dict(thresholds) | _round_values(self.thresholds),
            "joint": _round_values(self.joint.values()),
            "certainty_floor": round(self.floor, 4),
        }
        return rules | {"calibrated_on": self.answers, "validation": count_answers(self.pairs, rules)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """One finding of one pair: its answers as scored, and the truth."""

    finding: str
    closed: Mapping[str, ClosedAnswer]
    truth: FindingTruth
    with_prior: bool

    def answers(self, temperatures: Mapping[str, float]) -> FindingAnswers | None:
        """Its answers at these temperatures."""
        calibrated = {
            key: answer.probabilities(temperatures.get(answer.question.type.value, 1.0))
            for key, answer in self.closed.items()
        }
        return finding_answers(self.finding, calibrated)


def calibrate(predictor: Predictor, items: Iterable[tuple[Record, StudyPair]]) -> Calibration:
    """Fit one temperature for each question type; then the joint reading, on calibrated answers; then, on what it
    believes, one threshold for each finding and the certainty floor."""
    scores: dict[str, list[Sequence[float]]] = defaultdict(list)
    truths: dict[str, list[int]] = defaultdict(list)
    samples: list[_Sample] = []
    pairs: list[PairAnswers] = []
    for record, pair in items:
        pairs.append(ask_closed_questions(predictor, pair))
        for answer in pairs[-1].closed.values():
            _note(answer, record, scores, truths)
        samples.extend(_collect_samples(pairs[-1].closed, record, pair.prior is not None))
    temperatures = {type: fit_temperature(scores[type], truths[type]) for type in scores}
    states = _states(samples, temperatures)
    before = predictor.manifest
    # On fewer states a fit would follow chance: the checkpoint's own weights stay.
    joint = fit_joint(states) if len(states) >= FEWEST_STATES else JointWeights.from_values(before.joint)
    thresholds = _thresholds(samples, temperatures, joint)
    fitted = Calibration(
        temperatures=temperatures,
        thresholds=thresholds,
        answers=sum(len(rows) for rows in truths.values()),
        joint=joint,
        floor=before.certainty_floor,
        pairs=pairs,
    )
    return _with_floor(fitted, samples)


def answer_truth(question: Question, record: Record) -> str | None:
    """The true answer to a closed question of the battery, None where the truth does not say."""
    if question.finding is None:
        return record.truth.view if question.type is QuestionType.VIEW else None
    truth = record.truth.findings.get(question.finding)
    if truth is None:
        return None
    if question.type is QuestionType.CHANGE:
        return truth.change_answer
    image = _image_asked(question, truth)
    if image is None:
        return None
    if question.type in (QuestionType.PRESENCE, QuestionType.PRIOR_PRESENCE):
        return "yes" if image.present else "no"
    # What is not there has no side and no degree.
    if not image.present:
        return None
    return image.side if question.type is QuestionType.SIDE else image.grade


def _image_asked(question: Question, truth: FindingTruth) -> ImageTruth | None:
    return truth.prior if question.type is QuestionType.PRIOR_PRESENCE else truth.current


def _note(
    answer: ClosedAnswer, record: Record, scores: dict[str, list[Sequence[float]]], truths: dict[str, list[int]]
) -> None:
    question = answer.question
    truth = answer_truth(question, record)
    # A truth outside the allowed answers (a degree of what has none) cannot be learnt from.
    if truth is None or question.allowed is None or truth not in question.allowed:
        return
    scores[question.type.value].append(answer.log_probabilities)
    truths[question.type.value].append(question.allowed.index(truth))


def _collect_samples(closed: Mapping[str, ClosedAnswer], record: Record, with_prior: bool) -> Iterable[_Sample]:
    grouped: dict[str, dict[str, ClosedAnswer]] = defaultdict(dict)
    for key, answer in closed.items():
        if answer.question.finding is not None:
            grouped[answer.question.finding][key] = answer
    for finding, answers in grouped.items():
        truth = record.truth.findings.get(finding)
        if truth is not None:
            yield _Sample(finding=finding, closed=answers, truth=truth, with_prior=with_prior)


def _states(samples: Sequence[_Sample], temperatures: Mapping[str, float]) -> list[tuple[FindingAnswers, str]]:
    """The input of `fit_joint`: findings whose change is known and was asked."""
    known = []
    for sample in samples:
        answers, state = sample.answers(temperatures), sample.truth.change_answer
        if state is None or answers is None or answers.change is None:
            continue
        if sample.with_prior and state in answers.change:
            known.append((answers, state))
    return known


def _thresholds(samples: Sequence[_Sample], temperatures: Mapping[str, float], joint: JointWeights) -> dict[str, float]:
    seen: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for sample in samples:
        answers = sample.answers(temperatures)
        if answers is not None and sample.truth.current is not None:
            belief = believe(answers, joint, with_prior=sample.with_prior)
            seen[sample.finding].append((belief.presence, sample.truth.current.present))
    thresholds = {}
    for finding, rows in seen.items():
        positives = sum(present for _, present in rows)
        if min(positives, len(rows) - positives) >= FEWEST:
            probabilities, present = zip(*rows, strict=True)
            thresholds[finding] = choose_threshold(probabilities, present, OBJECTIVE, slack=SLACK).value
    return thresholds


def _with_floor(fitted: Calibration, samples: Sequence[_Sample]) -> Calibration:
    """The floor on the changes that would be stated without one."""
    sure, right = [], []
    for sample in samples:
        answers = sample.answers(fitted.temperatures)
        if answers is None or sample.truth.change_answer is None or not sample.with_prior:
            continue
        threshold = fitted.thresholds.get(sample.finding, 0.5)
        statement = read_finding(
            sample.finding, answers, threshold=threshold, floor=0.0, with_prior=True, weights=fitted.joint
        )
        if statement.change_probability is not None and statement.change is not Change.NOT_COMPARABLE:
            sure.append(statement.change_probability)
            right.append(statement.change == sample.truth.change_answer)
    if len(sure) < FEWEST:
        return fitted
    chosen = choose_floor(sure, right, FLOOR_ACCURACY, least_coverage=FLOOR_COVERAGE)
    return dataclasses.replace(fitted, floor=chosen.value, coverage=chosen.coverage, accuracy=chosen.accuracy)


def _round_values(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in values.items()}
