"""Denials of a change: "no increase in", "not resolved", "no larger" say that a finding is there."""

from __future__ import annotations

from collections.abc import Sequence

from model.labeller.text.parts import ENDS, Mark, Part, ignore_mark, replace_parts
from model.schema import Change

_NOUN_OF_CHANGE = ("development of", "interval development of", "interval appearance of", "developing")


def read_negated_change(marks: list[Mark]) -> list[Mark]:
    """ "No change in" is stable. "No increase in", "not resolved", "no larger": it is there, and no change is stated.

    "No new", "or increasing" before a finding deny only such a one: the part becomes LEAVES_OPEN. "No development of"
    denies the finding.
    """
    for place, mark in enumerate(marks):
        if not mark.has(Part.NEGATION_BEFORE):
            continue
        target = _find_negated_change_after(marks, place)
        if target is None:
            continue
        word = marks[target]
        if word.has(Part.CHANGED):
            marks[target] = replace_parts(word, "nothing changed", CHANGE=Change.STABLE)
        elif word.text in _NOUN_OF_CHANGE:
            marks[target] = ignore_mark(word, "development")
            continue
        elif word.parts[Part.CHANGE] is Change.NEW and mark.text in ("not", "never"):
            marks[target] = replace_parts(word, "has not come", NEGATION_AFTER=True)
        elif _denies_only_such(marks, place, target):
            continue
        else:
            marks[target] = ignore_mark(word, "negated change")
            _read_second_change(marks, target)
        marks[place] = ignore_mark(mark, "negated change")
    return marks


def _denies_only_such(marks: Sequence[Mark], denial: int, place: int) -> bool:
    """Return whether a denial and a word of change stand before a finding and deny only such a one ("no new")."""
    word = marks[place]
    if word.parts[Part.CHANGE] is Change.NEW:
        return True
    return marks[denial].text != "not" and _is_attribute(marks, place)


def _find_negated_change_after(marks: Sequence[Mark], place: int) -> int | None:
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
        if mark.has(Part.PREPOSITION, Part.VERB, Part.COMMA, *ENDS, Part.RELATION, Part.WITH, Part.AND, Part.OPENER):
            return False
    return False


def _read_second_change(marks: list[Mark], place: int) -> None:
    """ "Not increased or decreased"."""
    if place + 2 < len(marks) and marks[place + 1].has(Part.OR) and marks[place + 2].has(Part.CHANGE):
        marks[place + 2] = ignore_mark(marks[place + 2], "negated change")
