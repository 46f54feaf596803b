"""A sentence in segments: what commas, "and", breaks and labels part, with a finding in each that speaks of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from model.labeller.labels import without_brackets, without_labels
from model.labeller.rewriting import rewrite_marks
from model.labeller.text.parts import Mark, Part
from model.labeller.text.tokens import marks as marks_of


class Joint(StrEnum):
    """The joint before a segment."""

    START = "start"
    COMMA = "comma"
    AND = "and"
    OR = "or"
    BREAK = "break"
    EXCEPT = "except"
    STOP = "stop"


_JOINTS = (
    *((Part.STOP, Joint.STOP), (Part.DASH, Joint.STOP), (Part.EXCEPT, Joint.EXCEPT), (Part.BREAK, Joint.BREAK)),
    *((Part.OR, Joint.OR), (Part.AND, Joint.AND), (Part.COMMA, Joint.COMMA)),
)
LISTED = (Joint.COMMA, Joint.AND, Joint.OR)


@dataclass(frozen=True, slots=True)
class StatementSegment:
    """The marks from start to before end, and what stands before them."""

    start: int
    end: int
    joint: Joint


@dataclass(frozen=True, slots=True)
class SentenceStatement:
    """The phrases of a sentence with their parts, and its segments."""

    marks: tuple[Mark, ...]
    segments: tuple[StatementSegment, ...]

    def of(self, segment: StatementSegment) -> Sequence[Mark]:
        """Return a segment's marks."""
        return self.marks[segment.start : segment.end]

    def number(self, position: int) -> int:
        """Return which segment a mark stands in; a joint counts to the segment behind it."""
        return next((n for n, segment in enumerate(self.segments) if position < segment.end), len(self.segments) - 1)


def statement(sentence: str) -> SentenceStatement:
    """Return a sentence taken apart."""
    marks = without_labels(without_brackets(marks_of(sentence)))
    marks = rewrite_marks(marks)
    marks = _with_borrowed(marks)
    return SentenceStatement(marks=tuple(marks), segments=tuple(_segments(marks)))


def _segments(marks: Sequence[Mark]) -> list[StatementSegment]:
    segments: list[StatementSegment] = []
    start, joint = 0, Joint.START
    for position, mark in enumerate(marks):
        divides = _joint(mark)
        if divides is None:
            continue
        if position > start:
            segments.append(StatementSegment(start, position, joint))
            joint = divides
        else:
            joint = _stronger(joint, divides)
        start = position + 1
        if mark.has(Part.NEGATION_BEFORE) and divides is Joint.OR:
            start = position  # "nor" parts and denies
    if start < len(marks):
        segments.append(StatementSegment(start, len(marks), joint))
    return segments


def _joint(mark: Mark) -> Joint | None:
    return next((joint for part, joint in _JOINTS if mark.has(part)), None)


def _stronger(one: Joint, other: Joint) -> Joint:
    """Return the joint of two that follow each other: ", and" is "and", "; but" is a break."""
    order = tuple(Joint)
    if {one, other} <= {Joint.STOP, Joint.EXCEPT, Joint.BREAK}:
        return other if one is Joint.STOP else one
    return max(one, other, key=order.index)


def _with_borrowed(marks: Sequence[Mark]) -> list[Mark]:
    """Repeat a finding in the segments that speak of one without naming it.

    "Small left and moderate right effusions"; "small on the right and large on the left"; "no effusion except on the
    left". A segment speaks of one where it has a side together with a degree, a change or a denial of its own.
    """
    marks = _with_joined_attributes(list(marks))
    segments = _segments(marks)
    added: dict[int, Mark] = {}
    for number, segment in enumerate(segments):
        within = marks[segment.start : segment.end]
        if any(map(_names, within)) or not _speaks(within, segment):
            continue
        after, before = _target(marks, segments, number + 1), _last_target(marks, segments[:number])
        if after is not None and _leads(within) and segments[number + 1].joint is not Joint.STOP:
            added[segment.end] = after
        elif before is not None:
            # Behind the denial, which has to stand before what it denies.
            denies = marks[segment.start].has(Part.NEGATION_BEFORE)
            added[segment.start + 1 if denies else segment.start] = before
    extended: list[Mark] = []
    for position in range(len(marks) + 1):
        if position in added:
            extended.append(dataclasses.replace(added[position], role="repeated"))
        if position < len(marks):
            extended.append(marks[position])
    return extended


def _with_joined_attributes(marks: list[Mark]) -> list[Mark]:
    """In "on the right, increased; on the left, unchanged" the comma behind a side parts nothing."""
    segments = _segments(marks)
    for number, segment in enumerate(segments[1:-1], start=1):
        within, after = marks[segment.start : segment.end], marks[segments[number + 1].start : segments[number + 1].end]
        names = any(map(_names, (*within, *after)))
        if (
            not names
            and segments[number + 1].joint is Joint.COMMA
            and within[0].text in ("on", "in", "at")
            and any(mark.has(Part.SIDE) for mark in within)
            and any(mark.has(Part.CHANGE, Part.LEVEL) for mark in after)
        ):
            for position in range(segment.end, segments[number + 1].start):
                marks[position] = dataclasses.replace(marks[position], parts={Part.IGNORED: True}, role="label")
    return marks


def _names(mark: Mark) -> bool:
    """Return whether a phrase names a finding, a part of the body, or what such a part is."""
    return mark.has(Part.FINDING, Part.SUBJECT) or (mark.has(Part.PREDICATE) and not mark.has(Part.CHANGE))


def _speaks(within: Sequence[Mark], segment: StatementSegment) -> bool:
    """Return whether a segment without a finding says something of one."""
    has_side = any(mark.has(Part.SIDE) for mark in within)
    has_word = any(mark.has(Part.LEVEL, Part.CHANGE, Part.NEGATION_BEFORE, Part.NEGATION_AFTER) for mark in within)
    if segment.joint is Joint.EXCEPT:
        return has_side or any(mark.has(Part.LEVEL) for mark in within)
    if any(mark.has(Part.MOVEMENT, Part.INERT, Part.UNSAID_BEFORE, Part.OTHER_SIDE) for mark in within):
        return False
    return has_side and has_word


def _leads(within: Sequence[Mark]) -> bool:
    """Return whether a segment ends with adjectives of a finding to come ("small left")."""
    return within[-1].has(Part.SIDE) or (within[-1].has(Part.LEVEL) and any(mark.has(Part.SIDE) for mark in within))


def _target(marks: Sequence[Mark], segments: Sequence[StatementSegment], number: int) -> Mark | None:
    if number >= len(segments):
        return None
    within = marks[segments[number].start : segments[number].end]
    return next((mark for mark in within if mark.has(Part.FINDING)), None)


def _last_target(marks: Sequence[Mark], segments: Sequence[StatementSegment]) -> Mark | None:
    for segment in reversed(segments):
        for mark in reversed(marks[segment.start : segment.end]):
            if mark.has(Part.FINDING):
                return mark
    return None
