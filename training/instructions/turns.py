"""Turns of question and answer from the truth of a pair: our closed questions, LUMEN's templates, predictions."""

from __future__ import annotations

from typing import Literal

from model.ontology import FindingKind, ontology
from model.questions.answers import write_findings, write_level, write_locations, write_view
from model.questions.battery import QuestionType, closed_question, lumen_question, view_question
from model.questions.grammar import Event, EventKind, canonical
from model.questions.prompts import Turn
from model.schema import Change, ImageRole
from training.records.truth import FindingTruth, ImageTruth, PairTruth

Image = Literal["current", "prior"]
FlaggedTurn = tuple[Turn, bool]
"""A turn and whether it is on a finding that is on none of the images shown (such turns may be thinned out)."""


def make_closed_turns(truth: PairTruth, *, alone: Image | None = None) -> list[FlaggedTurn]:
    """Our scored questions on a pair, or on one image of it shown alone (which is then the current image).

    Sides and degrees are asked of present findings only: of an absent one there is nothing true to say.
    """
    turns: list[FlaggedTurn] = []
    views = [(truth.view, ImageRole.CURRENT), (truth.prior_view, ImageRole.PRIOR)]
    # Shown alone, either image takes the place of the current one in the prompt.
    if alone is not None:
        views = [(truth.view if alone == "current" else truth.prior_view, ImageRole.CURRENT)]
    for view, role in views:
        if view in ("AP", "PA"):
            turns.append((Turn(question=view_question(role).text, answer=view), False))
    for finding in truth.findings.values():
        if alone is not None:
            turns += _image_turns(finding, finding.current if alone == "current" else finding.prior)
        else:
            turns += _image_turns(finding, finding.current)
            turns += _image_turns(finding, finding.prior, prior=True)
            change = _allow_change(QuestionType.CHANGE, finding)
            if truth.has_prior and change is not None:
                turns.append((_turn(QuestionType.CHANGE, finding.key, change), change == "none"))
    return turns


def _image_turns(finding: FindingTruth, image: ImageTruth | None, *, prior: bool = False) -> list[FlaggedTurn]:
    if image is None:
        return []
    presence, side, grade = (
        (QuestionType.PRIOR_PRESENCE, QuestionType.PRIOR_SIDE, QuestionType.PRIOR_GRADE)
        if prior
        else (QuestionType.PRESENCE, QuestionType.SIDE, QuestionType.GRADE)
    )
    turns = [(_turn(presence, finding.key, "yes" if image.present else "no"), finding.nothing or not image.present)]
    if image.present and image.side is not None:
        turns.append((_turn(side, finding.key, image.side), False))
    if image.present and image.grade is not None:
        turns.append((_turn(grade, finding.key, image.grade), False))
    return turns


def _turn(type: QuestionType, finding: str, answer: str) -> Turn:
    return Turn(question=closed_question(type, finding).text, answer=answer)


def prediction_turns(truth: PairTruth) -> list[FlaggedTurn]:
    """Turns on the future of each finding, asked of the prior image shown alone (it is then the current one)."""
    return [
        (_turn(QuestionType.PREDICTION, finding.key, answer), answer == "none")
        for finding in truth.findings.values()
        if (answer := _allow_change(QuestionType.PREDICTION, finding)) is not None
    ]


def _allow_change(type: QuestionType, finding: FindingTruth) -> str | None:
    """The known change where the question allows it: published labels let a tube or a fracture grow worse."""
    answer = finding.change_answer
    return answer if answer in (closed_question(type, finding.key).allowed or ()) else None


def lumen_turns(truth: PairTruth, *, of: Image) -> list[FlaggedTurn]:
    """LUMEN's six single-image types, as far as the labels of that image answer them."""
    known = {
        key: image
        for key, finding in truth.findings.items()
        if (image := finding.current if of == "current" else finding.prior) is not None
    }
    view = truth.view if of == "current" else truth.prior_view
    turns: list[FlaggedTurn] = []
    if view in ("AP", "PA"):
        turns.append((Turn(question=lumen_question(QuestionType.VIEW), answer=write_view(view)), False))
    if not known:
        return turns
    # Devices are no abnormalities: the published set has none in these answers.
    present = [
        key for key, image in known.items() if image.present and ontology().findings[key].kind is FindingKind.FINDING
    ]
    turns.append((Turn(question=lumen_question(QuestionType.ABNORMALITY), answer=write_findings(present)), False))
    any_there = "yes" if present else "no"
    turns.append((Turn(question=lumen_question(QuestionType.ABNORMALITY, 2), answer=any_there), False))
    for key, image in known.items():
        presence = lumen_question(QuestionType.PRESENCE, finding=key)
        turns.append((Turn(question=presence, answer="yes" if image.present else "no"), not image.present))
        if image.present and image.side is not None:
            where = lumen_question(QuestionType.LOCATION, finding=key)
            turns.append((Turn(question=where, answer=write_locations([image.side])), False))
        if image.present and image.grade is not None:
            level = lumen_question(QuestionType.LEVEL, finding=key)
            turns.append((Turn(question=level, answer=write_level([image.grade])), False))
    return turns


def events_of_truth(truth: PairTruth) -> tuple[Event, ...] | None:
    """The difference answer of a pair as events; None where a labelled finding's change is not known.

    Worsening and improving become LEVEL events where both grades are known and differ; the published grammar has no
    other words for them, so a change of degree without grades makes the whole answer unknown.
    """
    events = []
    for finding in truth.findings.values():
        # An answer that left this finding out would say that it has not changed.
        if finding.change is None and not finding.nothing:
            return None
        if finding.change in (Change.NEW, Change.RESOLVED):
            kind = EventKind.NEW if finding.change is Change.NEW else EventKind.RESOLVED
            events.append(Event(kind=kind, finding=finding.key))
        elif finding.change in (Change.WORSENING, Change.IMPROVING):
            before = finding.prior.grade if finding.prior is not None else None
            after = finding.current.grade if finding.current is not None else None
            if before is None or after is None or before == after:
                return None
            events.append(Event(kind=EventKind.LEVEL, finding=finding.key, before=before, after=after))
    return canonical(events)
