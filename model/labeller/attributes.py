"""Assignment of change, degree and side to the findings of a statement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from model.labeller import scope
from model.labeller.parts import LIST, Mark, Part
from model.labeller.statement import LISTED, Joint, Segment, Statement
from model.labeller.targets import Target, at
from model.schema import Change

_OF_DEVICES = (
    *("removal of", "interval removal of", "withdrawal of", "placement of", "interval placement of", "insertion of"),
    *("interval insertion of", "interval removal"),
)


def give_changes(read: Statement, targets: dict[int, Target]) -> None:
    """Give each finding the change that is said of it. What has resolved or was removed is absent."""
    places = set(targets)
    for cue, mark in enumerate(read.marks):
        if mark.has(Part.TAKEN_OUT) and cue - 1 in places:
            _change([targets[cue - 1]], mark, Change.RESOLVED)
        if not mark.has(Part.CHANGE) or cue in places:
            continue  # "increased in size" said of the heart is what it is, not what became of it
        change = mark.parts[Part.CHANGE]
        is_list = mark.text in _OF_DEVICES or (change is Change.STABLE and mark.role != "nothing changed")
        listed = _find_listed_behind(read, cue, targets) if is_list else []
        governed = listed or scope.find_described(read, cue, places)
        if governed is None:
            continue
        if not governed:
            governed = scope.before(read, cue, places) or _find_described_next(read, cue, targets)
        _change([targets[place] for place in governed], mark, change)
    _exchange(read, targets)
    for target in targets.values():
        if target.is_known and target.presence == "no" and target.change is None and not target.left_out:
            target.change = Change.RESOLVED


def _find_described_next(read: Statement, cue: int, targets: dict[int, Target]) -> list[int]:
    """Return the finding of the next segment where adjectives are parted by commas ("stable, small effusion")."""
    place = _first_after(read, read.segments[read.number(cue)], targets)
    return [] if place is None else [place]


def _find_listed_behind(read: Statement, cue: int, targets: dict[int, Target]) -> list[int]:
    """Return the devices of a list behind "removal of" or "placement of"; it goes on over commas and sides."""
    first = read.number(cue)
    governed: list[int] = []
    for number in range(first, len(read.segments)):
        segment = read.segments[number]
        start = cue + 1 if number == first else segment.start
        inside = [place for place in range(start, segment.end) if place in targets and targets[place].is_device]
        if number > first and (
            segment.joint not in LISTED
            or not inside
            or any(mark.has(Part.VERB, Part.CHANGE, Part.LEVEL, Part.NEGATION_BEFORE) for mark in read.of(segment))
        ):
            break
        if not inside:
            break
        ended = any(mark.has(Part.WITH, Part.RELATION) for mark in read.marks[start : segment.end])
        governed += inside[:1] if ended else inside
        if ended:
            break
    return governed


def _change(governed: Sequence[Target], mark: Mark, change: Change) -> None:
    for target in governed:
        if target.change is None and (target.presence != "no" or change is Change.RESOLVED):
            target.change = change
            target.note("change", mark)
            if change is Change.RESOLVED and any(rule == "one of several" for rule, _ in target.notes):
                target.left_out = "one of several is gone"
            if change is Change.RESOLVED and target.named.presence == "yes":
                target.presence = "no"


def _exchange(read: Statement, targets: dict[int, Target]) -> None:
    """Read "A has been replaced by B" and "B has replaced A"; of the same kind and side nothing is gone."""
    for cue, mark in enumerate(read.marks):
        if not mark.has(Part.EXCHANGED) or mark.has(Part.CHANGE) or mark.role == "plan":
            continue
        start, end = _bounds(read, cue)
        gone = [target for target in targets.values() if target.is_device and start <= target.place < cue][-1:]
        came = [target for target in targets.values() if target.is_device and cue < target.place < end][:1]
        link = read.marks[cue + 1].text if cue + 1 < len(read.marks) else ""
        is_passive = link in ("by", "with", "for", "to")
        if not is_passive:
            if cue and read.marks[cue - 1].text.endswith(("been", "was", "were", "be")):
                continue  # nothing is said of what came in its place
            gone, came = came, gone
        if not gone or (is_passive and not came and not _names_other(read.marks[cue + 2 :])):
            continue
        same_kind = bool(came) and came[0].named.keys == gone[0].named.keys
        if same_kind and (not gone[0].sides or set(came[0].sides) == set(gone[0].sides)):
            gone[0].left_out = "replaced by one of its kind"
            continue
        _change(gone, mark, Change.RESOLVED)
        _change(came, mark, Change.NEW)


def _bounds(read: Statement, place: int) -> tuple[int, int]:
    """Return where the stretch between semicolons begins and ends that a place stands in."""
    number = last = read.number(place)
    while number and read.segments[number].joint is not Joint.STOP:
        number -= 1
    while last + 1 < len(read.segments) and read.segments[last + 1].joint is not Joint.STOP:
        last += 1
    return read.segments[number].start, read.segments[last].end


def _names_other(behind: Sequence[Mark]) -> bool:
    return any("tracheostomy" in mark.text or mark.text in ("trach", "gastrostomy", "peg") for mark in behind)


def give_levels(read: Statement, targets: dict[int, Target]) -> None:
    """Give each finding its degree: of the noun phrase that it stands in, else the one before."""
    for cue, mark in enumerate(read.marks):
        if not mark.has(Part.LEVEL) or _grades_change(read.marks, cue):
            continue
        place = _find_graded(read, cue, targets)
        if place is not None and targets[place].level is None:
            targets[place].level = mark.parts[Part.LEVEL]
            targets[place].note("degree", mark)


def _grades_change(marks: Sequence[Mark], cue: int) -> bool:
    """Return whether a degree says how great a change is ("slightly increased") and not how great the finding."""
    if marks[cue].has(Part.CHANGE):
        return False
    for mark in marks[cue + 1 : cue + 3]:
        if mark.has(Part.CHANGE):
            return mark.role == "nothing changed" or mark.parts[Part.CHANGE] not in (Change.NEW, Change.STABLE)
        if mark.role in ("negated change", "sides compared"):
            return True
        if mark.text not in ("interval", "further", "overall", "partial"):
            return False
    return False


def _find_graded(read: Statement, cue: int, targets: dict[int, Target]) -> int | None:
    segment = read.segments[read.number(cue)]
    for place in range(cue + 1, segment.end):
        if place in targets:
            return place
        if read.marks[place].has(Part.VERB, Part.WITH, Part.NEGATION_BEFORE) or read.marks[place].text in (
            "in",
            "at",
            "on",
        ):
            break
    before = _last_before(read, cue, segment, targets)
    return before if before is not None else _first_after(read, segment, targets)


def _last_before(read: Statement, cue: int, segment: Segment, targets: dict[int, Target]) -> int | None:
    """Return the finding before a place in its segment, else in the segments before, up to a break."""
    earlier = [place for place in targets if segment.start <= place < cue]
    if earlier:
        return earlier[-1]
    if any(place >= segment.start and place < segment.end for place in targets):
        return None
    number = read.segments.index(segment)
    while number and read.segments[number].joint not in (Joint.STOP, Joint.EXCEPT):
        number -= 1
        inside = [place for place in targets if read.segments[number].start <= place < read.segments[number].end]
        if inside:
            return inside[-1]
    return None


def _first_after(read: Statement, segment: Segment, targets: dict[int, Target]) -> int | None:
    """Return the finding of the next segment, where this one holds adjectives of it ("left upper and right lower")."""
    number = read.segments.index(segment)
    while number + 1 < len(read.segments) and read.segments[number + 1].joint in LISTED:
        if any(mark.has(Part.VERB) or mark.text in ("in", "on", "at") for mark in read.of(read.segments[number])):
            return None
        number += 1
        following = read.segments[number]
        inside = [place for place in targets if following.start <= place < following.end]
        if inside:
            return inside[0]
    return None


def give_sides(read: Statement, targets: dict[int, Target]) -> None:
    """Give each finding its sides; one without a side has that of the finding that it is joined to."""
    for cue, mark in enumerate(read.marks):
        if mark.has(Part.SIDE):
            place = _find_sided(read, cue, targets)
            if place is not None and not _is_second_of_device(read, cue, targets[place]):
                targets[place].sides.append(mark.parts[Part.SIDE])
                targets[place].note("side", mark)
    for before, target in pairwise(targets.values()):
        if not target.sides and before.sides and _shares_side(read.marks[before.place + 1 : target.place]):
            target.sides = list(before.sides)
        elif (
            target.presence == before.presence == "uncertain"
            and target.sides
            and not before.sides
            and _are_alternatives(read.marks[before.place + 1 : target.place])
        ):
            before.sides = list(target.sides)


def _find_sided(read: Statement, cue: int, targets: dict[int, Target]) -> int | None:
    segment = read.segments[read.number(cue)]
    inside = [place for place in targets if segment.start <= place < segment.end]
    for place in range(cue + 1, segment.end):
        if place in targets:
            return place
        if read.marks[place].has(Part.VERB, Part.WITH, Part.NEGATION_BEFORE, Part.RELATION):
            break
        if inside[:1] < [cue] and read.marks[place].has(Part.UNCERTAINTY_BEFORE, Part.SHARED):
            break  # "opacity at the right base may represent atelectasis"
    if inside:
        earlier = [place for place in inside if place < cue]
        related = any(mark.has(Part.RELATION) for mark in read.marks[cue : inside[0]])
        return earlier[-1] if earlier else None if related else inside[0]
    before = _last_before(read, cue, segment, targets)
    if before is not None and (read.marks[cue].parts[Part.SIDE] == "bilateral" or segment.joint is Joint.COMMA):
        return before
    after = _first_after(read, segment, targets)
    return after if after is not None else before


def _is_second_of_device(read: Statement, cue: int, target: Target) -> bool:
    """Return whether a device has its side already and this one is of where its tip lies."""
    between = read.marks[target.place : cue]
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


__all__ = ["LIST", "at", "give_changes", "give_levels", "give_sides"]
