"""The sentences of an evaluation: difference answers against their truths, published questions and their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from model.engine.answers import EngineJob
from model.predict import Predictor
from model.questions.answers import YES_NO
from model.questions.battery import Question, QuestionType, parse_question
from model.questions.grammar import parse_events, write_events
from model.questions.prompts import context_text
from model.schema import ImageRole, Prediction, StudyPair
from training.instructions.turns import events_of_truth, lumen_turns
from training.metrics.answers import DifferenceScores, difference_scores, exact_matches, recalls
from training.metrics.classification import ratio
from training.metrics.meteor import MetricUnavailableError, meteor
from training.metrics.pairs import change_said
from training.metrics.significance import Interval
from training.metrics.summed import SummedFigure, event_figure, interval, mean_figure, progression_figures, text_figures
from training.metrics.text import CorpusScore, tokenise
from training.records.record import Asked, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScores:
    """Difference sentences. meteor: None where it was not computed; why then stands in meteor_missing.

    figures: BLEU-4, ROUGE-L, CIDEr and event F1 with their intervals. per_answer: of each of them (METEOR too, where it
    was computed) the score of each record's answer, for paired tests.
    """

    answers: int
    figures: dict[str, Interval]
    per_answer: dict[str, dict[str, float]]
    meteor: float | None
    meteor_missing: str
    difference: DifferenceScores
    unchanged: DifferenceScores
    """The same scores of the baseline "nothing has changed"."""
    unchanged_figures: dict[str, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedScores:
    """Published questions by type: closed (yes/no and choices written out) by exact match, open by recall and match."""

    closed_accuracy: Interval
    open_recall: Interval
    open_exact: Interval
    by_type: dict[str, tuple[int, float, float]]
    """type → (questions, exact match, recall)."""
    per_answer: dict[str, dict[str, float]]
    """Figure → "record/number of the question" → score."""
    open_texts: dict[str, Interval] = field(default_factory=dict)
    """BLEU-4 and ROUGE-L of the open answers, as LUMEN reports them; empty where there is none."""


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
    records: Sequence[Record], said: Sequence[Prediction], *, meteor_wanted: bool = True, resamples: int = 1000
) -> TextScores | None:
    """Score the open difference answers; None where no record has both a true and a said sentence."""
    pairs = [
        (record, reference, answer.difference_text)
        for record, answer in zip(records, said, strict=True)
        if answer.difference_text is not None and (reference := reference_sentence(record)) is not None
    ]
    if not pairs:
        return None
    keys, patients = [r.record_id for r, _, _ in pairs], [r.patient_id for r, _, _ in pairs]
    truth, answers = [reference for _, reference, _ in pairs], [answer for _, _, answer in pairs]
    # The baseline of all such sets: most pairs have not changed, and saying so of each scores high on word overlap.
    nothing = ["nothing has changed."] * len(truth)
    score, missing = _meteor(truth, answers) if meteor_wanted else (None, "not asked for")
    figures = _text_figures(keys, patients, truth, answers)
    per_answer = {name: dict(figure.each) for name, figure in figures.items()}
    if score is not None:
        per_answer["METEOR"] = dict(zip(keys, score.each, strict=True))
    unchanged = _text_figures(keys, patients, truth, nothing)
    return TextScores(
        answers=len(pairs),
        figures={name: interval([figure], resamples=resamples) for name, figure in figures.items()},
        per_answer=per_answer,
        meteor=score.value if score is not None else None,
        meteor_missing=missing,
        difference=difference_scores(truth, answers),
        unchanged=difference_scores(truth, nothing),
        unchanged_figures={name: interval([figure], resamples=resamples) for name, figure in unchanged.items()},
    )


def _text_figures(
    keys: Sequence[str], patients: Sequence[str], truth: Sequence[str], said: Sequence[str]
) -> dict[str, SummedFigure]:
    figures = text_figures(keys, patients, truth, said)
    return {**figures, "event F1": event_figure(keys, patients, truth, said)}


def _meteor(truth: Sequence[str], said: Sequence[str]) -> tuple[CorpusScore | None, str]:
    try:
        return meteor([[tokenise(text)] for text in truth], [tokenise(text) for text in said]), ""
    except MetricUnavailableError as error:
        return None, str(error)


def score_published(answered: Sequence[tuple[Record, Sequence[str]]], *, resamples: int = 1000) -> PublishedScores:
    """Score answers to published questions; a question is closed where its published answer is yes or no."""
    rows = [
        (f"{record.record_id}/{number}", record.patient_id, item, answer)
        for record, answers in answered
        for number, (item, answer) in enumerate(zip(record.asked, answers, strict=True))
    ]
    exact = exact_matches([item.answer for _, _, item, _ in rows], [answer for _, _, _, answer in rows])
    recall = recalls([item.answer for _, _, item, _ in rows], [answer for _, _, _, answer in rows])
    closed = [is_closed(item) for _, _, item, _ in rows]

    def figure(scores: Sequence[float], wanted: bool) -> SummedFigure:
        chosen = [number for number, closed_item in enumerate(closed) if closed_item is wanted]
        keys, patients = [rows[number][0] for number in chosen], [rows[number][1] for number in chosen]
        return mean_figure(keys, patients, [scores[number] for number in chosen])

    by_type = {}
    for type in QuestionType:
        chosen = [number for number, (_, _, item, _) in enumerate(rows) if item.type is type]
        if chosen:
            by_type[type.value] = (
                len(chosen),
                ratio(sum(exact[number] for number in chosen), len(chosen)),
                ratio(sum(recall[number] for number in chosen), len(chosen)),
            )
    # Figures of their own: half of the closed questions are right by chance, an open answer hardly ever.
    figures = {
        "closed accuracy": figure(exact, True),
        "open recall": figure(recall, False),
        "open exact": figure(exact, False),
    }
    open_rows = [row for row, is_yes_no in zip(rows, closed, strict=True) if not is_yes_no]
    with_interval = {name: interval([figure], resamples=resamples) for name, figure in figures.items()}
    return PublishedScores(
        closed_accuracy=with_interval["closed accuracy"],
        open_recall=with_interval["open recall"],
        open_exact=with_interval["open exact"],
        by_type=by_type,
        per_answer={name: dict(figure.each) for name, figure in figures.items()},
        open_texts=_open_texts(open_rows, resamples),
    )


def _open_texts(rows: Sequence[tuple[str, str, Asked, str]], resamples: int) -> dict[str, Interval]:
    """BLEU-4 and ROUGE-L of (key, patient, question, answer) rows."""
    if not rows:
        return {}
    keys, patients, asked, answers = zip(*rows, strict=True)
    figures = text_figures(keys, patients, [item.answer for item in asked], answers)
    return {name: interval([figures[name]], resamples=resamples) for name in ("BLEU-4", "ROUGE-L")}


def is_closed(item: Asked) -> bool:
    """Tell whether a published question is answered by yes or no."""
    return item.answer.strip(" .").lower() in YES_NO


def with_lumen_questions(record: Record, findings: Sequence[str] | None = None) -> Record:
    """The record with LUMEN's single-image questions on its current image, where it brings none of its own.

    findings: those that may be asked about; None: all that are labelled.
    """
    if any(item.type is not QuestionType.DIFFERENCE for item in record.asked):
        return record
    known = {key: truth for key, truth in record.truth.findings.items() if findings is None or key in findings}
    asked = []
    for turn, _ in lumen_turns(replace(record.truth, findings=known), of="current"):
        parsed = parse_question(turn.question)
        assert parsed is not None
        asked.append(Asked(type=parsed.type, question=turn.question, answer=turn.answer or ""))
    return replace(record, asked=(*record.asked, *asked))


def make_published_asker(predictor: Predictor) -> Callable[[Record, StudyPair], list[str]]:
    """Ask a record's published questions: yes/no questions are scored, all others generated.

    Questions on one image are asked of the current image alone, as the diagnostic stream teaches them; the difference
    is asked of the pair.
    """

    def ask(record: Record, pair: StudyPair) -> list[str]:
        questions = [
            Question(
                key=f"published/{number}",
                type=item.type,
                text=item.question,
                allowed=YES_NO if is_closed(item) else None,
                image=None if item.type is QuestionType.DIFFERENCE else ImageRole.CURRENT,
                needs_prior=item.type is QuestionType.DIFFERENCE,
            )
            for number, item in enumerate(record.asked)
        ]
        pictures = [predictor.vlm.picture(pair.current)]
        if pair.prior is not None:
            pictures.insert(0, predictor.vlm.picture(pair.prior))
        context = context_text(pair.context) if predictor.manifest.context else None
        jobs = []
        # Questions of one image see the current image alone, those of a difference see both; each group is one job.
        for shown, of_pair in ((pictures[-1:], False), (pictures, True)):
            of_kind = tuple(question for question in questions if question.needs_prior is of_pair)
            if of_kind:
                layout = predictor.vlm.layout(priors=len(shown) - 1, context=context)
                jobs.append(EngineJob(pictures=tuple(shown), layout=layout, questions=of_kind))
        texts: dict[str, str] = {}
        for answers in predictor.engine.ask(jobs):
            texts |= {key: answer.text for key, answer in answers.open.items()}
            for key, answer in answers.closed.items():
                scores = predictor.calibrate_answer(answer)
                texts[key] = max(scores, key=lambda word: scores[word])
        return [texts[question.key] for question in questions]

    return ask


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressionScores:
    """MS-CXR-T's macro accuracy with intervals, by finding and as "macro". per_answer: "record/finding" → 1 or 0."""

    figures: dict[str, Interval]
    per_answer: dict[str, float]


def progression_scores(
    records: Sequence[Record], said: Sequence[Prediction], *, resamples: int = 1000
) -> ProgressionScores | None:
    """From structured predictions, over the findings whose change alone is labelled; None where there is none."""
    rows = [
        (record, key, truth.change.value, change_said(answer.finding(key)) if _has(answer, key) else "missing")
        for record, answer in zip(records, said, strict=True)
        for key, truth in record.truth.findings.items()
        if truth.change is not None and truth.current is None
    ]
    if not rows:
        return None
    figures = progression_figures(
        [f"{record.record_id}/{key}" for record, key, _, _ in rows],
        [record.patient_id for record, _, _, _ in rows],
        [key for _, key, _, _ in rows],
        [true for _, _, true, _ in rows],
        [answer for _, _, _, answer in rows],
    )
    return ProgressionScores(
        figures={name: interval([scores], resamples=resamples) for name, scores in figures.items()},
        per_answer=dict(figures["macro"].each),
    )


def _has(answer: Prediction, key: str) -> bool:
    return any(finding.key == key for finding in answer.findings)
