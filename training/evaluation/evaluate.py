"""Ask a predictor about every record of a data set and score what it says; the report writer only shows the result.

What is scored: structured predictions (training.metrics.pairs), difference sentences (text and events), published
questions where the set brings them, the order of the pair, the same image twice, calibration, and two baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from model.schema import ModelIdentity, Prediction, StudyPair
from training.evaluation.breakdown import Subgroup, change_confusion, subgroup_scores
from training.evaluation.cases import Case, case_of, keep_asked, per_question_of, worst_of
from training.evaluation.choices import ChoiceScores
from training.evaluation.consistency import score_consistency
from training.evaluation.curves import Curve, _confidences, _curves
from training.evaluation.forecasts import CourseForecasts, can_foretell, foretell, score_forecasts
from training.evaluation.inversion import score_inversion
from training.evaluation.texts import (
    ProgressionScores,
    PublishedScores,
    TextScores,
    progression_scores,
    score_published,
    score_texts,
)
from training.metrics.baselines import MajorityFindings, majority_findings
from training.metrics.classification import ReliabilityBin, reliability
from training.metrics.forecasts import SettingScore
from training.metrics.pairs import Answered, PairScores, PrognosisScores, score_pairs, score_prognosis
from training.metrics.significance import Interval
from training.phantom.ceiling import Knowledge
from training.records.drops import DropReport
from training.records.record import Record

WORST_CASES = 12
"""The number of pairs in the report."""
ZERO_SHOT = "zero-shot"
"""First word of the name of a baseline that is a model which was not tuned to the task."""


class EvaluatedPredictor(Protocol):
    """The subject of an evaluation: anything that answers pairs, such as `model.predict.Predictor`."""

    @property
    def identity(self) -> ModelIdentity:
        """The checkpoint that answers."""
        ...

    def predict(self, pair: StudyPair) -> Prediction:
        """Answer one pair."""
        ...


PublishedAsker = Callable[[Record, StudyPair], Sequence[str]]
"""Answers to a record's published questions, in their order (training.evaluation.texts.published_asker)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """consistency: ask each pair in both orders and each image twice (three times the work). resamples: bootstrap.

    prognosis: of records whose future is known, predict the next image from one, two and all images and with the
    chart; of other pairs, show the prior alone and compare what is foretold with what came.
    """

    consistency: bool = True
    prognosis: bool = False
    resamples: int = 1000
    worst: int = WORST_CASES
    meteor: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """Everything that was measured of one predictor on one set. proxy: some truths are text-mined."""

    data: str
    model: ModelIdentity
    scores: PairScores | None
    baselines: dict[str, PairScores]
    texts: TextScores | None
    published: PublishedScores | None
    progression: ProgressionScores | None
    """MS-CXR-T's macro accuracy; None where no finding is labelled by its progression alone."""
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
    """The cases asked, without the images."""
    prognosis: PrognosisScores | None = None
    """The prediction of the current image from the prior alone; None where it was not asked."""
    forecasts: tuple[SettingScore, ...] = ()
    """Predictions of the next image by what was known; empty where no record has a known future."""
    inversion: dict[str, Interval] = field(default_factory=dict)
    """The pair and its reversal against the truth; see `score_inversion`."""
    choices: ChoiceScores | None = None
    """The multiple-choice test over five visits, a set of its own; None where it was not asked."""
    consistency: dict[str, Interval] = field(default_factory=dict)
    """Agreement of the model with itself over all its findings; see `score_consistency`."""
    per_question: dict[str, float] = field(default_factory=dict)
    """"pair/finding/aspect" → 1 or 0: what a paired test compares; findings that are not asked are 0 here."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Counts [true change, stated change]; see `change_confusion`."""
    subgroups: tuple[Subgroup, ...] = ()
    unasked: tuple[str, ...] = ()
    """Labelled findings that the model is never asked about; they stand in no other figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedRecord:
    """All that a predictor said of one record, without the images: what an evaluation is computed from.

    alone: foretold from the prior, where that was asked. settings: foretold by what is known. published: answers to
    the record's own questions, None where they were not asked.
    """

    answer: Answered
    alone: Prediction | None = None
    settings: dict[Knowledge, Prediction] | None = None
    published: tuple[str, ...] | None = None


def ask_record(
    predictor: EvaluatedPredictor,
    record: Record,
    pair: StudyPair,
    options: EvaluationOptions,
    ask: PublishedAsker | None = None,
) -> AskedRecord:
    """Ask everything about one record."""
    answer = _answer(predictor, record, pair, options)
    alone, settings = None, None
    if options.prognosis and can_foretell(record):
        settings = dict(foretell(predictor, record, pair).predictions)
    elif options.prognosis and pair.prior is not None and record.future is None and not record.earlier:
        alone = predictor.predict(StudyPair(current=pair.prior, context=pair.context))
    published = tuple(ask(record, pair)) if ask is not None and record.asked else None
    return AskedRecord(answer=answer, alone=alone, settings=settings, published=published)


def evaluate(
    predictor: EvaluatedPredictor,
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
    asked: list[tuple[Record, AskedRecord]] = []
    cases: list[Case] = []
    for record, pair in items:
        replies = ask_record(predictor, record, pair, options, ask)
        asked.append((record, replies))
        cases = worst_of([*cases, case_of(replies.answer, pair)], options.worst)
        progress(len(asked))
    return score_asked(asked, predictor.identity, report, data=data, options=options, baseline=baseline, cases=cases)


def score_asked(
    asked: Sequence[tuple[Record, AskedRecord]],
    model: ModelIdentity,
    report: DropReport,
    *,
    data: str,
    options: EvaluationOptions,
    baseline: MajorityFindings | None,
    cases: Sequence[Case],
) -> Evaluation:
    """Score the answers to every record, in the order of the set. cases: the worst ones, with their images."""
    records, answered = [record for record, _ in asked], [replies.answer for _, replies in asked]
    predictions = [answer.prediction for answer in answered]
    labelled = [answer for answer in answered if answer.truth.findings]
    scored, unasked = keep_asked(labelled)
    presence, change = _confidences(scored)
    resamples = options.resamples
    return Evaluation(
        data=data,
        model=model,
        scores=score_pairs(scored, resamples=resamples) if scored else None,
        baselines=_baselines(scored, baseline, options) if scored else {},
        texts=score_texts(records, predictions, meteor_wanted=options.meteor, resamples=resamples),
        published=_scores_of_published(asked, resamples),
        progression=progression_scores(records, predictions, resamples=resamples),
        presence_reliability=reliability(*presence),
        change_reliability=reliability(*change),
        curves=_curves(scored),
        worst=tuple(cases),
        seconds_per_pair=_mean_seconds(predictions),
        report=report,
        proxy=any(answer.truth.proxy for answer in answered),
        sentences=tuple(prediction.difference_text for prediction in predictions),
        records=tuple(records),
        prognosis=_prognosis_scores(asked),
        forecasts=score_forecasts(_courses(asked), resamples=resamples),
        inversion=score_inversion(answered, resamples=resamples),
        consistency=score_consistency(answered, resamples=resamples),
        per_question=per_question_of(labelled),
        confusion=change_confusion(scored),
        subgroups=subgroup_scores(records, scored, resamples=resamples),
        unasked=unasked,
    )


def _mean_seconds(predictions: Sequence[Prediction]) -> float:
    seconds = sum(prediction.seconds.get("total", 0.0) for prediction in predictions)
    return seconds / len(predictions) if predictions else float("nan")


def _scores_of_published(asked: Sequence[tuple[Record, AskedRecord]], resamples: int) -> PublishedScores | None:
    answers = [(record, replies.published) for record, replies in asked if replies.published is not None]
    return score_published(answers, resamples=resamples) if answers else None


def _prognosis_scores(asked: Sequence[tuple[Record, AskedRecord]]) -> PrognosisScores | None:
    foretold = [(record.truth, replies.alone) for record, replies in asked if replies.alone is not None]
    return score_prognosis(foretold) if foretold else None


def _courses(asked: Sequence[tuple[Record, AskedRecord]]) -> list[CourseForecasts]:
    """The records whose course was asked about, each with the predictions of every setting."""
    return [
        CourseForecasts(record=record, predictions=replies.settings)
        for record, replies in asked
        if replies.settings is not None
    ]


def _answer(predictor: EvaluatedPredictor, record: Record, pair: StudyPair, options: EvaluationOptions) -> Answered:
    ask_more = options.consistency and pair.prior is not None
    return Answered(
        truth=record.truth,
        prediction=predictor.predict(pair),
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
            [Answered(truth=a.truth, prediction=learnt.predict(a.truth, unchanged=unchanged)) for a in answered],
            resamples=options.resamples,
        )
        for name, unchanged in (("majority", False), ("nothing has changed", True))
    }
