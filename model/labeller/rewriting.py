"""Rules that give phrases another part than the list's, from the phrases beside them, before any cue is applied.

Each takes the phrases of a sentence and returns as many; the changed ones carry the rule's name. Their order counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from model.labeller.comparisons import read_compared_with, read_two_degrees, read_two_sizes
from model.labeller.negated_change import read_negated_change
from model.labeller.text.parts import ENDS, Mark, Part, ignore_mark, replace_parts
from model.schema import Change

Rule = Callable[[list[Mark]], list[Mark]]

_COMPARED = ("better", "larger", "greater", "smaller", "worse", "bigger", "less", "more")
_WITHDRAWN = ("withdrawn", "been withdrawn", "pulled", "been pulled")
_OBSCURES = ("obscur", "silhouett", "obliterat", "effac")
_MOVED_BY = re.compile(r"\d|(?:by|to|slightly|back|approximately|about|and|now)$")


def rewrite_marks(marks: Sequence[Mark]) -> list[Mark]:
    """Return the phrases with the parts that they play in this sentence."""
    current = list(marks)
    for rule in _RULES:
        current = rule(current)
    return current


def _read_question(marks: list[Mark]) -> list[Mark]:
    """ "Is there a pneumothorax?" states nothing; "Pneumothorax?" leaves it possible."""
    if marks and marks[-1].text == "?" and (marks[0].has(Part.VERB) or marks[0].text in ("any", "is there", "could")):
        marks[0] = replace_parts(marks[0], "question", UNSAID_BEFORE=True)
    for position, mark in enumerate(marks[:-1]):
        begins = position == 0 or marks[position - 1].has(*ENDS)
        if mark.text.startswith("suggest") and begins and not marks[position + 1].has(Part.VERB):
            marks[position] = replace_parts(mark, "recommendation", UNSAID_BEFORE=True)
    return marks


def _read_earlier_image(marks: list[Mark]) -> list[Mark]:
    """ "The previous radiograph" is no finding known before; what it "showed" is no finding of today."""
    for position, mark in enumerate(marks):
        if not mark.has(Part.IMAGE_BEFORE) or (mark.has(Part.FINDING) and not mark.has(Part.IMAGE)):
            continue
        end = position + 1
        while end < len(marks) and marks[end].has(Part.IMAGE):
            end += 1
        if end == position + 1 and not mark.has(Part.IMAGE):
            continue
        for index in range(position, end):
            marks[index] = ignore_mark(marks[index], "earlier image")
        if end < len(marks) and marks[end].has(Part.REPORTED) and not _has_target_before(marks, position):
            marks[end] = replace_parts(marks[end], "earlier image", UNSAID_BEFORE=True)
    return marks


def _has_target_before(marks: Sequence[Mark], position: int) -> bool:
    for mark in reversed(marks[:position]):
        if mark.has(*ENDS):
            return False
        if mark.has(Part.FINDING, Part.SUBJECT):
            return True
    return False


def _read_movement(marks: list[Mark]) -> list[Mark]:
    """In "shift to the left" and "rotated to the right" the side is the movement's."""
    for position, mark in enumerate(marks):
        if not mark.has(Part.MOVEMENT):
            continue
        towards = False
        for index in range(position + 1, min(position + 9, len(marks))):
            following = marks[index]
            if following.has(*ENDS, Part.FINDING, Part.COMMA):
                break
            towards = towards or following.text in ("to", "towards", "toward")
            if following.has(Part.SIDE) and towards:
                marks[index] = replace_parts(following, "side of a movement", OTHER_SIDE=True)
                break
        if position and marks[position - 1].has(Part.SIDE):
            marks[position - 1] = replace_parts(marks[position - 1], "side of a movement", OTHER_SIDE=True)
    return marks


def _read_not_seen(marks: list[Mark]) -> list[Mark]:
    """ "Not seen" denies what stands before it; "no longer seen" says that it is gone, "no longer in" does not."""
    for position, mark in enumerate(marks):
        if mark.text.startswith("not ") and mark.has(Part.VALUE_NO):
            marks[position] = replace_parts(mark, "not seen", NEGATION_AFTER=True)
        if mark.has(Part.NO_LONGER):
            marks[position] = _of_no_longer(marks, position)
        # "Not" apart from "seen": "not clearly seen", "not well visualised".
        if mark.text != "not":
            continue
        for index in range(position + 1, min(position + 4, len(marks))):
            if marks[index].has(Part.SEEN) and not marks[index].has(Part.CHANGE):
                marks[index] = replace_parts(marks[index], "not seen", NEGATION_AFTER=True)
                marks[position] = ignore_mark(mark, "not seen")
                break
            if marks[index].parts and not marks[index].has(Part.FILLER, Part.PARTLY):
                break
    return marks


def _of_no_longer(marks: list[Mark], position: int) -> Mark:
    mark = marks[position]
    for index in range(position + 1, min(position + 4, len(marks))):
        if marks[index].has(Part.SEEN):
            marks[index] = ignore_mark(marks[index], "no longer seen")
            return replace_parts(mark, "no longer seen", CHANGE=Change.RESOLVED)
        if marks[index].has(Part.PREDICATE):
            return replace_parts(mark, "no longer so", NEGATION_BEFORE=True)
        if marks[index].has(Part.FINDING, Part.EVIDENCE):
            return replace_parts(mark, "no longer there", CHANGE=Change.RESOLVED)
        if not marks[index].has(Part.OPENER, Part.FILLER, Part.SIDE) and marks[index].text != "any":
            break
    # Nothing that tells: before further words it is about a place ("no longer in the carina"), at the end it is gone.
    return (
        ignore_mark(mark, "no longer at a place")
        if position + 1 < len(marks)
        else replace_parts(mark, "gone", CHANGE=Change.RESOLVED)
    )


def _read_both(marks: list[Mark]) -> list[Mark]:
    """In "both unchanged" and "both are small" the word counts findings and names no side."""
    for position, mark in enumerate(marks[:-1]):
        counts = mark.text in ("both", "each", "all") and marks[position + 1].has(Part.CHANGE, Part.VERB, Part.LEVEL)
        if counts and _has_target_before(marks, position) and not _has_target_behind(marks, position):
            marks[position] = ignore_mark(mark, "both findings")
    return marks


def _has_target_behind(marks: Sequence[Mark], position: int) -> bool:
    end = next((index for index in range(position, len(marks)) if marks[index].has(*ENDS)), len(marks))
    return any(mark.has(Part.FINDING, Part.SUBJECT) for mark in marks[position:end])


def _read_partly(marks: list[Mark]) -> list[Mark]:
    """Read "almost resolved" as improved."""
    for position, mark in enumerate(marks):
        for index in range(position + 1, min(position + 3, len(marks))):
            # "Resolved" would be the wrong half of it: something is still there.
            if mark.has(Part.PARTLY) and marks[index].parts.get(Part.CHANGE) is Change.RESOLVED:
                marks[index] = replace_parts(marks[index], "not complete", CHANGE=Change.IMPROVING)
    return marks


def _read_sides_compared(marks: list[Mark]) -> list[Mark]:
    """ "Bilateral effusions, larger on the left" compares sides and not dates."""
    distributed = sum(mark.text in _COMPARED for mark in marks) > 1  # "worse on the left and better on the right"
    for position, mark in enumerate(marks):
        if mark.text not in _COMPARED or distributed:
            continue
        following = [
            index for index in range(position + 1, min(position + 4, len(marks))) if marks[index].has(Part.SIDE)
        ]
        if not following:
            continue
        between = [word.text for word in marks[position + 1 : following[0]]]
        if between == ["than"] or between == ["than", "the"]:
            marks[position] = ignore_mark(mark, "sides compared")
        elif between in (["on", "the"], ["at", "the"], ["on"], ["in", "the"]) and not _has_side_before(marks, position):
            marks[position] = ignore_mark(mark, "sides compared")
            marks[following[0]] = ignore_mark(marks[following[0]], "sides compared")
    return marks


def _has_side_before(marks: Sequence[Mark], position: int) -> bool:
    sides = [mark.parts[Part.SIDE] for mark in marks[:position] if mark.has(Part.SIDE)]
    return bool(sides) and sides[-1] in ("left", "right")


def _read_device_plans(marks: list[Mark]) -> list[Mark]:
    """ "Can be removed" states nothing; "withdrawn by 2 cm" is a move."""
    for position, mark in enumerate(marks):
        following = marks[position + 1] if position + 1 < len(marks) else None
        if mark.text in _WITHDRAWN and following is not None and _MOVED_BY.match(following.text):
            marks[position] = ignore_mark(mark, "moved")
        if mark.text == "out" and (following is None or following.has(Part.COMMA, Part.AND, *ENDS)):
            marks[position] = replace_parts(mark, "out", CHANGE=Change.RESOLVED)
        if not mark.has(Part.PLAN):
            continue
        for index in range(position + 1, min(position + 4, len(marks))):
            if marks[index].has(Part.CHANGE, Part.TAKEN_OUT, Part.EXCHANGED):
                marks[position] = ignore_mark(mark, "plan")
                is_before = marks[index].text.endswith(" of")
                part = {"UNSAID_BEFORE" if is_before else "UNSAID_AFTER": True}
                marks[index] = replace_parts(marks[index], "plan", **part)
                break
            if marks[index].has(Part.FINDING, Part.MOVED, *ENDS):
                break
    return marks


def _read_obscured(marks: list[Mark]) -> list[Mark]:
    """ "Opacity obscures the left hemidiaphragm": what lies upon it lies on its side."""
    for position, mark in enumerate(marks):
        if not mark.text.startswith(_OBSCURES):
            continue
        for index in range(position + 1, min(position + 3, len(marks))):
            if marks[index].has(Part.OTHER_SIDE) and marks[index].text.endswith(("diaphragm", "border")):
                marks[index] = replace_parts(
                    marks[index], "side of what is obscured", SIDE=marks[index].text.split()[0]
                )
    return marks


def _read_up_and_down(marks: list[Mark]) -> list[Mark]:
    """ "R effusion up, L effusion down": only as the last word, just behind its finding."""
    for position, mark in enumerate(marks):
        if mark.text not in ("up", "down") or not position or not marks[position - 1].has(Part.FINDING):
            continue
        if position + 1 == len(marks) or marks[position + 1].has(Part.COMMA, Part.AND, *ENDS):
            change = Change.WORSENING if mark.text == "up" else Change.IMPROVING
            marks[position] = replace_parts(mark, "up or down", CHANGE=change)
    return marks


def _read_inverted_denial(marks: list[Mark]) -> list[Mark]:
    """Read a value before what it is said of, or behind its side ("not seen are effusions"; "left yes, right no")."""
    if (
        len(marks) > 2
        and marks[0].has(Part.VALUE_NO, Part.NEGATION_AFTER)
        and marks[1].text in ("is", "are", "was", "were")
    ):
        marks[:2] = [
            replace_parts(marks[0], "denial first", NEGATION_BEFORE=True),
            ignore_mark(marks[1], "denial first"),
        ]
    for position, mark in enumerate(marks[1:], start=1):
        is_last = position + 1 == len(marks) or marks[position + 1].has(Part.COMMA, *ENDS)
        if mark.text in ("no", "none", "nil") and is_last and marks[position - 1].has(Part.SIDE):
            marks[position] = replace_parts(mark, "value of a side", NEGATION_AFTER=True)
    return marks


def _read_either(marks: list[Mark]) -> list[Mark]:
    """In "either atelectasis or pneumonia" the word names no side; "favour edema over pneumonia" doubts the second."""
    for position, mark in enumerate(marks[:-1]):
        if mark.text == "over" and any(word.text.startswith(("favor", "favour")) for word in marks[:position]):
            marks[position] = replace_parts(mark, "favoured over", UNCERTAINTY_BEFORE="unlikely")
        if mark.text == "either" and marks[position + 1].has(Part.FINDING, Part.LEVEL):
            marks[position] = replace_parts(mark, "either of two", UNCERTAINTY_BEFORE="possible")
    return marks


_RULES: tuple[Rule, ...] = (
    _read_question,
    _read_inverted_denial,
    _read_either,
    read_compared_with,
    _read_earlier_image,
    _read_movement,
    read_two_degrees,
    read_two_sizes,
    _read_not_seen,
    _read_both,
    _read_partly,
    read_negated_change,
    _read_sides_compared,
    _read_device_plans,
    _read_obscured,
    _read_up_and_down,
)
