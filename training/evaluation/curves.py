"""ROC curves and reliability: the certainty of a system's answers beside how often they are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.metrics.classification import auroc, roc_curve
from training.metrics.pairs import Answered, change_said


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """An ROC curve of one finding. positives, negatives: images with and without it by the truth."""

    finding: str
    auroc: float
    positives: int
    negatives: int
    false_rate: tuple[float, ...]
    true_rate: tuple[float, ...]


def _confidences(answered: Sequence[Answered]) -> tuple[tuple[list[float], list[bool]], tuple[list[float], list[bool]]]:
    """(confidence, right) of every presence and every stated change that has a truth and a probability."""
    presence: tuple[list[float], list[bool]] = ([], [])
    change: tuple[list[float], list[bool]] = ([], [])
    for answer in answered:
        for finding in answer.prediction.findings:
            truth = answer.truth.findings.get(finding.key)
            if truth is None:
                continue
            if truth.current is not None:
                presence[0].append(max(finding.probability, 1 - finding.probability))
                presence[1].append((finding.probability >= 0.5) == truth.current.present)
            if finding.change_probability is not None and truth.change_answer is not None and answer.truth.has_prior:
                change[0].append(finding.change_probability)
                change[1].append(change_said(finding) == truth.change_answer)
    return presence, change


def _curves(answered: Sequence[Answered]) -> tuple[Curve, ...]:
    scores: dict[str, tuple[list[bool], list[float]]] = {}
    for answer in answered:
        for finding in answer.prediction.findings:
            truth = answer.truth.findings.get(finding.key)
            if truth is not None and truth.current is not None:
                columns = scores.setdefault(finding.key, ([], []))
                columns[0].append(truth.current.present)
                columns[1].append(finding.probability)
    curves = []
    for key, (present, probability) in scores.items():
        false_rate, true_rate = roc_curve(present, probability)
        if false_rate.size:
            curves.append(
                Curve(
                    finding=key,
                    auroc=auroc(present, probability),
                    positives=sum(present),
                    negatives=len(present) - sum(present),
                    false_rate=tuple(false_rate.tolist()),
                    true_rate=tuple(true_rate.tolist()),
                )
            )
    return tuple(curves)
