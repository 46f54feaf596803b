"""Rules that give phrases another part than the list's, from the phrases beside them, before any cue is applied.

Each takes the phrases of a sentence and returns as many; the changed ones carry the rule's name. Their order counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from model.labeller.negated_change import read_negated_change
from model.labeller.parts import ENDS, Mark, Part, ignore_mark, replace_parts
from model.schema import Change

Rule = Callable[[list[Mark]], list[Mark]]

_COMPARED = ("better", "larger", "greater", "smaller", "worse", "bigger", "less", "more")
_DEGREES = (
    *("minimal", "small", "mild", "mild to moderate", "moderate", "moderate to large", "moderate to severe"),
    "severe",
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?$")
_OF_EARLIER = ("previous", "prior", "was", "were", "had been", "previously", "formerly", "been")
_WITHDRAWN = ("withdrawn", "been withdrawn", "pulled", "been pulled")
_MOVED_BY = re.compile(r"\d|(?:by|to|slightly|back|approximately|about|and|now)$")


def rewritten(marks: Sequence[Mark]) -> list[Mark]:
    """Return the phrases with the parts that they play in this sentence."""
    found = list(marks)
    for rule in _RULES:
        found = rule(found)
    return found


def _read_question(marks: list[Mark]) -> list[Mark]:
    """ "Is there a pneumothorax?" states nothing; "Pneumothorax?" leaves it possible."""
    if marks and marks[-1].text == "?" and (marks[0].has(Part.VERB) or marks[0].text in ("any", "is there", "could")):
        marks[0] = replace_parts(marks[0], "question", UNSAID_BEFORE=True)
    for place, mark in enumerate(marks[:-1]):
        begins = place == 0 or marks[place - 1].has(*ENDS)
        if mark.text.startswith("suggest") and begins and not marks[place + 1].has(Part.VERB):
            marks[place] = replace_parts(mark, "recommendation", UNSAID_BEFORE=True)
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
            marks[index] = ignore_mark(marks[index], "earlier image")
        if end < len(marks) and marks[end].has(Part.REPORTED) and not _has_target_before(marks, place):
            marks[end] = replace_parts(marks[end], "earlier image", UNSAID_BEFORE=True)
    return marks


def _has_target_before(marks: Sequence[Mark], place: int) -> bool:
    for mark in reversed(marks[:place]):
        if mark.has(*ENDS):
            return False
        if mark.has(Part.FINDING, Part.SUBJECT):
            return True
    return False


def _read_compared_with(marks: list[Mark]) -> list[Mark]:
    """In "larger vs prior" the two letters compare dates, and in "gone from small to large" nothing is gone."""
    for place, mark in enumerate(marks[:-1]):
        following = marks[place + 1]
        if mark.text in ("vs", "versus") and following.has(Part.KNOWN, Part.IMAGE_BEFORE, Part.IMAGE):
            marks[place] = ignore_mark(mark, "compared with")
        if mark.text in ("gone", "has gone", "have gone") and following.text in ("from", "up", "down", "to"):
            marks[place] = ignore_mark(mark, "has gone to")
    return marks


def _read_movement(marks: list[Mark]) -> list[Mark]:
    """In "shift to the left" and "rotated to the right" the side is the movement's."""
    for place, mark in enumerate(marks):
        if not mark.has(Part.MOVEMENT):
            continue
        towards = False
        for index in range(place + 1, min(place + 9, len(marks))):
            following = marks[index]
            if following.has(*ENDS, Part.FINDING, Part.COMMA):
                break
            towards = towards or following.text in ("to", "towards", "toward")
            if following.has(Part.SIDE) and towards:
                marks[index] = replace_parts(following, "side of a movement", OTHER_SIDE=True)
                break
        if place and marks[place - 1].has(Part.SIDE):
            marks[place - 1] = replace_parts(marks[place - 1], "side of a movement", OTHER_SIDE=True)
    return marks


def _read_two_degrees(marks: list[Mark]) -> list[Mark]:
    """ "From large to small": the earlier degree is none of today, and the two say what became of it."""
    earlier: Mark | None = None
    for place, mark in enumerate(marks):
        if not mark.has(Part.LEVEL):
            continue
        second = mark.text.partition(" to ")[2]
        if second and place and marks[place - 1].text == "from":  # "from moderate to large"
            level = "severe" if second in ("large", "severe") else "moderate"
            marks[place] = replace_parts(mark, "two degrees", LEVEL=level, CHANGE=Change.WORSENING)
            continue
        before = [one.text for one in marks[max(0, place - 2) : place]]
        is_start = "from" in before[-1:]
        if (is_start or any(text in _OF_EARLIER for text in before)) and _later_degree(marks, place):
            earlier = mark
            marks[place] = ignore_mark(mark, "earlier degree")
        elif earlier is not None:
            then, now = (_DEGREES.index(one.parts[Part.LEVEL]) for one in (earlier, mark))
            if then != now:
                change = Change.WORSENING if now > then else Change.IMPROVING
                marks[place] = replace_parts(mark, "two degrees", LEVEL=mark.parts[Part.LEVEL], CHANGE=change)
            earlier = None
    return marks


def _read_two_sizes(marks: list[Mark]) -> list[Mark]:
    """ "Measures 5 cm, previously 4 cm": the two say what became of it."""
    sizes = [
        (place, float(mark.text) * (10 if marks[place + 1].text == "cm" else 1))
        for place, mark in enumerate(marks[:-1])
        if _NUMBER.match(mark.text) and marks[place + 1].text in ("cm", "mm")
    ]
    if len(sizes) != 2:
        return marks
    earlier = [any(one.text in _OF_EARLIER for one in marks[max(0, place - 3) : place]) for place, _ in sizes]
    if earlier != [False, True] or any(mark.has(Part.CHANGE) for mark in marks):
        return marks
    (_, now), (place, before) = sizes
    if now != before:
        change = Change.WORSENING if now > before else Change.IMPROVING
        marks[place] = replace_parts(marks[place], "two sizes", CHANGE=change)
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
            marks[place] = replace_parts(mark, "not seen", NEGATION_AFTER=True)
        if mark.has(Part.NO_LONGER):
            marks[place] = _of_no_longer(marks, place)
        if mark.text != "not":
            continue
        for index in range(place + 1, min(place + 4, len(marks))):
            if marks[index].has(Part.SEEN) and not marks[index].has(Part.CHANGE):
                marks[index] = replace_parts(marks[index], "not seen", NEGATION_AFTER=True)
                marks[place] = ignore_mark(mark, "not seen")
                break
            if marks[index].parts and not marks[index].has(Part.FILLER, Part.PARTLY):
                break
    return marks


def _of_no_longer(marks: list[Mark], place: int) -> Mark:
    mark = marks[place]
    for index in range(place + 1, min(place + 4, len(marks))):
        if marks[index].has(Part.SEEN):
            marks[index] = ignore_mark(marks[index], "no longer seen")
            return replace_parts(mark, "no longer seen", CHANGE=Change.RESOLVED)
        if marks[index].has(Part.PREDICATE):
            return replace_parts(mark, "no longer so", NEGATION_BEFORE=True)
        if marks[index].has(Part.FINDING, Part.EVIDENCE):
            return replace_parts(mark, "no longer there", CHANGE=Change.RESOLVED)
        if not marks[index].has(Part.OPENER, Part.FILLER, Part.SIDE) and marks[index].text != "any":
            break
    return (
        ignore_mark(mark, "no longer at a place")
        if place + 1 < len(marks)
        else replace_parts(mark, "gone", CHANGE=Change.RESOLVED)
    )


def _read_both(marks: list[Mark]) -> list[Mark]:
    """In "both unchanged" and "both are small" the word counts findings and names no side."""
    for place, mark in enumerate(marks[:-1]):
        counts = mark.text in ("both", "each", "all") and marks[place + 1].has(Part.CHANGE, Part.VERB, Part.LEVEL)
        if counts and _has_target_before(marks, place) and not _has_target_behind(marks, place):
            marks[place] = ignore_mark(mark, "both findings")
    return marks


def _has_target_behind(marks: Sequence[Mark], place: int) -> bool:
    end = next((index for index in range(place, len(marks)) if marks[index].has(*ENDS)), len(marks))
    return any(mark.has(Part.FINDING, Part.SUBJECT) for mark in marks[place:end])


def _read_partly(marks: list[Mark]) -> list[Mark]:
    """Read "almost resolved" as improved."""
    for place, mark in enumerate(marks):
        for index in range(place + 1, min(place + 3, len(marks))):
            if mark.has(Part.PARTLY) and marks[index].parts.get(Part.CHANGE) is Change.RESOLVED:
                marks[index] = replace_parts(marks[index], "not complete", CHANGE=Change.IMPROVING)
    return marks


def _read_sides_compared(marks: list[Mark]) -> list[Mark]:
    """ "Bilateral effusions, larger on the left" compares sides and not dates."""
    distributed = sum(mark.text in _COMPARED for mark in marks) > 1  # "worse on the left and better on the right"
    for place, mark in enumerate(marks):
        if mark.text not in _COMPARED or distributed:
            continue
        following = [index for index in range(place + 1, min(place + 4, len(marks))) if marks[index].has(Part.SIDE)]
        if not following:
            continue
        between = [one.text for one in marks[place + 1 : following[0]]]
        if between == ["than"] or between == ["than", "the"]:
            marks[place] = ignore_mark(mark, "sides compared")
        elif between in (["on", "the"], ["at", "the"], ["on"], ["in", "the"]) and not _one_side_before(marks, place):
            marks[place] = ignore_mark(mark, "sides compared")
            marks[following[0]] = ignore_mark(marks[following[0]], "sides compared")
    return marks


def _one_side_before(marks: Sequence[Mark], place: int) -> bool:
    sides = [mark.parts[Part.SIDE] for mark in marks[:place] if mark.has(Part.SIDE)]
    return bool(sides) and sides[-1] in ("left", "right")


def _read_device_plans(marks: list[Mark]) -> list[Mark]:
    """ "Can be removed" states nothing; "withdrawn by 2 cm" is a move."""
    for place, mark in enumerate(marks):
        following = marks[place + 1] if place + 1 < len(marks) else None
        if mark.text in _WITHDRAWN and following is not None and _MOVED_BY.match(following.text):
            marks[place] = ignore_mark(mark, "moved")
        if mark.text == "out" and (following is None or following.has(Part.COMMA, Part.AND, *ENDS)):
            marks[place] = replace_parts(mark, "out", CHANGE=Change.RESOLVED)
        if not mark.has(Part.PLAN):
            continue
        for index in range(place + 1, min(place + 4, len(marks))):
            if marks[index].has(Part.CHANGE, Part.TAKEN_OUT, Part.EXCHANGED):
                marks[place] = ignore_mark(mark, "plan")
                is_before = marks[index].text.endswith(" of")
                part = {"UNSAID_BEFORE" if is_before else "UNSAID_AFTER": True}
                marks[index] = replace_parts(marks[index], "plan", **part)
                break
            if marks[index].has(Part.FINDING, Part.MOVED, *ENDS):
                break
    return marks


_RULES: tuple[Rule, ...] = (
    _read_question,
    _read_compared_with,
    _read_earlier_image,
    _read_movement,
    _read_two_degrees,
    _read_two_sizes,
    _read_not_seen,
    _read_both,
    _read_partly,
    read_negated_change,
    _read_sides_compared,
    _read_device_plans,
)
