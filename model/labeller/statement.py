"""A sentence in segments: what commas, "and", breaks and labels part, with a finding in each that speaks of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from model.labeller.rewriting import rewritten
from model.labeller.text.parts import LIST, Mark, Part
from model.labeller.text.tokens import marks as marks_of

_VALUES = (Part.VALUE_NO, Part.VALUE_YES, Part.VALUE_OPEN)


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
    marks = _without_labels(_plain_brackets(marks_of(sentence)))
    marks = rewritten(marks)
    marks = _with_borrowed(marks)
    return SentenceStatement(marks=tuple(marks), segments=tuple(_segments(marks)))


def _plain_brackets(marks: list[Mark]) -> list[Mark]:
    """Let brackets that hold no finding of their own be read as if they were not there."""
    changed = list(marks)
    for position, mark in enumerate(marks):
        if mark.text != "(":
            continue
        end = next((index for index in range(position, len(marks)) if marks[index].text == ")"), len(marks))
        within = marks[position + 1 : end]
        if not any(inner.has(Part.FINDING, Part.SUBJECT) for inner in within):
            is_choice = bool(within) and all(inner.has(*_VALUES, Part.COMMA) for inner in within)  # "(Y/N)"
            for index in range(position, end + 1) if is_choice else (position, end):
                if index < len(marks):
                    changed[index] = dataclasses.replace(marks[index], parts={Part.IGNORED: True}, role="brackets")
    return changed


def _without_labels(marks: list[Mark]) -> list[Mark]:
    """Read "Pneumothorax: no", "Effusion - none", "Oedema = mild" and "Heart: normal" as statements."""
    changed = list(marks)
    closed: set[int] = set()
    for position, mark in enumerate(marks):
        is_asked = mark.text == "?" and 0 < position < len(marks) - 1 and marks[position + 1].has(*_VALUES)
        if not (mark.has(Part.COLON, Part.DASH) or is_asked) or changed[position].role == "label":
            continue
        start = _label_start(marks, position)
        first = position + 1
        while first < len(marks) and marks[first].has(Part.DASH, Part.COLON, Part.COMMA):
            first += 1
        left, right = marks[start:position], marks[first : _value_end(marks, first - 1)]
        if _is_value_before(mark, left, right):
            changed[start] = _heading(left[0])
            changed[position] = dataclasses.replace(mark, parts={Part.IGNORED: True}, role="label")
            if start and not changed[start - 1].has(Part.STOP, *LIST):
                closed.add(start)
            continue
        names = any(named.has(Part.FINDING, Part.SUBJECT) for named in left)
        if not names or not _is_label(left):
            changed[position] = dataclasses.replace(mark, parts={Part.STOP: True})
            continue
        if start and not changed[start - 1].has(Part.STOP, *LIST):
            closed.add(start)
        is_value = bool(right) and right[0].has(*_VALUES) and not _is_denied_list(right)
        names_more = any(named.has(Part.FINDING) for named in right)
        if mark.has(Part.DASH) and not is_value and not _is_phrase(right):
            changed[position] = dataclasses.replace(mark, parts={Part.STOP: True})
            continue
        if is_value:
            for index in range(position, first):
                changed[index] = dataclasses.replace(marks[index], parts={Part.IGNORED: True}, role="label")
            changed[first] = _value(right[0])
        elif names_more and all(not named.has(Part.SUBJECT) for named in left):
            for index in range(start, position):
                changed[index] = dataclasses.replace(marks[index], parts={Part.IGNORED: True}, role="label")
            changed[position] = dataclasses.replace(mark, parts={Part.STOP: True})
        else:
            changed[position] = dataclasses.replace(mark, parts={Part.IGNORED: True}, role="label")
    for start in sorted(closed, reverse=True):  # "Pneumothorax: no Effusion: yes"
        changed.insert(
            start, Mark(text=";", start=changed[start].start, end=changed[start].start, parts={Part.STOP: True})
        )
    return changed


def _label_start(marks: Sequence[Mark], position: int) -> int:
    """Return where the label before a colon begins: behind the last break, value or comma."""
    start = position
    while start and not marks[start - 1].has(Part.STOP, Part.BREAK, Part.COMMA, Part.COLON, Part.DASH):
        if (
            start > 1
            and marks[start - 1].has(*_VALUES)
            and marks[position].has(Part.COLON)
            and marks[start - 2].has(Part.COLON)
        ):
            break  # "Pneumothorax: no Effusion: yes"
        start -= 1
    return start


def _is_label(left: Sequence[Mark]) -> bool:
    """Return whether these words only name something."""
    return not any(
        mark.has(Part.NEGATION_BEFORE, Part.VERB, Part.UNSAID_BEFORE, Part.UNCERTAINTY_BEFORE, Part.NEGATION_AFTER)
        and not mark.has(Part.FINDING)
        for mark in left
    )


def _is_phrase(right: Sequence[Mark]) -> bool:
    """Return whether words behind a dash only describe what stands before it ("Effusion - small, left")."""
    if right and not right[0].parts and right[0].text.isalpha() and any(mark.has(Part.CHANGE) for mark in right):
        return False
    others = (Part.VERB, Part.SUBJECT, Part.INERT, Part.NEGATION_BEFORE, Part.FINDING, Part.UNSAID_BEFORE)
    return not any(mark.has(*others) for mark in right)


def _value_end(marks: Sequence[Mark], position: int) -> int:
    """Return where the value behind a label ends."""
    for index in range(position + 1, len(marks)):
        if marks[index].has(Part.STOP, Part.BREAK, Part.DASH):
            return index
        if marks[index].has(Part.COLON):
            return _label_start(marks, index)
    return len(marks)


def _is_denied_list(right: Sequence[Mark]) -> bool:
    """Return whether the "no" behind a label denies what follows it ("Pleura: no effusion", "Oedema: no change")."""
    if right[0].text not in ("no", "not", "negative"):
        return False
    for mark in right[1:]:
        if mark.has(Part.FINDING, Part.CHANGED, Part.CHANGE, Part.SEEN, Part.EVIDENCE):
            return True
        if mark.has(Part.COMMA, Part.STOP, Part.BREAK, Part.AND):
            return False
    return False


def _value(mark: Mark) -> Mark:
    for part, as_part in ((Part.VALUE_NO, Part.NEGATION_AFTER), (Part.VALUE_OPEN, Part.UNSAID_AFTER)):
        if mark.has(part):
            return dataclasses.replace(mark, parts={as_part: True}, role="value")
    return dataclasses.replace(mark, parts={Part.IGNORED: True}, role="value")


def _is_value_before(mark: Mark, left: Sequence[Mark], right: Sequence[Mark]) -> bool:
    """Return whether a colon stands between a value and what it is said of ("Not seen: pneumothorax")."""
    is_value = len(left) == 1 and left[0].has(Part.VALUE_NO, Part.VALUE_YES)
    return mark.has(Part.COLON) and is_value and any(named.has(Part.FINDING) for named in right)


def _heading(mark: Mark) -> Mark:
    """Read "Not seen: pneumothorax, effusion" as a denial of what follows."""
    parts = {Part.NEGATION_BEFORE if mark.has(Part.VALUE_NO) else Part.IGNORED: True}
    return dataclasses.replace(mark, parts=parts, role="value before")


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
