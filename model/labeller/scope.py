"""How far a cue reaches: from the place of a phrase to the places of the findings that it governs.

After ConText (Harkema et al. 2009): a cue has a direction, and its scope ends at a word that ends it. What is added
here is the list: a denial goes on from member to member as long as the words behind a comma or "and" name one more
member and begin no statement of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.labeller.parts import CUES, Mark, Part
from model.labeller.statement import LISTED, Joint, Segment, Statement

_PASSES_DENIAL = (
    "suggest",
    "suggesting",
    "suggestive of",
    "suspicious for",
    "suspicious of",
    "concerning for",
    "concern for",
)
_PLACES = ("base", "bases", "apex", "apices", "in situ", "in place", "above", "tip", "zone", "lobe")


@dataclass(frozen=True, slots=True)
class Member:
    """A finding of a list. is_open: a word before it leaves open that another kind is there ("no large effusion")."""

    place: int
    is_open: bool


def denied(read: Statement, cue: int, targets: set[int], devices: set[int]) -> Iterator[Member]:
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
        if number > first and not is_open and spreads and segment.joint in LISTED and _is_bare(read.of(segment)):
            is_open = was_open
        for place in members:
            names_device = place in devices
            yield Member(place, is_open)
        if members and number == first:
            was_open = is_open
            spreads = _spreads(read, number, read.marks[start : members[0]])
        if ended:
            return


def _members(
    read: Statement, start: int, end: int, targets: set[int], *, verbs_end: bool
) -> tuple[list[int], bool, bool]:
    """Return the findings of a segment that a denial reaches, whether it ends there, and whether they stay open."""
    members: list[int] = []
    is_open = False
    for place in range(start, end):
        mark = read.marks[place]
        if place in targets:
            between = read.marks[members[-1] + 1 : place] if members else ()
            passes = any(one.text in _PASSES_DENIAL for one in between)
            if any(one.has(Part.PREPOSITION) for one in between) and not passes:
                return members, False, is_open
            members.append(place)
            continue
        if mark.has(Part.NEGATION_BEFORE, Part.UNSAID_BEFORE) or (
            mark.has(Part.UNCERTAINTY_BEFORE) and mark.text not in _PASSES_DENIAL
        ):
            return members, True, is_open
        if mark.has(Part.WITH) or (mark.has(Part.RELATION) and (members or _names_something(read.marks[start:place]))):
            return members, True, is_open
        if mark.has(Part.VERB):
            if any(later in targets for later in range(place, end)):
                return members, True, is_open
        elif mark.has(Part.PREPOSITION) and not members and _names_something(read.marks[start:place]):
            return members, False, is_open
        elif not members and (mark.has(Part.LEAVES_OPEN, Part.CHANGE) or _is_great(mark)):
            is_open = True
    return members, False, is_open


def _is_great(mark: Mark) -> bool:
    """Return whether a degree is so great that its denial leaves a smaller one possible."""
    return mark.parts.get(Part.LEVEL) in ("moderate", "moderate to large", "moderate to severe", "severe") and (
        mark.text not in ("gross", "grossly", "marked", "substantial", "considerable", "florid")
    )


def _names_something(between: Sequence[Mark]) -> bool:
    """Return whether words before a preposition name a thing that no list holds ("no complication of")."""
    return bool(between) and not between[-1].parts and between[-1].text.isalpha()


def _spreads(read: Statement, number: int, adjectives: Sequence[Mark]) -> bool:
    """Return whether "new" or "large" of the first member holds for the others: "no new consolidation or effusion"."""
    if any(mark.has(Part.CHANGE) or mark.text in ("further", "additional", "other") for mark in adjectives):
        return True
    following = read.segments[number + 1].joint if number + 1 < len(read.segments) else None
    return following in (Joint.OR, Joint.AND)


def _goes_on(read: Statement, number: int, targets: set[int], devices: set[int], *, names_device: bool | None) -> bool:
    """Return whether a segment is a further member of a denied list and not a statement of its own."""
    segment = read.segments[number]
    if segment.joint not in LISTED or _opens_statement(read, segment, targets):
        return False
    inside = [place for place in range(segment.start, segment.end) if place in targets]
    if not inside:
        return not any(mark.has(Part.CHANGE, Part.VERB) for mark in read.of(segment)) or segment.joint is Joint.OR
    if segment.joint is Joint.OR or _or_follows(read, number, targets):
        return True
    if names_device is not None and (inside[0] in devices) != names_device:
        return False
    return _is_bare(read.of(segment))


def _opens_statement(read: Statement, segment: Segment, targets: set[int]) -> bool:
    """Return whether a segment says something of its own: by a cue, "the", "there is", or a verb that predicates."""
    seen_target = False
    is_or = segment.joint is Joint.OR
    for place in range(segment.start, segment.end):
        mark = read.marks[place]
        if place in targets:
            if not mark.has(Part.FINDING):
                return True
            seen_target = True
        elif seen_target:
            if mark.has(Part.VERB) and _predicates(read.marks[place + 1 : segment.end]):
                return True
            if mark.has(Part.CHANGE) and not is_or:
                return True
        elif (
            mark.has(*CUES)
            or (mark.has(Part.SUBJECT) and not is_or)
            or mark.text.startswith("there")
            or (place == segment.start and mark.has(Part.OPENER) and not (is_or and mark.text in ("a", "an")))
        ):
            return True
    return False


def _predicates(behind: Sequence[Mark]) -> bool:
    """Return whether what stands behind a verb says more than "is seen"."""
    return any(mark.has(Part.CHANGE, Part.LEVEL, Part.SIDE, Part.PREDICATE) for mark in behind)


def _or_follows(read: Statement, number: int, targets: set[int]) -> bool:
    """Return whether "or" before a later member says that the list goes on."""
    for later in range(number + 1, len(read.segments)):
        segment = read.segments[later]
        if segment.joint not in LISTED or _opens_statement(read, segment, targets):
            return False
        if any(mark.has(Part.VERB) for mark in read.of(read.segments[later - 1])):
            return False
        if segment.joint is Joint.OR:
            return any(place in targets for place in range(segment.start, segment.end))
    return False


def _is_bare(within: Sequence[Mark]) -> bool:
    """Return whether a segment only names: no degree, change, side, place or verb."""
    return not any(
        mark.has(
            Part.LEVEL, Part.CHANGE, Part.SIDE, Part.VERB, Part.UNCERTAINTY_AFTER, Part.OPENER, Part.NEGATION_AFTER
        )
        or mark.text in _PLACES
        or mark.text[0].isdigit()
        for mark in within
    )


def doubted(read: Statement, cue: int, targets: set[int]) -> Iterator[int]:
    """Yield the findings that a word of doubt before them governs: its segment's, and those listed with them."""
    first = read.number(cue)
    for number in range(first, len(read.segments)):
        segment = read.segments[number]
        start = cue + 1 if number == first else segment.start
        if number > first and (segment.joint not in LISTED or not _is_listed_with(read, segment, targets)):
            return
        seen = False
        for place in range(start, segment.end):
            mark = read.marks[place]
            if place in targets:
                seen = True
                yield place
            elif mark.has(*CUES) or (seen and mark.has(Part.VERB, Part.WITH)):
                return


def _is_listed_with(read: Statement, segment: Segment, targets: set[int]) -> bool:
    if _opens_statement(read, segment, targets):
        return False
    if segment.joint is Joint.OR:
        return True
    within = read.of(segment)
    return not any(mark.has(Part.CHANGE, Part.LEVEL, Part.VERB) for mark in within)


def unsaid(read: Statement, cue: int, targets: set[int]) -> Iterator[int]:
    """Yield the findings behind a question, plan or history: to a break, or to where a statement begins."""
    first = read.number(cue)
    is_past = read.marks[cue].text in ("status post", "history of")
    for number in range(first, len(read.segments)):
        segment = read.segments[number]
        within = read.of(segment)
        if number > first:
            if segment.joint not in LISTED:
                return
            begins = within[0].text.startswith("there") or any(mark.has(Part.VERB) for mark in within)
            if segment.joint is not Joint.OR and begins and _opens_statement(read, segment, targets):
                return
            if is_past and any(mark.has(Part.LEVEL, Part.CHANGE, Part.NEGATION_BEFORE) for mark in within):
                return
        start = cue + 1 if number == first else segment.start
        yield from (place for place in range(start, segment.end) if place in targets)


def before(read: Statement, cue: int, targets: set[int], *, crosses: bool = True) -> list[int]:
    """Return the findings that a cue after them governs: the nearest, and those listed with it.

    crosses: from a segment without a finding of its own to the one before it ("small effusion, unchanged").
    """
    number = read.number(cue)
    segment = read.segments[number]
    governed = _nearest_group(read, segment, cue, targets)
    while not governed:
        if not crosses or segment.joint in (Joint.STOP, Joint.START) or number == 0:
            return []
        number -= 1
        segment = read.segments[number]
        governed = _nearest_group(read, segment, segment.end, targets)
    listed = segment.joint in (Joint.AND, Joint.OR)
    while number and (
        read.segments[number].joint in (Joint.AND, Joint.OR) or (listed and read.segments[number].joint is Joint.COMMA)
    ):
        number -= 1
        earlier = read.segments[number]
        if any(mark.has(Part.VERB, Part.CHANGE, *CUES, Part.NEGATION_AFTER) for mark in read.of(earlier)):
            break
        group = _nearest_group(read, earlier, earlier.end, targets)
        if not group:
            break
        governed = [*group, *governed]
    return governed


def _nearest_group(read: Statement, segment: Segment, end: int, targets: set[int]) -> list[int]:
    """Return the findings before `end` in a segment, back to the verb or cue before the nearest of them."""
    group: list[int] = []
    for place in range(min(end, segment.end) - 1, segment.start - 1, -1):
        mark = read.marks[place]
        if place in targets:
            group.insert(0, place)
        elif group and mark.has(Part.VERB, Part.NEGATION_AFTER, Part.UNCERTAINTY_AFTER, *CUES):
            break
    return group


def described(read: Statement, cue: int, targets: set[int]) -> list[int] | None:
    """Return the findings that a word of change before them describes; [] where it describes one before it.

    None: it describes what is no finding ("improved aeration").
    """
    number = read.number(cue)
    segment = read.segments[number]
    governed: list[int] = []
    for place in range(cue + 1, segment.end):
        mark = read.marks[place]
        if place in targets:
            governed.append(place)
            continue
        if mark.has(Part.INERT):
            return governed or None
        ends_list = bool(governed) and mark.has(Part.CHANGE, Part.RELATION)
        is_verb = mark.has(Part.VERB) and not mark.text.startswith("there")
        if mark.has(Part.WITH, Part.NEGATION_BEFORE) or ends_list or is_verb:
            break
    if governed and _follows_predicate(read, segment, cue, targets):
        return []
    while governed and number + 1 < len(read.segments):
        number += 1
        following = read.segments[number]
        if following.joint not in (Joint.AND, Joint.OR) or not _shares_change(read, following, targets):
            break
        governed += [place for place in range(following.start, following.end) if place in targets]
    return governed


def _follows_predicate(read: Statement, segment: Segment, cue: int, targets: set[int]) -> bool:
    """Return whether a finding and a verb stand before the cue in its segment ("the effusion is unchanged with …")."""
    has_verb = False
    for place in range(cue - 1, segment.start - 1, -1):
        mark = read.marks[place]
        if mark.has(Part.VERB) and not mark.text.startswith("there"):
            has_verb = True
        if place in targets:
            return has_verb
    return False


def _shares_change(read: Statement, segment: Segment, targets: set[int]) -> bool:
    within = read.of(segment)
    return not _opens_statement(read, segment, targets) and not any(
        mark.has(Part.LEVEL, Part.CHANGE, Part.OPENER, Part.VERB, Part.SIDE) for mark in within
    )
