"""Assignment of sides to the findings of a statement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from model.labeller.statement import LISTED, Joint, SentenceStatement, StatementSegment
from model.labeller.targets import Target
from model.labeller.text.parts import Mark, Part

_MEANS = ("in keeping with", "as")


def give_sides(read: SentenceStatement, targets: dict[int, Target]) -> None:
    """Give each finding its sides; one without a side has that of the finding that it is joined to."""
    for cue, mark in enumerate(read.marks):
        if mark.has(Part.SIDE):
            position = _find_sided(read, cue, targets)
            if position is not None and not _is_second_of_device(read, cue, targets[position]):
                targets[position].sides.append(mark.parts[Part.SIDE])
                targets[position].note("side", mark)
    _give_leading_side(read, targets)
    for before, target in pairwise(targets.values()):
        if not target.sides and before.sides and before.named.general and _is_exception(read, target):
            target.sides = list(before.sides)  # "the right lung is clear apart from a nodule at the apex"
        elif not target.sides and before.sides and _shares_side(read.marks[before.position + 1 : target.position]):
            target.sides = list(before.sides)
        elif target.sides and not before.sides and _holds_for_both(read, before, target):
            before.sides = list(target.sides)


def _holds_for_both(read: SentenceStatement, before: Target, target: Target) -> bool:
    """Return whether the side of the second of two findings is that of the first, too."""
    are_doubted = target.presence == before.presence == "uncertain"
    if are_doubted and _are_alternatives(read.marks[before.position + 1 : target.position]):
        return True
    return _is_pair_at_place(read, before.position, target)


def _is_pair_at_place(read: SentenceStatement, position: int, target: Target) -> bool:
    """Return whether a place behind two findings is that of both ("consolidation and effusion on the right")."""
    between = read.marks[position + 1 : target.position]
    side = next((mark for rule, mark in target.notes if rule == "side"), None)
    if len(between) != 1 or not between[0].has(Part.AND) or side is None:
        return False
    behind = [mark.text for mark in read.marks[target.position + 1 : target.position + 3]]
    return side.start > read.marks[target.position].start and bool(behind) and behind[0] in ("on", "in", "at")


def _give_leading_side(read: SentenceStatement, targets: dict[int, Target]) -> None:
    """Give the side that a sentence opens with to all that it names ("on the left there is consolidation with …")."""
    if not read.marks or read.marks[0].text not in ("on", "in", "at"):
        return
    first = next(iter(targets), len(read.marks))
    sides = [mark for mark in read.marks[1 : min(4, first)] if mark.has(Part.SIDE)]
    others = [mark for mark in read.marks if mark.has(Part.SIDE) and mark not in sides]
    # One side in all of the sentence, and no break in it: else which finding it means is not sure.
    if len(sides) != 1 or others or any(segment.joint in (Joint.STOP, Joint.BREAK) for segment in read.segments):
        return
    for target in targets.values():
        if not target.sides and not target.named.general:
            target.sides.append(sides[0].parts[Part.SIDE])
            target.note("side", sides[0])


def _is_exception(read: SentenceStatement, target: Target) -> bool:
    return read.segments[read.number(target.position)].joint is Joint.EXCEPT


def _find_sided(read: SentenceStatement, cue: int, targets: dict[int, Target]) -> int | None:
    segment = read.segments[read.number(cue)]
    inside = [position for position in targets if segment.start <= position < segment.end]
    for position in range(cue + 1, segment.end):
        if position in targets:
            return position
        if read.marks[position].has(Part.VERB, Part.WITH, Part.NEGATION_BEFORE, Part.RELATION):
            break
        # Lists compare by their first entry: the segment's first finding stands before the side, or it has none at all.
        if inside[:1] < [cue] and read.marks[position].has(Part.UNCERTAINTY_BEFORE, Part.SHARED):
            break  # "opacity at the right base may represent atelectasis"
    if inside:
        earlier = [position for position in inside if position < cue]
        related = any(mark.has(Part.RELATION) and mark.text not in _MEANS for mark in read.marks[cue : inside[0]])
        return earlier[-1] if earlier else None if related else inside[0]
    if any(mark.text in ("clear", "normal", "unremarkable") for mark in read.of(segment)):
        return None  # "small left effusion, right clear"
    before = last_before(read, cue, segment, targets)
    if before is not None and (read.marks[cue].parts[Part.SIDE] == "bilateral" or segment.joint is Joint.COMMA):
        return before
    after = first_after(read, segment, targets)
    return after if after is not None else before


def _is_second_of_device(read: SentenceStatement, cue: int, target: Target) -> bool:
    """Return whether a device has its side already and this one is of where its tip lies."""
    between = read.marks[target.position : cue]
    return (
        target.is_device
        and bool(target.sides)
        and any(mark.has(Part.VERB, Part.WITH, Part.PREPOSITION) or mark.text == "tip" for mark in between)
    )


def _are_alternatives(between: Sequence[Mark]) -> bool:
    """Return whether two findings are one place read in two ways ("atelectasis versus pneumonia at the right base")."""
    return (
        bool(between)
        and (between[0].has(Part.OR) or between[0].text.endswith(("versus", "vs", "over")))
        and not any(mark.has(Part.SIDE) for mark in between)
    )


def _shares_side(between: Sequence[Mark]) -> bool:
    """Return whether a finding has the side of the one before it ("left effusion and atelectasis")."""
    if any(
        mark.has(Part.BREAK, Part.STOP, Part.EXCEPT, Part.NEGATION_BEFORE) and mark.text != "which" for mark in between
    ):
        return False
    if any(mark.has(Part.SHARED, Part.UNCERTAINTY_BEFORE) for mark in between):
        return True
    if any(mark.has(Part.VERB, Part.WITH, Part.LEVEL, Part.OPENER, Part.CHANGE, Part.LEAVES_OPEN) for mark in between):
        return False
    return any(mark.has(Part.AND, Part.OR) or mark.text == "/" for mark in between)


def last_before(read: SentenceStatement, cue: int, segment: StatementSegment, targets: dict[int, Target]) -> int | None:
    """Return the finding before a place in its segment, else in the segments before, up to a break."""
    earlier = [position for position in targets if segment.start <= position < cue]
    if earlier:
        return earlier[-1]
    if any(position >= segment.start and position < segment.end for position in targets):
        return None
    number = read.segments.index(segment)
    while number and read.segments[number].joint not in (Joint.STOP, Joint.EXCEPT):
        number -= 1
        inside = [
            position for position in targets if read.segments[number].start <= position < read.segments[number].end
        ]
        if inside:
            return inside[-1]
    return None


def first_after(read: SentenceStatement, segment: StatementSegment, targets: dict[int, Target]) -> int | None:
    """Return the finding of the next segment, where this one holds adjectives of it ("left upper and right lower")."""
    number = read.segments.index(segment)
    while number + 1 < len(read.segments) and read.segments[number + 1].joint in LISTED:
        if any(mark.has(Part.VERB) or mark.text in ("in", "on", "at") for mark in read.of(read.segments[number])):
            return None
        number += 1
        following = read.segments[number]
        inside = [position for position in targets if following.start <= position < following.end]
        if inside:
            return inside[0]
    return None
