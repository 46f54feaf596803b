"""Labels and brackets of structured reports: "Pneumothorax: no", "Edema (Y/N): N"."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from model.labeller.text.parts import LIST, Mark, Part

_VALUES = (Part.VALUE_NO, Part.VALUE_YES, Part.VALUE_OPEN)


def without_brackets(marks: list[Mark]) -> list[Mark]:
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


def without_labels(marks: list[Mark]) -> list[Mark]:
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
            changed[position] = _label_mark(mark)
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
            changed[position:first] = map(_label_mark, marks[position:first])
            changed[first] = _value(right[0])
        elif names_more and all(not named.has(Part.SUBJECT) for named in left):
            changed[start:position] = map(_label_mark, marks[start:position])
            changed[position] = dataclasses.replace(mark, parts={Part.STOP: True})
        else:
            changed[position] = _label_mark(mark)
    return _with_stops(changed, closed)


def _with_stops(marks: list[Mark], positions: set[int]) -> list[Mark]:
    """End the statement before each position, as in "Pneumothorax: no Effusion: yes"."""
    # From the back, so that the positions before it stay valid.
    for position in sorted(positions, reverse=True):
        at = marks[position].start
        marks.insert(position, Mark(text=";", start=at, end=at, parts={Part.STOP: True}))
    return marks


def _label_mark(mark: Mark) -> Mark:
    return dataclasses.replace(mark, parts={Part.IGNORED: True}, role="label")


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
