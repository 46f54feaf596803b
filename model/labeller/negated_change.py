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
    for position, mark in enumerate(marks):
        if not mark.has(Part.NEGATION_BEFORE):
            continue
        target = _find_negated_change_after(marks, position)
        if target is None:
            continue
        word = marks[target]
        if word.has(Part.CHANGED):
            marks[target] = replace_parts(word, "nothing changed", CHANGE=Change.STABLE)
        elif word.text in _NOUN_OF_CHANGE:
            marks[target] = ignore_mark(word, "development")
            continue
        # "Has not developed": it is not there at all, which "no new effusion" does not say.
        elif word.parts[Part.CHANGE] is Change.NEW and mark.text in ("not", "never"):
            marks[target] = replace_parts(word, "has not come", NEGATION_AFTER=True)
        elif _denies_only_such(marks, position, target):
            continue
        else:
            marks[target] = ignore_mark(word, "negated change")
            _read_second_change(marks, target)
        marks[position] = ignore_mark(mark, "negated change")
    return marks


def _denies_only_such(marks: Sequence[Mark], denial: int, position: int) -> bool:
    """Return whether a denial and a word of change stand before a finding and deny only such a one ("no new")."""
    word = marks[position]
    if word.parts[Part.CHANGE] is Change.NEW:
        return True
    return marks[denial].text != "not" and _is_attribute(marks, position)


def _find_negated_change_after(marks: Sequence[Mark], position: int) -> int | None:
    # Eight words at most: "no" and the change that it denies stand close together.
    for index in range(position + 1, min(position + 8, len(marks))):
        mark = marks[index]
        if mark.has(Part.CHANGE, Part.CHANGED) and not mark.has(Part.FINDING):
            return index
        if not mark.has(Part.FILLER, Part.EVIDENCE, Part.PARTLY) and not (
            mark.text in ("of", "any") and marks[index - 1].has(Part.EVIDENCE)
        ):
            return None
    return None


def _is_attribute(marks: Sequence[Mark], position: int) -> bool:
    """Return whether a word of change stands before its finding in one noun phrase ("no increasing effusion")."""
    for mark in marks[position + 1 :]:
        if mark.has(Part.FINDING):
            return True
        if mark.has(Part.PREPOSITION, Part.VERB, Part.COMMA, *ENDS, Part.RELATION, Part.WITH, Part.AND, Part.OPENER):
            return False
    return False


def _read_second_change(marks: list[Mark], position: int) -> None:
    """ "Not increased or decreased"."""
    if position + 2 < len(marks) and marks[position + 1].has(Part.OR) and marks[position + 2].has(Part.CHANGE):
        marks[position + 2] = ignore_mark(marks[position + 2], "negated change")
