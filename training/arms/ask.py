"""The test of the study: the same questions on held-out phantom pairs for every arm, and what was answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from model.engine.answers import EngineJob, JobAnswers
from model.engine.engine import Engine
from model.engine.vlm import NvilaVlm
from model.questions.answers import YES_NO
from model.questions.battery import (
    DIFFERENCE_TEXT,
    PREDICTION_BOTH_TEXT,
    PREDICTION_TEXT,
    Question,
    QuestionType,
    closed_question,
    lumen_question,
)
from model.questions.grammar import Tense, write_events
from model.questions.prompts import Turn
from training.arms.data import STUDY_FINDINGS, ArmPair, Shown, StudyPhantoms, oracle_row, oracle_text
from training.instructions.turns import events_of_truth, lumen_turns

EXPERT_SEED = 815
"""Of the expert's errors on the test pairs: the same image always gets the same text."""
MAX_NEW_TOKENS = 72
PAIRS_AT_ONCE = 32


class AnswerSet(StrEnum):
    """The part of the test that an answer belongs to."""

    CLOSED = "closed"
    """One image, yes or no, in the published wording; scored among the two."""
    OPEN = "open"
    """One image, written: what is there, where, of what degree, which view."""
    DIFFERENCE = "difference"
    """Both images, written: what has changed."""
    PREDICTION = "prediction"
    """The prior alone, written: what will have changed."""
    PREDICTION_BOTH = "prediction_both"
    """Both images, written, in the future tense."""
    CHANGE = "change"
    """Both images, one finding, one of six changes; scored among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmAnswer:
    """One answer. key: unique in its set. back: of a change, what was said of the pair in the other order."""

    set: AnswerSet
    key: str
    pair: int
    truth: str
    said: str
    back: str = ""

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def ask_all(vlm: NvilaVlm, phantoms: StudyPhantoms, *, expert: bool) -> list[ArmAnswer]:
    """Every question on every pair; expert: with its text before the question, as the arm was trained."""
    engine = Engine(vlm, max_new_tokens=MAX_NEW_TOKENS, pairs_at_once=PAIRS_AT_ONCE)
    shown = [_Asked(vlm, phantoms.pair(index), index, expert=expert) for index in range(phantoms.pairs)]
    return [
        *_ask_single(engine, shown),
        *_ask_levels(engine, shown),
        *_ask_pairs(engine, shown),
        *_ask_future(engine, shown),
    ]


class _Asked:
    """One pair with its jobs."""

    def __init__(self, vlm: NvilaVlm, pair: ArmPair, index: int, *, expert: bool) -> None:
        self.vlm, self.pair, self.index, self.expert = vlm, pair, index, expert
        self.events = events_of_truth(pair.truth)

    def job(self, images: Sequence[Shown], questions: Sequence[Question]) -> EngineJob:
        """These images, the last one as the current."""
        text = oracle_text([self._row(image) for image in images]) if self.expert else None
        films = tuple(self.pair.films[0 if image == "prior" else 1] for image in images)
        layout = self.vlm.layout(priors=len(images) - 1, expert=text)
        return EngineJob(pictures=films, layout=layout, questions=tuple(questions))

    def _row(self, image: Shown) -> np.ndarray[Any, np.dtype[np.float64]]:
        rng = np.random.default_rng([EXPERT_SEED, self.index, int(image == "current")])
        return oracle_row(self.pair.truth, image, rng)


def _open(key: str, type: QuestionType, text: str) -> Question:
    return Question(key=key, type=type, text=text, image=None)


def _ask_single(engine: Engine, shown: Sequence[_Asked]) -> Iterator[ArmAnswer]:
    """The current image alone: presence of each finding, whether anything is there, the list, the view."""
    presence = {key: lumen_question(QuestionType.PRESENCE, finding=key) for key in STUDY_FINDINGS}
    texts = {**presence, "any": lumen_question(QuestionType.ABNORMALITY, 2)}
    closed = [
        Question(key=key, type=QuestionType.PRESENCE, text=text, allowed=YES_NO, image=None)
        for key, text in texts.items()
    ]
    written = {
        "list": _open("list", QuestionType.ABNORMALITY, lumen_question(QuestionType.ABNORMALITY)),
        "view": _open("view", QuestionType.VIEW, lumen_question(QuestionType.VIEW)),
    }
    answers = engine.ask([asked.job(("current",), [*closed, *written.values()]) for asked in shown])
    for asked, answer in zip(shown, answers, strict=True):
        truths = _lumen_truths(asked.pair)
        for question in (*closed, *written.values()):
            if question.text in truths:
                kind = AnswerSet.CLOSED if question.allowed else AnswerSet.OPEN
                key, truth = f"{asked.index}/{question.key}", truths[question.text]
                yield ArmAnswer(set=kind, key=key, pair=asked.index, truth=truth, said=_said(answer, question))


def _lumen_truths(pair: ArmPair) -> dict[str, str]:
    """Published question → true answer, for the current image."""
    turns: list[Turn] = [turn for turn, _ in lumen_turns(pair.truth, of="current")]
    return {turn.question: turn.answer or "" for turn in turns}


def _ask_levels(engine: Engine, shown: Sequence[_Asked]) -> Iterator[ArmAnswer]:
    """Where each finding is and of what degree, asked where it is there."""
    for finding in STUDY_FINDINGS:
        questions = [
            _open(f"{type.value}/{finding}", type, lumen_question(type, finding=finding))
            for type in (QuestionType.LOCATION, QuestionType.LEVEL)
        ]
        askable = [asked for asked in shown if any(q.text in _lumen_truths(asked.pair) for q in questions)]
        answers = engine.ask([asked.job(("current",), questions) for asked in askable])
        for asked, answer in zip(askable, answers, strict=True):
            truths = _lumen_truths(asked.pair)
            for question in questions:
                if question.text in truths:
                    key, truth = f"{asked.index}/{question.key}", truths[question.text]
                    answered = _said(answer, question)
                    yield ArmAnswer(set=AnswerSet.OPEN, key=key, pair=asked.index, truth=truth, said=answered)


def _ask_pairs(engine: Engine, shown: Sequence[_Asked]) -> Iterator[ArmAnswer]:
    """Both images: each finding's change, in both orders; what has changed, in both tenses."""
    changes = {key: closed_question(QuestionType.CHANGE, key) for key in STUDY_FINDINGS}
    difference = _open("difference", QuestionType.DIFFERENCE, DIFFERENCE_TEXT)
    foretold = _open("prediction", QuestionType.PREDICTION, PREDICTION_BOTH_TEXT)
    questions = [*changes.values(), difference, foretold]
    forth = engine.ask([asked.job(("prior", "current"), questions) for asked in shown])
    # The same questions with the images turned round: whether the model reads the order or the pictures.
    back = engine.ask([asked.job(("current", "prior"), list(changes.values())) for asked in shown])
    for asked, answer, turned in zip(shown, forth, back, strict=True):
        for key, question in changes.items():
            yield ArmAnswer(
                set=AnswerSet.CHANGE,
                key=f"{asked.index}/{key}",
                pair=asked.index,
                truth=asked.pair.truth.findings[key].change_answer or "",
                said=_said(answer, question),
                back=_said(turned, question),
            )
        for kind, question, tense in (
            (AnswerSet.DIFFERENCE, difference, Tense.DIFFERENCE),
            (AnswerSet.PREDICTION_BOTH, foretold, Tense.PREDICTION),
        ):
            yield from _ask_sentence(asked, kind, tense, _said(answer, question))


def _ask_future(engine: Engine, shown: Sequence[_Asked]) -> Iterator[ArmAnswer]:
    """The prior alone: what will have changed."""
    question = _open("prediction", QuestionType.PREDICTION, PREDICTION_TEXT)
    answers = engine.ask([asked.job(("prior",), [question]) for asked in shown])
    for asked, answer in zip(shown, answers, strict=True):
        yield from _ask_sentence(asked, AnswerSet.PREDICTION, Tense.PREDICTION, _said(answer, question))


def _ask_sentence(asked: _Asked, kind: AnswerSet, tense: Tense, said: str) -> Iterator[ArmAnswer]:
    if asked.events is not None:
        truth = write_events(asked.events, tense)
        yield ArmAnswer(set=kind, key=str(asked.index), pair=asked.index, truth=truth, said=said)


def _said(answers: JobAnswers, question: Question) -> str:
    """The likeliest allowed answer, or what was written."""
    if question.allowed is None:
        return answers.open[question.key].text
    scores = answers.closed[question.key].log_probabilities
    return question.allowed[int(np.argmax(scores))]
