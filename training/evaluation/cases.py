"""Single answers of an evaluation: which are wrong, how sure the model was of it, and the cases that a report shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.schema import DisplayImage, Finding, Presence, StudyPair
from training.metrics.pairs import Answered, change_said
from training.records.truth import FindingTruth


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One pair shown in the report. loss: mean −log probability given to the truth of its findings."""

    record_id: str
    loss: float
    current: DisplayImage
    prior: DisplayImage | None
    rows: tuple[tuple[str, str, str], ...]
    """(finding, truth, said and the probability that the truth was given) where they differ, worst first."""


def keep_asked(answered: Sequence[Answered]) -> tuple[list[Answered], tuple[str, ...]]:
    """The answers with only the findings that the model answers at all, and the labelled ones that it never does.

    What a model was not made for is not its error: it is named beside the figures. A finding that is answered for some
    pairs and missing for others stays, and is wrong where it is missing. A model that answers nothing keeps all.
    """
    asked = {finding.key for answer in answered for finding in answer.prediction.findings}
    labelled = dict.fromkeys(key for answer in answered for key in answer.truth.findings)
    never = tuple(key for key in labelled if key not in asked) if asked else ()
    if not never:
        return list(answered), ()
    kept = []
    for answer in answered:
        findings = {key: truth for key, truth in answer.truth.findings.items() if key in asked}
        if findings:
            kept.append(replace(answer, truth=replace(answer.truth, findings=findings)))
    return kept, never


def aspects(truth: FindingTruth, said: Finding | None, has_prior: bool) -> list[tuple[str, str, str, float]]:
    """(aspect, truth, said, probability that was given to the truth) of one finding."""
    rows = []
    if truth.current is not None:
        word = Presence.PRESENT.value if truth.current.present else Presence.ABSENT.value
        # No answer is no belief either way: one half.
        probability = said.probability if said is not None else 0.5
        given = probability if truth.current.present else 1 - probability
        rows.append(("presence", word, said.presence.value if said is not None else "missing", given))
    if has_prior and truth.change_answer is not None:
        stated = change_said(said) if said is not None else "missing"
        sure = said.change_probability if said is not None and said.change_probability is not None else 0.5
        rows.append(("change", truth.change_answer, stated, sure if stated == truth.change_answer else 1 - sure))
    return rows


def case_of(answer: Answered, pair: StudyPair) -> Case:
    """One answered pair as a case: its mean loss, and where truth and answer differ, worst first."""
    loss, rows = _losses(answer)
    return Case(record_id=answer.truth.pair_id, loss=loss, current=pair.current, prior=pair.prior, rows=rows)


def loss_of(answer: Answered) -> float:
    """The mean −log probability that an answer gave to the truth of its findings; 0 without truths."""
    return _losses(answer)[0]


def _losses(answer: Answered) -> tuple[float, tuple[tuple[str, str, str], ...]]:
    findings = {finding.key: finding for finding in answer.prediction.findings}
    losses, wrong = [], []
    for key, truth in answer.truth.findings.items():
        if findings and key not in findings:
            continue  # not asked, or counted as missing by the figures: no image explains it
        for aspect, true, stated, given in aspects(truth, findings.get(key), answer.truth.has_prior):
            loss = -math.log(max(given, 1e-6))
            losses.append(loss)
            if true != stated:
                wrong.append((loss, (f"{key} {aspect}", true, f"{stated} (gave the truth {given:.2f})")))
    rows = tuple(row for _, row in sorted(wrong, key=lambda item: -item[0]))
    return (math.fsum(losses) / len(losses) if losses else 0.0), rows


def worst_of(cases: Sequence[Case], count: int) -> list[Case]:
    """The cases with the highest loss; kept as they come, so that only these images stay in memory."""
    return sorted(cases, key=lambda case: -case.loss)[:count]


def per_question_of(answered: Sequence[Answered]) -> dict[str, float]:
    """ "pair/finding/aspect" → 1 where the answer is right, else 0."""
    result = {}
    for answer in answered:
        findings = {finding.key: finding for finding in answer.prediction.findings}
        for key, truth in answer.truth.findings.items():
            for aspect, true, stated, _ in aspects(truth, findings.get(key), answer.truth.has_prior):
                result[f"{answer.truth.pair_id}/{key}/{aspect}"] = float(true == stated)
    return result
