"""Changes stated by two dates, two degrees or two sizes in one sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

from model.labeller.text.parts import ENDS, Mark, Part, ignore_mark, replace_parts
from model.labeller.text.word_list import word_list
from model.schema import Change

_DEGREES = (
    *("minimal", "small", "mild", "mild to moderate", "moderate", "moderate to large", "moderate to severe"),
    "severe",
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?$")
_OF_EARLIER = ("previous", "prior", "was", "were", "had been", "previously", "formerly", "been")


def read_compared_with(marks: list[Mark]) -> list[Mark]:
    """In "larger vs prior" the two letters compare dates, and in "gone from small to large" nothing is gone."""
    for position, mark in enumerate(marks[:-1]):
        following = marks[position + 1]
        if mark.text in ("vs", "versus") and following.has(Part.KNOWN, Part.IMAGE_BEFORE, Part.IMAGE):
            marks[position] = ignore_mark(mark, "compared with")
        if mark.text in ("gone", "has gone", "have gone") and following.text in ("from", "up", "down", "to"):
            marks[position] = ignore_mark(mark, "has gone to")
    return marks


def read_two_degrees(marks: list[Mark]) -> list[Mark]:
    """ "From large to small": the earlier degree is none of today, and the two say what became of it."""
    earlier: Mark | None = None
    for position, mark in enumerate(marks):
        if not mark.has(Part.LEVEL):
            continue
        second = mark.text.partition(" to ")[2]
        if second and position and marks[position - 1].text == "from":  # "from moderate to large"
            level = "severe" if second in ("large", "severe") else "moderate"
            marks[position] = replace_parts(mark, "two degrees", LEVEL=level, CHANGE=Change.WORSENING)
            continue
        before = [other.text for other in marks[max(0, position - 2) : position]]
        is_start = "from" in before[-1:]
        # A degree of the past counts as the earlier one only where another follows: alone it may be all that is said of
        # today.
        if (is_start or any(text in _OF_EARLIER for text in before)) and _later_degree(marks, position):
            earlier = mark
            marks[position] = ignore_mark(mark, "earlier degree")
        elif earlier is not None:
            then, now = (_DEGREES.index(degree.parts[Part.LEVEL]) for degree in (earlier, mark))
            if then != now:
                change = Change.WORSENING if now > then else Change.IMPROVING
                marks[position] = replace_parts(mark, "two degrees", LEVEL=mark.parts[Part.LEVEL], CHANGE=change)
            earlier = None
    return _with_degree_of_before(marks)


def _with_degree_of_before(marks: list[Mark]) -> list[Mark]:
    """ "Trace effusion, previously small"."""
    degrees = [
        (position, mark) for position, mark in enumerate(marks) if mark.has(Part.LEVEL) or mark.role == "earlier degree"
    ]
    if len(degrees) != 2 or any(mark.has(Part.CHANGE) for mark in marks):
        return marks
    (now, today), (then, mark) = degrees
    if mark.role == "earlier degree" and not any(other.has(*ENDS, Part.FINDING) for other in marks[then:]):
        levels = word_list().phrases[tuple(mark.text.split())]
        before, after = _DEGREES.index(levels[Part.LEVEL]), _DEGREES.index(today.parts[Part.LEVEL])
        # Equal degrees say nothing new: "small, previously small" is left to the other rules.
        if before != after and now < then:
            change = Change.WORSENING if after > before else Change.IMPROVING
            marks[then] = replace_parts(mark, "two degrees", CHANGE=change)
    return marks


def read_two_sizes(marks: list[Mark]) -> list[Mark]:
    """ "Measures 5 cm, previously 4 cm", "previously 3 cm, now 1 cm": the two say what became of it."""
    sizes = [
        (position, float(mark.text) * (10 if marks[position + 1].text == "cm" else 1))
        for position, mark in enumerate(marks[:-1])
        if _NUMBER.match(mark.text) and marks[position + 1].text in ("cm", "mm")
    ]
    if len(sizes) != 2:
        return marks
    earlier = [
        any(other.text in _OF_EARLIER for other in marks[max(0, position - 3) : position]) for position, _ in sizes
    ]
    if sum(earlier) != 1 or any(mark.has(Part.CHANGE) for mark in marks):
        return marks
    # Either may come first; the one beside a word of the past is the earlier.
    (position, before), (_, now) = sizes if earlier[0] else sizes[::-1]
    if now != before:
        change = Change.WORSENING if now > before else Change.IMPROVING
        marks[position] = replace_parts(marks[position], "two sizes", CHANGE=change)
    return marks


def _later_degree(marks: Sequence[Mark], position: int) -> bool:
    """Return whether another degree follows behind "to" or "now"."""
    for index in range(position + 2, len(marks)):
        if marks[index].has(Part.LEVEL):
            return any(mark.text in ("to", "now") for mark in marks[position + 1 : index])
    return marks[position - 1].text in ("previously", "previous", "formerly", "had been", "was", "were")
