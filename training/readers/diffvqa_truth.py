"""Findings stated by published answers: presence from questions and labels, change from the difference sentences."""

from __future__ import annotations

from collections.abc import Iterable

from model.ontology import ontology
from model.questions.answers import YES_NO, parse_choice
from model.questions.battery import QuestionType, parse_question
from model.questions.grammar import Event, EventKind, parse_events
from model.questions.vocabulary import grade_of_level
from training.readers.labels import Known, pair_findings, single_findings
from training.records.record import Asked
from training.records.truth import FindingTruth, ImageTruth, PairTruth

_WHOLE_IMAGE_FORMS = (0, 1)
"""Forms of the presence question that ask of the whole image, not of a place or both sides."""


def single_truth(pair_id: str, patient_id: str, view: str, known: Known, asked: Iterable[Asked]) -> PairTruth:
    """Truth of one image: its labels, overruled by the set's own answers (read from the same report with more care)."""
    present = dict(known)
    for item in asked:
        question = parse_question(item.question) if item.type is QuestionType.PRESENCE else None
        answer = parse_choice(item.answer, YES_NO)
        # Only questions on the whole image: "is there … in the left lung?" answers nothing for the other side.
        if question is not None and question.finding and question.form in _WHOLE_IMAGE_FORMS and answer is not None:
            present[question.finding] = answer == "yes"
    return PairTruth(
        pair_id=pair_id,
        patient_id=patient_id,
        findings=single_findings(present),
        has_prior=False,
        view=view,
        proxy=True,
    )


def pair_truth(
    pair_id: str, patient_id: str, views: tuple[str, str], known: tuple[Known, Known], asked: Iterable[Asked]
) -> PairTruth:
    """Truth of a pair (values are (current, prior)): the labels of both images, overruled by the events of the answer.

    Where the answer names an event, it decides the finding; a label that contradicts it is not kept beside it.
    """
    findings = pair_findings(*known)
    for item in asked:
        parsed = parse_events(item.answer)
        for event in parsed.events:
            if event.kind is not EventKind.NONE:
                findings[event.finding] = _of_event(event)
    ordered = {key: findings[key] for key in ontology().findings if key in findings}
    return PairTruth(
        pair_id=pair_id, patient_id=patient_id, findings=ordered, view=views[0], prior_view=views[1], proxy=True
    )


def _of_event(event: Event) -> FindingTruth:
    """NEW: only on the current image; RESOLVED: only on the prior; LEVEL: on both, with the degrees as grades."""
    grade_now = grade_of_level(event.after) if event.after is not None else None
    grade_before = grade_of_level(event.before) if event.before is not None else None
    return FindingTruth(
        key=event.finding,
        current=ImageTruth(present=event.kind is not EventKind.RESOLVED, grade=grade_now),
        prior=ImageTruth(present=event.kind is not EventKind.NEW, grade=grade_before),
        change=event.change,
    )
