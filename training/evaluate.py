"""Ask a predictor about every record of a data set and score what it says; the report writer only shows the result.

What is scored: structured predictions (training.metrics.pairs), difference sentences (text and events), published
questions where the set brings them, the order of the pair, the same image twice, calibration, and two baselines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from model.schema import DisplayImage, Finding, ModelIdentity, Prediction, Presence, StudyPair
from training.drops import DropReport
from training.evaluate_texts import (
    PublishedScores,
    TextScores,
    progression_scores,
    score_published,
    score_texts,
)
from training.metrics.baselines import MajorityFindings, majority_findings
from training.metrics.classification import ReliabilityBin, auroc, reliability, roc_curve
from training.metrics.pairs import Answered, PairScores, PrognosisScores, change_said, score_pairs, score_prognosis
from training.records import Record
from training.truth import FindingTruth, PairTruth

WORST_CASES = 12
"""How many pairs the report shows."""


class PairPredictor(Protocol):
    """What is evaluated: anything that answers pairs, such as `model.predict.Predictor`."""

    @property
    def identity(self) -> ModelIdentity:
        """Which checkpoint answers."""
        ...

    def predict(self, pair: StudyPair) -> Prediction:
        """Answer one pair."""
        ...


PublishedAsker = Callable[[Record, StudyPair], Sequence[str]]
"""Answers to a record's published questions, in their order (training.evaluate_texts.published_asker)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """consistency: ask each pair in both orders and each image twice (three times the work). resamples: bootstrap.

    prognosis: show the prior alone and compare what is foretold with what came.
    """

    consistency: bool = True
    prognosis: bool = False
    resamples: int = 1000
    worst: int = WORST_CASES
    meteor: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One pair shown in the report. loss: mean −log probability given to the truth of its findings."""

    record_id: str
    loss: float
    current: DisplayImage
    prior: DisplayImage | None
    rows: tuple[tuple[str, str, str], ...]
    """(finding, truth, said) where they differ, worst first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """An ROC curve of one finding."""

    finding: str
    auroc: float
    false_rate: tuple[float, ...]
    true_rate: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """Everything that was measured of one predictor on one set. proxy: some truths are text-mined."""

    data: str
    model: ModelIdentity
    scores: PairScores | None
    baselines: dict[str, PairScores]
    texts: TextScores | None
    published: PublishedScores | None
    progression: dict[str, float]
    """MS-CXR-T's macro accuracy; empty where no finding is labelled by its progression alone."""
    presence_reliability: tuple[ReliabilityBin, ...]
    change_reliability: tuple[ReliabilityBin, ...]
    curves: tuple[Curve, ...]
    worst: tuple[Case, ...]
    seconds_per_pair: float
    report: DropReport
    proxy: bool
    sentences: tuple[str | None, ...] = ()
    """The said difference sentence of each record, in order."""
    records: tuple[Record, ...] = ()
    """What was asked, without the images."""
    prognosis: PrognosisScores | None = None
    """What was said of the current image when the prior alone was shown; None where it was not asked."""
    per_question: dict[str, float] = field(default_factory=dict)
    """"pair/finding/aspect" → 1 or 0: what a paired test compares."""


def evaluate(
    predictor: PairPredictor,
    items: Iterable[tuple[Record, StudyPair]],
    report: DropReport,
    *,
    data: str,
    options: EvaluationOptions | None = None,
    baseline: MajorityFindings | None = None,
    ask: PublishedAsker | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Ask and score. baseline: learnt on the training set; without one it is learnt on the evaluated truths themselves,
    which flatters the baseline and never the model. ask: answers published questions, where the records bring them.
    """
    options = options or EvaluationOptions()
    answered: list[Answered] = []
    said_published: list[tuple[Record, Sequence[str]]] = []
    cases: list[Case] = []
    records: list[Record] = []
    seconds, foretold = 0.0, list[tuple[PairTruth, Prediction]]()
    for record, pair in items:
        answer = _answer(predictor, record, pair, options)
        seconds += answer.said.seconds.get("total", 0.0)
        answered.append(answer)
        records.append(record)
        if options.prognosis and pair.prior is not None:
            alone = StudyPair(current=pair.prior, context=pair.context)
            foretold.append((record.truth, predictor.predict(alone)))
        if ask is not None and record.asked:
            said_published.append((record, ask(record, pair)))
        cases = _worst([*cases, _case(answer, pair)], options.worst)
        progress(len(answered))
    labelled = [answer for answer in answered if answer.truth.findings]
    presence, change = _confidences(labelled)
    return Evaluation(
        data=data,
        model=predictor.identity,
        scores=score_pairs(labelled, resamples=options.resamples) if labelled else None,
        baselines=_baselines(labelled, baseline, options) if labelled else {},
        texts=score_texts(
            records,
            [answer.said for answer in answered],
            meteor_wanted=options.meteor,
            resamples=options.resamples,
        ),
        published=score_published(said_published, resamples=options.resamples) if said_published else None,
        progression=_progression(records, [answer.said for answer in answered]),
        presence_reliability=reliability(*presence),
        change_reliability=reliability(*change),
        curves=_curves(labelled),
        worst=tuple(cases),
        seconds_per_pair=seconds / len(answered) if answered else float("nan"),
        report=report,
        proxy=any(answer.truth.proxy for answer in answered),
        sentences=tuple(answer.said.difference_text for answer in answered),
        records=tuple(records),
        prognosis=score_prognosis(foretold) if foretold else None,
        per_question=_per_question(labelled),
    )


def _progression(records: Sequence[Record], said: Sequence[Prediction]) -> dict[str, float]:
    scores = progression_scores(records, said)
    return scores if len(scores) > 1 else {}


def _answer(predictor: PairPredictor, record: Record, pair: StudyPair, options: EvaluationOptions) -> Answered:
    ask_more = options.consistency and pair.prior is not None
    return Answered(
        truth=record.truth,
        said=predictor.predict(pair),
        swapped=predictor.predict(pair.swapped()) if ask_more else None,
        same=predictor.predict(StudyPair(current=pair.current, prior=pair.current, context=pair.context))
        if ask_more
        else None,
    )


def _baselines(
    answered: Sequence[Answered], learnt: MajorityFindings | None, options: EvaluationOptions
) -> dict[str, PairScores]:
    learnt = learnt or majority_findings(answer.truth for answer in answered)
    return {
        name: score_pairs(
            [Answered(truth=a.truth, said=learnt.predict(a.truth, unchanged=unchanged)) for a in answered],
            resamples=options.resamples,
        )
        for name, unchanged in (("majority", False), ("nothing has changed", True))
    }


def _aspects(truth: FindingTruth, said: Finding | None, has_prior: bool) -> list[tuple[str, str, str, float]]:
    """(aspect, truth, said, probability that was given to the truth) of one finding."""
    rows = []
    if truth.current is not None:
        word = Presence.PRESENT.value if truth.current.present else Presence.ABSENT.value
        probability = said.probability if said is not None else 0.5
        given = probability if truth.current.present else 1 - probability
        rows.append(("presence", word, said.presence.value if said is not None else "missing", given))
    if has_prior and truth.change_answer is not None:
        stated = change_said(said) if said is not None else "missing"
        sure = said.change_probability if said is not None and said.change_probability is not None else 0.5
        rows.append(("change", truth.change_answer, stated, sure if stated == truth.change_answer else 1 - sure))
    return rows


def _case(answer: Answered, pair: StudyPair) -> Case:
    said = {finding.key: finding for finding in answer.said.findings}
    losses, wrong = [], []
    for key, truth in answer.truth.findings.items():
        for aspect, true, stated, given in _aspects(truth, said.get(key), answer.truth.has_prior):
            loss = -math.log(max(given, 1e-6))
            losses.append(loss)
            if true != stated:
                wrong.append((loss, (f"{key} {aspect}", true, stated)))
    return Case(
        record_id=answer.truth.pair_id,
        loss=math.fsum(losses) / len(losses) if losses else 0.0,
        current=pair.current,
        prior=pair.prior,
        rows=tuple(row for _, row in sorted(wrong, key=lambda item: -item[0])),
    )


def _worst(cases: Sequence[Case], count: int) -> list[Case]:
    """The cases with the highest loss; kept as they come, so that only these images stay in memory."""
    return sorted(cases, key=lambda case: -case.loss)[:count]


def _confidences(answered: Sequence[Answered]) -> tuple[tuple[list[float], list[bool]], tuple[list[float], list[bool]]]:
    """(confidence, right) of every presence and every stated change that has a truth and a probability."""
    presence: tuple[list[float], list[bool]] = ([], [])
    change: tuple[list[float], list[bool]] = ([], [])
    for answer in answered:
        for finding in answer.said.findings:
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
        for finding in answer.said.findings:
            truth = answer.truth.findings.get(finding.key)
            if truth is not None and truth.current is not None:
                found = scores.setdefault(finding.key, ([], []))
                found[0].append(truth.current.present)
                found[1].append(finding.probability)
    curves = []
    for key, (present, probability) in scores.items():
        false_rate, true_rate = roc_curve(present, probability)
        if false_rate.size:
            curves.append(
                Curve(
                    finding=key,
                    auroc=auroc(present, probability),
                    false_rate=tuple(false_rate.tolist()),
                    true_rate=tuple(true_rate.tolist()),
                )
            )
    return tuple(curves)


def _per_question(answered: Sequence[Answered]) -> dict[str, float]:
    result = {}
    for answer in answered:
        said = {finding.key: finding for finding in answer.said.findings}
        for key, truth in answer.truth.findings.items():
            for aspect, true, stated, _ in _aspects(truth, said.get(key), answer.truth.has_prior):
                result[f"{answer.truth.pair_id}/{key}/{aspect}"] = float(true == stated)
    return result


def truths_of(records: Iterable[Record]) -> list[PairTruth]:
    """The truths alone, for `majority_findings` of a training split."""
    return [record.truth for record in records]
