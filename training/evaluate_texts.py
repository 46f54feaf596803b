"""The sentences of an evaluation: difference answers against their truths, published questions and their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model.engine import Job
from model.predict import Predictor
from model.prompts import context_text
from model.questions import Question, QuestionType
from model.questions_answers import YES_NO
from model.questions_grammar import parse_events, write_events
from model.schema import ImageRole, Prediction, StudyPair
from training.instruction_turns import events_of_truth
from training.metrics.answers import DifferenceScores, difference_scores, exact_matches, ms_cxr_t_accuracy, recalls
from training.metrics.classification import ratio
from training.metrics.meteor import MetricUnavailableError, meteor
from training.metrics.pairs import change_said
from training.metrics.text import bleu, cider, rouge_l, tokenise
from training.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScores:
    """Difference sentences. meteor: None where it was not computed; why then stands in meteor_missing."""

    answers: int
    bleu4: float
    rouge_l: float
    cider: float
    meteor: float | None
    meteor_missing: str
    difference: DifferenceScores
    unchanged: DifferenceScores
    """The same scores of the baseline "nothing has changed"."""
    unchanged_bleu4: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedScores:
    """Published questions by type: closed (yes/no and choices written out) by exact match, open by recall and match."""

    closed_accuracy: float
    open_recall: float
    open_exact: float
    by_type: dict[str, tuple[int, float, float]]
    """type → (questions, exact match, recall)."""
    per_question: dict[str, float]


def reference_sentence(record: Record) -> str | None:
    """The true difference answer of a record: the published one, else written from its truth; None where unknown.

    A published answer outside the grammar gives None: events could not be scored against it.
    """
    published = [item for item in record.asked if item.type is QuestionType.DIFFERENCE]
    if published:
        return published[0].answer if parse_events(published[0].answer).complete else None
    if record.prior is None or not record.truth.findings:
        return None
    events = events_of_truth(record.truth)
    return write_events(events) if events is not None else None


def score_texts(
    records: Sequence[Record], said: Sequence[Prediction], *, meteor_wanted: bool = True
) -> TextScores | None:
    """Score the open difference answers; None where no record has both a true and a said sentence."""
    pairs = [
        (reference, answer.difference_text)
        for record, answer in zip(records, said, strict=True)
        if answer.difference_text is not None and (reference := reference_sentence(record)) is not None
    ]
    if not pairs:
        return None
    truth, answers = [reference for reference, _ in pairs], [answer for _, answer in pairs]
    references = [[tokenise(text)] for text in truth]
    hypotheses = [tokenise(text) for text in answers]
    nothing = ["nothing has changed."] * len(truth)
    value, missing = _meteor(references, hypotheses) if meteor_wanted else (None, "not asked for")
    return TextScores(
        answers=len(pairs),
        bleu4=bleu(references, hypotheses).value,
        rouge_l=rouge_l(references, hypotheses).value,
        cider=cider(references, hypotheses).value,
        meteor=value,
        meteor_missing=missing,
        difference=difference_scores(truth, answers),
        unchanged=difference_scores(truth, nothing),
        unchanged_bleu4=bleu(references, [tokenise(text) for text in nothing]).value,
    )


def _meteor(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> tuple[float | None, str]:
    try:
        return meteor(references, hypotheses).value, ""
    except MetricUnavailableError as error:
        return None, str(error)


def score_published(answered: Sequence[tuple[Record, Sequence[str]]]) -> PublishedScores:
    """Score answers to published questions; a question is closed where its published answer is yes or no."""
    rows = [
        (f"{record.record_id}/{number}", item, said)
        for record, answers in answered
        for number, (item, said) in enumerate(zip(record.asked, answers, strict=True))
    ]
    exact = exact_matches([item.answer for _, item, _ in rows], [said for _, _, said in rows])
    recall = recalls([item.answer for _, item, _ in rows], [said for _, _, said in rows])
    closed = [item.answer.strip(" .").lower() in YES_NO for _, item, _ in rows]
    by_type = {}
    for type in QuestionType:
        chosen = [place for place, (_, item, _) in enumerate(rows) if item.type is type]
        if chosen:
            by_type[type.value] = (
                len(chosen),
                ratio(sum(exact[place] for place in chosen), len(chosen)),
                ratio(sum(recall[place] for place in chosen), len(chosen)),
            )
    opened = [place for place, is_closed in enumerate(closed) if not is_closed]
    return PublishedScores(
        closed_accuracy=ratio(sum(e for e, c in zip(exact, closed, strict=True) if c), sum(closed)),
        open_recall=ratio(sum(recall[place] for place in opened), len(opened)),
        open_exact=ratio(sum(exact[place] for place in opened), len(opened)),
        by_type=by_type,
        per_question={key: score for (key, _, _), score in zip(rows, exact, strict=True)},
    )


def published_asker(predictor: Predictor) -> Callable[[Record, StudyPair], list[str]]:
    """Ask a record's published questions: yes/no questions are scored, all others generated."""

    def ask(record: Record, pair: StudyPair) -> list[str]:
        questions = tuple(
            Question(
                key=f"published/{number}",
                type=item.type,
                text=item.question,
                allowed=YES_NO if item.answer.strip(" .").lower() in YES_NO else None,
                image=None if item.type is QuestionType.DIFFERENCE else ImageRole.CURRENT,
                needs_prior=item.type is QuestionType.DIFFERENCE,
            )
            for number, item in enumerate(record.asked)
        )
        pictures = [predictor.vlm.picture(pair.current)]
        if pair.prior is not None:
            pictures.insert(0, predictor.vlm.picture(pair.prior))
        context = context_text(pair.context) if predictor.manifest.context else None
        layout = predictor.vlm.layout(priors=len(pictures) - 1, context=context)
        (answers,) = predictor.engine.ask([Job(pictures=tuple(pictures), layout=layout, questions=questions)])
        return [
            answers.open[question.key].text
            if question.allowed is None
            else max(scores := predictor.calibrated(answers.closed[question.key]), key=lambda word: scores[word])
            for question in questions
        ]

    return ask


def progression_scores(records: Sequence[Record], said: Sequence[Prediction]) -> dict[str, float]:
    """MS-CXR-T's macro accuracy from structured predictions, over the findings whose change alone is labelled."""
    return ms_cxr_t_accuracy(
        (key, truth.change, change_said(answer.finding(key)) if _has(answer, key) else "missing")
        for record, answer in zip(records, said, strict=True)
        for key, truth in record.truth.findings.items()
        if truth.change is not None and truth.current is None
    )


def _has(answer: Prediction, key: str) -> bool:
    return any(finding.key == key for finding in answer.findings)
