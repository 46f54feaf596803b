"""Rules that give phrases another part than the list's, from the phrases beside them, before any cue is applied.

Each takes the phrases of a sentence and returns as many; the changed ones carry the rule's name. Their order counts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from model.labeller.parts import Mark, Part
from model.schema import Change

Rule = Callable[[list[Mark]], list[Mark]]

_NOUN_OF_CHANGE = ("development of", "interval development of", "interval appearance of", "developing")
_COMPARED = ("larger", "greater", "smaller", "worse", "bigger", "less", "more")
_DEGREES = (
    *("minimal", "small", "mild", "mild to moderate", "moderate", "moderate to large", "moderate to severe"),
    "severe",
)
_OF_EARLIER = ("was", "were", "had been", "previously", "formerly", "been")
_WITHDRAWN = ("withdrawn", "been withdrawn", "pulled", "been pulled")
_MOVED_BY = re.compile(r"\d|(?:by|to|slightly|back|approximately|about)$")
_ENDS = (Part.BREAK, Part.STOP, Part.EXCEPT)


def rewritten(marks: Sequence[Mark]) -> list[Mark]:
    """Return the phrases with the parts that they play in this sentence."""
    found = list(marks)
    for rule in _RULES:
        found = rule(found)
    return found


def _with(mark: Mark, role: str, **parts: Any) -> Mark:
    """Return the mark with these parts alone."""
    return dataclasses.replace(mark, parts={Part[name]: value for name, value in parts.items()}, role=role)


def _ignored(mark: Mark, role: str) -> Mark:
    return _with(mark, role, IGNORED=True)


def _read_question(marks: list[Mark]) -> list[Mark]:
    """ "Is there a pneumothorax?" states nothing; "Pneumothorax?" leaves it possible."""
    if marks and marks[-1].text == "?" and (marks[0].has(Part.VERB) or marks[0].text in ("any", "is there", "could")):
        marks[0] = _with(marks[0], "question", UNSAID_BEFORE=True)
    if marks and marks[0].text.startswith("suggest") and len(marks) > 1 and not marks[1].has(Part.VERB):
        marks[0] = _with(marks[0], "recommendation", UNSAID_BEFORE=True)
    return marks


def _read_earlier_image(marks: list[Mark]) -> list[Mark]:
    """ "The previous radiograph" is no finding known before; what it "showed" is no finding of today."""
    for place, mark in enumerate(marks):
        if not mark.has(Part.IMAGE_BEFORE) or (mark.has(Part.FINDING) and not mark.has(Part.IMAGE)):
            continue
        end = place + 1
        while end < len(marks) and marks[end].has(Part.IMAGE):
            end += 1
        if end == place + 1 and not mark.has(Part.IMAGE):
            continue
        for index in range(place, end):
            marks[index] = _ignored(marks[index], "earlier image")
        if end < len(marks) and marks[end].has(Part.REPORTED) and not _has_target_before(marks, place):
            marks[end] = _with(marks[end], "earlier image", UNSAID_BEFORE=True)
    return marks


def _has_target_before(marks: Sequence[Mark], place: int) -> bool:
    return any(mark.has(Part.FINDING, Part.SUBJECT) for mark in marks[:place])


def _read_movement(marks: list[Mark]) -> list[Mark]:
    """In "shift to the left" and "rotated to the right" the side is the movement's."""
    for place, mark in enumerate(marks):
        if not mark.has(Part.MOVEMENT):
            continue
        towards = False
        for index in range(place + 1, min(place + 9, len(marks))):
            following = marks[index]
            if following.has(*_ENDS, Part.FINDING, Part.COMMA):
                break
            towards = towards or following.text in ("to", "towards", "toward")
            if following.has(Part.SIDE) and towards:
                marks[index] = _with(following, "side of a movement", OTHER_SIDE=True)
                break
        if place and marks[place - 1].has(Part.SIDE):
            marks[place - 1] = _with(marks[place - 1], "side of a movement", OTHER_SIDE=True)
    return marks


def _read_two_degrees(marks: list[Mark]) -> list[Mark]:
    """ "From large to small": the earlier degree is none of today, and the two say what became of it."""
    earlier: Mark | None = None
    for place, mark in enumerate(marks):
        if not mark.has(Part.LEVEL):
            continue
        before = [one.text for one in marks[max(0, place - 2) : place]]
        is_start = "from" in before[-1:]
        if (is_start or any(text in _OF_EARLIER for text in before)) and _later_degree(marks, place):
            earlier = mark
            marks[place] = _ignored(mark, "earlier degree")
        elif earlier is not None:
            first, now = (_DEGREES.index(one.parts[Part.LEVEL]) for one in (earlier, mark))
            if first != now:
                change = Change.WORSENING if now > first else Change.IMPROVING
                marks[place] = _with(mark, "two degrees", LEVEL=mark.parts[Part.LEVEL], CHANGE=change)
            earlier = None
    return marks


def _later_degree(marks: Sequence[Mark], place: int) -> bool:
    """Return whether another degree follows behind "to" or "now"."""
    for index in range(place + 2, len(marks)):
        if marks[index].has(Part.LEVEL):
            return any(mark.text in ("to", "now") for mark in marks[place + 1 : index])
    return marks[place - 1].text in ("previously", "formerly", "had been", "was", "were")


def _read_not_seen(marks: list[Mark]) -> list[Mark]:
    """ "Not seen" denies what stands before it; "no longer seen" says that it is gone, "no longer in" does not."""
    for place, mark in enumerate(marks):
        if mark.text.startswith("not ") and mark.has(Part.VALUE_NO):
            marks[place] = _with(mark, "not seen", NEGATION_AFTER=True)
        if mark.has(Part.NO_LONGER):
            marks[place] = _of_no_longer(marks, place)
        if mark.text != "not":
            continue
        for index in range(place + 1, min(place + 4, len(marks))):
            if marks[index].has(Part.SEEN) and not marks[index].has(Part.CHANGE):
                marks[index] = _with(marks[index], "not seen", NEGATION_AFTER=True)
                marks[place] = _ignored(mark, "not seen")
                break
            if marks[index].parts and not marks[index].has(Part.FILLER, Part.PARTLY):
                break
    return marks


def _of_no_longer(marks: list[Mark], place: int) -> Mark:
    mark = marks[place]
    for index in range(place + 1, min(place + 4, len(marks))):
        if marks[index].has(Part.SEEN):
            marks[index] = _ignored(marks[index], "no longer seen")
            return _with(mark, "no longer seen", CHANGE=Change.RESOLVED)
        if marks[index].has(Part.PREDICATE):
            return _with(mark, "no longer so", NEGATION_BEFORE=True)
        if marks[index].has(Part.FINDING, Part.EVIDENCE):
            return _with(mark, "no longer there", CHANGE=Change.RESOLVED)
        if not marks[index].has(Part.OPENER, Part.FILLER, Part.SIDE) and marks[index].text != "any":
            break
    return (
        _ignored(mark, "no longer at a place")
        if place + 1 < len(marks)
        else _with(mark, "gone", CHANGE=Change.RESOLVED)
    )


def _read_partly(marks: list[Mark]) -> list[Mark]:
    """What has "almost" resolved has improved."""
    for place, mark in enumerate(marks):
        for index in range(place + 1, min(place + 3, len(marks))):
            if mark.has(Part.PARTLY) and marks[index].parts.get(Part.CHANGE) is Change.RESOLVED:
                marks[index] = _with(marks[index], "not complete", CHANGE=Change.IMPROVING)
    return marks


def _read_negated_change(marks: list[Mark]) -> list[Mark]:
    """ "No change in" is stable. "No increase in", "not resolved", "no larger": it is there, and no change is stated.

    "No new", "or increasing" before a finding deny only such a one: the part becomes LEAVES_OPEN. "No development of"
    denies the finding.
    """
    for place, mark in enumerate(marks):
        if not mark.has(Part.NEGATION_BEFORE):
            continue
        target = _negated_change_after(marks, place)
        if target is None:
            continue
        word = marks[target]
        if word.has(Part.CHANGED):
            marks[target] = _with(word, "nothing changed", CHANGE=Change.STABLE)
        elif word.text in _NOUN_OF_CHANGE:
            marks[target] = _ignored(word, "development")
            continue
        elif (word.parts[Part.CHANGE] is Change.NEW and not word.text.startswith("re")) or (
            mark.text != "not" and _is_attribute(marks, target)
        ):
            continue
        else:
            marks[target] = _ignored(word, "negated change")
            _read_second_change(marks, target)
        marks[place] = _ignored(mark, "negated change")
    return marks


def _denies_only_such(marks: Sequence[Mark], denial: int, place: int) -> bool:
    """Return whether a denial and a word of change stand before a finding and deny only such a one ("no new")."""
    word = marks[place]
    if word.parts[Part.CHANGE] is Change.NEW and not word.text.startswith("re"):
        return True
    return marks[denial].text != "not" and _is_attribute(marks, place)


def _negated_change_after(marks: Sequence[Mark], place: int) -> int | None:
    for index in range(place + 1, min(place + 8, len(marks))):
        mark = marks[index]
        if mark.has(Part.CHANGE, Part.CHANGED) and not mark.has(Part.FINDING):
            return index
        if not mark.has(Part.FILLER, Part.EVIDENCE, Part.PARTLY) and not (
            mark.text in ("of", "any") and marks[index - 1].has(Part.EVIDENCE)
        ):
            return None
    return None


def _is_attribute(marks: Sequence[Mark], place: int) -> bool:
    """Return whether a word of change stands before its finding in one noun phrase ("no increasing effusion")."""
    for mark in marks[place + 1 :]:
        if mark.has(Part.FINDING):
            return True
        if mark.has(Part.PREPOSITION, Part.VERB, Part.COMMA, *_ENDS, Part.RELATION, Part.WITH, Part.AND, Part.OPENER):
            return False
    return False


def _read_second_change(marks: list[Mark], place: int) -> None:
    """ "Not increased or decreased"."""
    if place + 2 < len(marks) and marks[place + 1].has(Part.OR) and marks[place + 2].has(Part.CHANGE):
        marks[place + 2] = _ignored(marks[place + 2], "negated change")


def _read_sides_compared(marks: list[Mark]) -> list[Mark]:
    """ "Bilateral effusions, larger on the left" compares sides and not dates."""
    for place, mark in enumerate(marks):
        if mark.text not in _COMPARED:
            continue
        following = [index for index in range(place + 1, min(place + 4, len(marks))) if marks[index].has(Part.SIDE)]
        if not following:
            continue
        between = [one.text for one in marks[place + 1 : following[0]]]
        if between == ["than"] or between == ["than", "the"]:
            marks[place] = _ignored(mark, "sides compared")
        elif between in (["on", "the"], ["at", "the"], ["on"], ["in", "the"]) and not _one_side_before(marks, place):
            marks[place] = _ignored(mark, "sides compared")
            marks[following[0]] = _ignored(marks[following[0]], "sides compared")
    return marks


def _one_side_before(marks: Sequence[Mark], place: int) -> bool:
    sides = [mark.parts[Part.SIDE] for mark in marks[:place] if mark.has(Part.SIDE)]
    return bool(sides) and sides[-1] in ("left", "right")


def _read_device_plans(marks: list[Mark]) -> list[Mark]:
    """ "Can be removed" states nothing; "withdrawn by 2 cm" is a move."""
    for place, mark in enumerate(marks):
        following = marks[place + 1] if place + 1 < len(marks) else None
        if mark.text in _WITHDRAWN and following is not None and _MOVED_BY.match(following.text):
            marks[place] = _ignored(mark, "moved")
        if not mark.has(Part.PLAN):
            continue
        for index in range(place + 1, min(place + 4, len(marks))):
            if marks[index].has(Part.CHANGE, Part.TAKEN_OUT, Part.EXCHANGED):
                marks[place] = _ignored(mark, "plan")
                marks[index] = _with(marks[index], "plan", UNSAID_AFTER=True)
                break
            if marks[index].has(Part.FINDING, Part.MOVED, *_ENDS):
                break
    return marks


_RULES: tuple[Rule, ...] = (
    _read_question,
    _read_earlier_image,
    _read_movement,
    _read_two_degrees,
    _read_not_seen,
    _read_partly,
    _read_negated_change,
    _read_sides_compared,
    _read_device_plans,
)
