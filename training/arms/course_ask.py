"""The test of the study on courses: closed questions on held-out courses, with the probability of every answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from model.engine.answers import EngineJob, JobAnswers
from model.engine.engine import Engine
from model.engine.vlm import NvilaVlm
from model.questions.battery import Question, QuestionType, closed_question
from training.arms.course_data import StudyCourses, days_before, expert_line, study_truth
from training.arms.data import STUDY_FINDINGS
from training.phantom.scene import PhantomCourse

COURSES_AT_ONCE = 24
"""Courses of one round; the tower then reads each of their films once."""
SHOWN = {"one": (1,), "two": (0, 1)}
"""Films that a question is asked of; the next one, which is not shown, is film 2."""


class CourseAnswerSet(StrEnum):
    """The part of the test that an answer belongs to."""

    PRESENCE = "presence"
    """One film: is the finding there."""
    CHANGE = "change"
    """Two films: how the finding has changed."""
    NEXT_FROM_ONE = "next from one"
    """The current film alone: how the finding will change to the next film."""
    NEXT_FROM_TWO = "next from two"
    """The same, of prior and current film and the days between them."""


ASKED = {
    CourseAnswerSet.PRESENCE: ("one", QuestionType.PRESENCE),
    CourseAnswerSet.CHANGE: ("two", QuestionType.CHANGE),
    CourseAnswerSet.NEXT_FROM_ONE: ("one", QuestionType.PREDICTION),
    CourseAnswerSet.NEXT_FROM_TWO: ("two", QuestionType.PREDICTION),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseAnswer:
    """One answer. course: seed of the phantom. shares: probability of each allowed answer."""

    set: CourseAnswerSet
    course: int
    finding: str
    truth: str
    shares: dict[str, float]

    @property
    def said(self) -> str:
        """The likeliest answer, of equal ones the first."""
        return max(self.shares, key=lambda answer: self.shares[answer])

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def ask_courses(vlm: NvilaVlm, courses: StudyCourses, labels: tuple[str, ...] = ()) -> list[CourseAnswer]:
    """Every question on every course. labels: of the expert, whose text stands in the prompt; empty: no text."""
    engine = Engine(vlm, pairs_at_once=COURSES_AT_ONCE)
    answers: list[CourseAnswer] = []
    for start in range(0, courses.courses, COURSES_AT_ONCE):
        numbers = range(start, min(start + COURSES_AT_ONCE, courses.courses))
        with vlm.model.keep_features():
            for films in SHOWN:
                answers += _ask_round(engine, courses, numbers, films, labels)
    return answers


def _ask_round(
    engine: Engine, courses: StudyCourses, numbers: Sequence[int], films: str, labels: tuple[str, ...]
) -> Iterator[CourseAnswer]:
    # Together, what is asked of the same films: the questions share the prefix with the images.
    kinds = {kind: type for kind, (shown, type) in ASKED.items() if shown == films}
    asked = {kind: {key: closed_question(type, key) for key in STUDY_FINDINGS} for kind, type in kinds.items()}
    questions = tuple(question for by_key in asked.values() for question in by_key.values())
    drawn = [courses.course(number) for number in numbers]
    jobs = []
    for number, course in zip(numbers, drawn, strict=True):
        shown, pictures = SHOWN[films], courses.films(number)
        expert = expert_line(courses, number, shown, labels) if labels else None
        days = days_before(course, shown)
        layout = engine.vlm.layout(priors=len(shown) - 1, days=days, expert=expert)
        jobs.append(EngineJob(pictures=tuple(pictures[film] for film in shown), layout=layout, questions=questions))
    for number, course, answer in zip(numbers, drawn, engine.ask(jobs), strict=True):
        for kind, by_key in asked.items():
            for key, question in by_key.items():
                yield CourseAnswer(
                    set=kind,
                    course=courses.first_seed + number,
                    finding=key,
                    truth=_true_answer(course, kind, key),
                    shares=_shares(answer, question),
                )


def _true_answer(course: PhantomCourse, kind: CourseAnswerSet, key: str) -> str:
    is_future = kind in (CourseAnswerSet.NEXT_FROM_ONE, CourseAnswerSet.NEXT_FROM_TWO)
    truth = study_truth(course, 2 if is_future else 1).findings[key]
    if kind is CourseAnswerSet.PRESENCE:
        return "yes" if truth.current is not None and truth.current.present else "no"
    assert truth.change_answer is not None  # a phantom's changes are all known
    return truth.change_answer


def _shares(answers: JobAnswers, question: Question) -> dict[str, float]:
    return answers.closed[question.key].probabilities()
