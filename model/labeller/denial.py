"""The reach of a denial: over a list, from member to member, and no further.

A denial goes on behind a comma or "and" as long as the words there name one more member of its list and begin no
statement of their own. Words such as "large" or "new" before a member leave open whether a small or an old one is
there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.labeller.statement import LISTED, Joint, SentenceStatement, StatementSegment
from model.labeller.text.parts import CUES, Mark, Part

_PASSES_DENIAL = (
    "suggest",
    "suggesting",
    "suggestive of",
    "suspicious for",
    "suspicious of",
    "concerning for",
    "concern for",
)
_SHOWS = ("shows", "show", "demonstrates", "demonstrate", "contains", "has", "have")
_PLACES = ("base", "bases", "apex", "apices", "in situ", "in place", "above", "tip", "zone", "lobe")


@dataclass(frozen=True, slots=True)
class Member:
    """A finding of a list. is_open: a word before it leaves open that another kind is there ("no large effusion")."""

    position: int
    is_open: bool


def find_denied(read: SentenceStatement, cue: int, targets: set[int], devices: set[int]) -> Iterator[Member]:
    """Yield the findings that a denial before them governs."""
    first = read.number(cue)
    names_device: bool | None = None
    was_open, spreads = False, False
    for number in range(first, len(read.segments)):
        segment = read.segments[number]
        start = cue + 1 if number == first else segment.start
        if number > first and not _goes_on(read, number, targets, devices, names_device=names_device):
            return
        members, ended, is_open = _members(read, start, segment.end, targets, verbs_end=number > first)
        own = any(mark.has(Part.LEVEL, Part.CHANGE, Part.VERB) for mark in read.of(segment))
        # "No new consolidation or effusion": whether there is an old effusion stays open, as for the consolidation.
        if number > first and not is_open and spreads and segment.joint in LISTED and not own:
            is_open = was_open
        for position in members:
            names_device = position in devices
            yield Member(position, is_open)
        if members and number == first:
            was_open = is_open
            spreads = _spreads(read, number, read.marks[start : members[0]])
        if ended:
            return


def _members(
    read: SentenceStatement, start: int, end: int, targets: set[int], *, verbs_end: bool
) -> tuple[list[int], bool, bool]:
    """Return the findings of a segment that a denial reaches, whether it ends there, and whether they stay open."""
    members: list[int] = []
    is_open = False
    for position in range(start, end):
        mark = read.marks[position]
        if position in targets:
            between = read.marks[members[-1] + 1 : position] if members else ()
            passes = any(other.text in _PASSES_DENIAL for other in between)
            # Behind a preposition stands where the denied finding would be, and no further member of the list.
            if any(other.has(Part.PREPOSITION) for other in between) and not passes:
                return members, False, is_open
            members.append(position)
            continue
        if mark.has(Part.NEGATION_BEFORE, Part.UNSAID_BEFORE) or (
            mark.has(Part.UNCERTAINTY_BEFORE) and mark.text not in _PASSES_DENIAL
        ):
            return members, True, is_open
        if mark.has(Part.WITH) or (
            mark.has(Part.RELATION) and (members or _names_something(read.marks[start:position]))
        ):
            return members, True, is_open
        # "Neither view shows effusion": this verb leads from the denial to its finding and does not end it.
        if mark.has(Part.VERB) and not (mark.text in _SHOWS and not members):
            if any(later in targets for later in range(position, end)):
                return members, True, is_open
        elif mark.has(Part.PREPOSITION) and not members and _names_something(read.marks[start:position]):
            return members, False, is_open
        elif not members and (mark.has(Part.LEAVES_OPEN, Part.CHANGE) or _is_great(mark)):
            is_open = True
    return members, False, is_open


def _is_great(mark: Mark) -> bool:
    """Return whether a degree is so great that its denial leaves a smaller one possible."""
    return mark.parts.get(Part.LEVEL) in ("moderate", "moderate to large", "moderate to severe", "severe") and (
        mark.text not in ("gross", "grossly", "marked", "florid")
    )


def _names_something(between: Sequence[Mark]) -> bool:
    """Return whether words before a preposition name a thing that no list holds ("no complication of")."""
    adjectives = (Part.EVIDENCE, Part.FILLER, Part.LEVEL, Part.CHANGE, Part.PARTLY, Part.OPENER, Part.LEAVES_OPEN)
    return (
        bool(between)
        and between[-1].text.replace(" ", "").isalpha()
        and not between[-1].has(*adjectives, Part.PREPOSITION, Part.SIDE)
    )


def _spreads(read: SentenceStatement, number: int, adjectives: Sequence[Mark]) -> bool:
    """Return whether "new" or "large" of the first member holds for the others: "no new consolidation or effusion"."""
    if any(mark.has(Part.CHANGE) or mark.text in ("further", "additional", "other") for mark in adjectives):
        return True
    following = read.segments[number + 1].joint if number + 1 < len(read.segments) else None
    return following in (Joint.OR, Joint.AND)


def _goes_on(
    read: SentenceStatement, number: int, targets: set[int], devices: set[int], *, names_device: bool | None
) -> bool:
    """Return whether a segment is a further member of a denied list and not a statement of its own."""
    segment = read.segments[number]
    if segment.joint not in LISTED or opens_statement(read, segment, targets):
        return False
    inside = [position for position in range(segment.start, segment.end) if position in targets]
    if not inside:
        return not any(mark.has(Part.CHANGE, Part.VERB) for mark in read.of(segment)) or segment.joint is Joint.OR
    if segment.joint is Joint.OR or _or_follows(read, number, targets):
        return True
    # "No pneumothorax, endotracheal tube in place": a list of diseases does not go on with a device, nor the other way
    # round.
    if names_device is not None and (inside[0] in devices) != names_device:
        return False
    return is_bare(read.of(segment))


def opens_statement(read: SentenceStatement, segment: StatementSegment, targets: set[int]) -> bool:
    """Return whether a segment says something of its own: by a cue, "the", "there is", or a verb that predicates."""
    seen_target = False
    is_or = segment.joint is Joint.OR
    for position in range(segment.start, segment.end):
        mark = read.marks[position]
        if position in targets:
            if not mark.has(Part.FINDING):
                return True
            seen_target = True
        elif seen_target:
            if mark.has(Part.VERB) and _predicates(read.marks[position + 1 : segment.end]):
                return True
            if mark.has(Part.CHANGE) and not is_or:
                return True
        elif (
            mark.has(*CUES)
            or (mark.has(Part.SUBJECT) and not is_or)
            or mark.text.startswith("there")
            or (position == segment.start and mark.has(Part.OPENER) and not (is_or and mark.text in ("a", "an")))
        ):
            return True
    return False


def _predicates(behind: Sequence[Mark]) -> bool:
    """Return whether what stands behind a verb says more than "is seen"."""
    return any(mark.has(Part.CHANGE, Part.LEVEL, Part.SIDE, Part.PREDICATE) for mark in behind)


def _or_follows(read: SentenceStatement, number: int, targets: set[int]) -> bool:
    """Return whether "or" before a later member says that the list goes on."""
    for later in range(number + 1, len(read.segments)):
        segment = read.segments[later]
        if segment.joint not in LISTED or opens_statement(read, segment, targets):
            return False
        if any(mark.has(Part.VERB) for mark in read.of(read.segments[later - 1])):
            return False
        if segment.joint is Joint.OR:
            return any(position in targets for position in range(segment.start, segment.end))
    return False


def is_bare(within: Sequence[Mark]) -> bool:
    """Return whether a segment only names: no degree, change, side, place or verb."""
    return not any(
        mark.has(
            Part.LEVEL, Part.CHANGE, Part.SIDE, Part.VERB, Part.UNCERTAINTY_AFTER, Part.OPENER, Part.NEGATION_AFTER
        )
        or mark.text in _PLACES
        or mark.text[0].isdigit()
        for mark in within
    )
