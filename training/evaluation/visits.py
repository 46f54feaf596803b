"""A model's reading of five visits, and the fit of an option of a multiple-choice question to it.

Options that speak of presence ("T2 → T3", "T1, T5", "There is no …") are sets of the 32 courses that a finding can have
over five visits; their score is the belief in these. Options that speak of changes ("T1 to T2 worsening; …") are scored
by the belief in each change. Prose is not understood: an item with such an option is not answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Protocol

from model.questions.answers import CHANGE_ANSWERS
from model.questions.vocabulary import finding_name
from model.schema import Change, DisplayImage, Finding, Prediction, StudyPair
from training.records.choices import VISITS, ChoiceItem

Course = tuple[bool, ...]
COURSES: tuple[Course, ...] = tuple(product((False, True), repeat=VISITS))
_INTERVAL = re.compile(r"T(\d) (?:→|->) T(\d)")
_PAIR = re.compile(r"T(\d), ?T(\d)")
_NOTHING = re.compile(r"(there is no|none of)\b", re.IGNORECASE)
_STEP = re.compile(r"T(\d) to T(\d) ([a-z]+)")


class VisitPredictor(Protocol):
    """Anything that answers pairs, such as `model.predict.Predictor`."""

    def predict(self, pair: StudyPair) -> Prediction:
        """Answer one image, or one pair."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitReading:
    """presence: finding → probability on each visit. changes: finding → for each of the four intervals the probability
    of each change answer."""

    presence: Mapping[str, tuple[float, ...]]
    changes: Mapping[str, tuple[Mapping[str, float], ...]]


def read_visits(predictor: VisitPredictor, images: Sequence[DisplayImage]) -> VisitReading:
    """Ask for the first visit alone and for each later one beside the one before it."""
    predictions = [predictor.predict(StudyPair(current=images[0]))]
    predictions += [predictor.predict(StudyPair(current=now, prior=before)) for before, now in pairwise(images)]
    visits = [{finding.key: finding for finding in prediction.findings} for prediction in predictions]
    keys = [key for key in visits[0] if all(key in visit for visit in visits)]
    return VisitReading(
        presence={key: tuple(visit[key].probability for visit in visits) for key in keys},
        changes={key: tuple(change_shares(visit[key]) for visit in visits[1:]) for key in keys},
    )


def change_shares(finding: Finding) -> dict[str, float]:
    """A belief over the six change answers from what is stated; the rest of it is spread evenly."""
    if finding.change is Change.NOT_COMPARABLE:
        return dict.fromkeys(CHANGE_ANSWERS, 1.0 / len(CHANGE_ANSWERS))
    if finding.change is not None:
        stated, share = finding.change.value, finding.change_probability
    else:
        before = finding.prior_probability if finding.prior_probability is not None else finding.probability
        # No stated change means that it is on neither film: taken as independent, absent now times absent before.
        stated, share = "none", (1.0 - finding.probability) * (1.0 - before)
    share = 1.0 if share is None else share
    rest = (1.0 - share) / (len(CHANGE_ANSWERS) - 1)
    return {answer: share if answer == stated else rest for answer in CHANGE_ANSWERS}


def best_letter(item: ChoiceItem, reading: VisitReading) -> str | None:
    """The letter of the option that fits best, of equal ones the first; None where an option is not understood or the
    model does not read the finding."""
    if not item.findings or any(key not in reading.presence for key in item.findings):
        return None
    scores = {letter: option_score(item, text, reading) for letter, text in item.choices.items()}
    known = {letter: score for letter, score in scores.items() if score is not None}
    return max(known, key=lambda letter: known[letter]) if len(known) == len(scores) else None


def option_score(item: ChoiceItem, text: str, reading: VisitReading) -> float | None:
    """The likelihood of an option by the reading; None where it is not understood."""
    text, key = text.strip().rstrip("."), item.findings[0]
    if item.kind == "order":
        return _order_score(text, item, reading)
    if text.startswith("T1 to T2"):
        return _steps_score(text, reading.changes[key])
    courses = courses_of(item.kind, text)
    if courses is None:
        return None
    return sum(course_belief(course, reading.presence[key]) for course in courses)


def course_belief(course: Course, presence: Sequence[float]) -> float:
    """The likelihood of a course, each visit taken by itself."""
    belief = 1.0
    for is_present, probability in zip(course, presence, strict=True):
        belief *= probability if is_present else 1.0 - probability
    return belief


def courses_of(kind: str, text: str) -> tuple[Course, ...] | None:
    """The courses that an option on presence stands for; None where kind or text is not known.

    kind: MI-CXR's `qtype`. "emergence" means a new appearance, "resolution" that a finding goes; "_2" is the second.
    "emergence_to_resolution": the visit at which it first appears and the one at which it then goes.
    """
    first, _, second = kind.partition("_to_")
    if second:
        places = _PAIR.fullmatch(text) or _INTERVAL.fullmatch(text)
        visits = (int(places[1]), int(places[2])) if places is not None else None
        if visits is None and not _NOTHING.match(text):
            return None
        return tuple(course for course in COURSES if _sequence(course, first == "emergence") == visits)
    words = kind.split("_")
    if len(words) < 2 or words[1] not in ("emergence", "resolution"):
        return None
    number = 1 if words[-1] == "2" else 0
    places = _INTERVAL.fullmatch(text) or _PAIR.fullmatch(text)
    if places is None:
        if not _NOTHING.match(text):
            return None
        return tuple(course for course in COURSES if len(_events(course, words[1] == "emergence")) <= number)
    # A finding appears or goes between two visits that follow each other; no course has any other interval.
    if int(places[2]) != int(places[1]) + 1:
        return None
    return tuple(
        course
        for course in COURSES
        if len(events := _events(course, words[1] == "emergence")) > number and events[number] == int(places[2])
    )


def _events(course: Course, appears: bool) -> list[int]:
    """The visits (from 2) at which the finding newly appears, or no longer is there."""
    return [visit for visit, (before, now) in enumerate(pairwise(course), start=2) if before != now and now == appears]


def _sequence(course: Course, appears: bool) -> tuple[int, int] | None:
    """The first such event and the first opposite one after it."""
    for first in _events(course, appears)[:1]:
        for second in (visit for visit in _events(course, not appears) if visit > first):
            return first, second
    return None


def _order_score(text: str, item: ChoiceItem, reading: VisitReading) -> float | None:
    """The likelihood that three findings first appear in this order."""
    names = {finding_name(key): key for key in item.findings}
    keys = [names.get(part.strip()) for part in text.split(", then ")]
    if None in keys or len(keys) != len(names):
        return None
    first = [_first_belief(reading.presence[key]) for key in keys if key is not None]
    # Three different visits in this order, none of them the first: what is there from the start does not newly appear.
    places = [
        candidate
        for candidate in product(range(2, VISITS + 1), repeat=len(first))
        if list(candidate) == sorted(set(candidate))
    ]
    total = 0.0
    for candidate in places:
        belief = 1.0
        for shares, visit in zip(first, candidate, strict=True):
            # Findings are read as independent of each other, so their beliefs multiply.
            belief *= shares[visit]
        total += belief
    return total


def _first_belief(presence: Sequence[float]) -> dict[int, float]:
    """Visit → how likely the finding first newly appears at it."""
    shares = dict.fromkeys(range(2, VISITS + 1), 0.0)
    for course in COURSES:
        for visit in _events(course, True)[:1]:
            shares[visit] += course_belief(course, presence)
    return shares


def _steps_score(text: str, changes: Sequence[Mapping[str, float]]) -> float | None:
    steps = [_STEP.fullmatch(part.strip()) for part in text.split(";")]
    if len(steps) != len(changes):
        return None
    belief = 1.0
    for visit, (step, shares) in enumerate(zip(steps, changes, strict=True), start=1):
        if step is None or (int(step[1]), int(step[2])) != (visit, visit + 1) or step[3] not in shares:
            return None
        belief *= shares[step[3]]
    return belief
