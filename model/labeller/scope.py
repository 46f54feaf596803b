"""The scope of a cue: from the place of a phrase to the places of the findings that it governs.

After ConText (Harkema et al. 2009): a cue has a direction, and its scope ends at a word that ends it. How far a denial
reaches: `denial`.
"""

from __future__ import annotations

from collections.abc import Iterator

from model.labeller.denial import is_bare, opens_statement
from model.labeller.statement import LISTED, Joint, SentenceStatement, StatementSegment
from model.labeller.text.parts import CUES, Part


def find_doubted(read: SentenceStatement, cue: int, targets: set[int]) -> Iterator[int]:
    """Yield the findings that a word of doubt before them governs: its segment's, and those listed with them."""
    first = read.number(cue)
    for number in range(first, len(read.segments)):
        segment = read.segments[number]
        start = cue + 1 if number == first else segment.start
        if number > first and (segment.joint not in LISTED or not _is_listed_with(read, segment, targets)):
            return
        seen = False
        for position in range(start, segment.end):
            mark = read.marks[position]
            if position in targets:
                seen = True
                yield position
            elif mark.has(*CUES) or (seen and mark.has(Part.VERB, Part.WITH)):
                return


def _is_listed_with(read: SentenceStatement, segment: StatementSegment, targets: set[int]) -> bool:
    if opens_statement(read, segment, targets):
        return False
    if segment.joint is Joint.OR:
        return True
    within = read.of(segment)
    return not any(mark.has(Part.CHANGE, Part.LEVEL, Part.VERB) for mark in within)


def unsaid(read: SentenceStatement, cue: int, targets: set[int]) -> Iterator[int]:
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
            if segment.joint is not Joint.OR and begins and opens_statement(read, segment, targets):
                return
            if is_past and any(mark.has(Part.LEVEL, Part.CHANGE, Part.NEGATION_BEFORE) for mark in within):
                return
        start = cue + 1 if number == first else segment.start
        yield from (position for position in range(start, segment.end) if position in targets)


def before(read: SentenceStatement, cue: int, targets: set[int], *, crosses: bool = True) -> list[int]:
    """Return the findings that a cue after them governs: the nearest, and those listed with it.

    crosses: from a segment without a finding of its own to the one before it ("small effusion, unchanged").
    """
    number = read.number(cue)
    segment = read.segments[number]
    governed = _nearest_group(read, segment, cue, targets)
    # The cue's own segment has none: "small effusion, unchanged" means the one before.
    while not governed:
        if not crosses or segment.joint in (Joint.STOP, Joint.START) or number == 0:
            return []
        number -= 1
        segment = read.segments[number]
        governed = _nearest_group(read, segment, segment.end, targets)
    # Backward over the list: "A, B and C are unchanged" is said of all three; a comma counts only where an "and" ends
    # it.
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


def _nearest_group(read: SentenceStatement, segment: StatementSegment, end: int, targets: set[int]) -> list[int]:
    """Return the findings before `end` in a segment, back to the verb or cue before the nearest of them."""
    group: list[int] = []
    for position in range(min(end, segment.end) - 1, segment.start - 1, -1):
        mark = read.marks[position]
        if position in targets:
            group.insert(0, position)
        elif group and mark.has(Part.VERB, Part.NEGATION_AFTER, Part.UNCERTAINTY_AFTER, *CUES):
            break
    return group


def find_described(read: SentenceStatement, cue: int, targets: set[int]) -> list[int] | None:
    """Return the findings that a word of change before them describes; [] where it describes one before it.

    None: it describes what is no finding ("improved aeration").
    """
    number = read.number(cue)
    segment = read.segments[number]
    governed: list[int] = []
    for position in range(cue + 1, segment.end):
        mark = read.marks[position]
        if position in targets:
            governed.append(position)
            continue
        names_image = (
            position == cue + 1 and mark.has(Part.IMAGE) and read.marks[cue].text in ("unchanged", "stable", "same")
        )
        if mark.has(Part.INERT) or names_image:
            return governed or None
        ends_list = bool(governed) and mark.has(Part.CHANGE, Part.RELATION)
        is_inverted = (
            cue == segment.start and not governed and mark.text in ("is", "are")
        )  # "new since May is an opacity"
        is_verb = mark.has(Part.VERB) and not mark.text.startswith("there") and not is_inverted
        if mark.has(Part.WITH, Part.NEGATION_BEFORE) or ends_list or is_verb:
            break
    if governed and _follows_predicate(read, segment, cue, targets):
        return []
    while governed and number + 1 < len(read.segments):
        number += 1
        following = read.segments[number]
        if following.joint not in (Joint.AND, Joint.OR) or not _shares_change(read, following, targets):
            break
        governed += [position for position in range(following.start, following.end) if position in targets]
    return governed


def _follows_predicate(read: SentenceStatement, segment: StatementSegment, cue: int, targets: set[int]) -> bool:
    """Return whether a finding and a verb stand before the cue in its segment ("the effusion is unchanged with …")."""
    has_verb = False
    for position in range(cue - 1, segment.start - 1, -1):
        mark = read.marks[position]
        if mark.has(Part.VERB) and not mark.text.startswith("there"):
            has_verb = True
        if position in targets:
            return has_verb
    return False


def _shares_change(read: SentenceStatement, segment: StatementSegment, targets: set[int]) -> bool:
    within = read.of(segment)
    return not opens_statement(read, segment, targets) and not any(
        mark.has(Part.LEVEL, Part.CHANGE, Part.OPENER, Part.VERB, Part.SIDE) for mark in within
    )


def known(read: SentenceStatement, cue: int, targets: set[int]) -> Iterator[int]:
    """Yield the findings that "known" or "previous" stands before; "known" holds for a bare list behind it too."""
    first = read.number(cue)
    for number in range(first, len(read.segments)):
        segment = read.segments[number]
        if number > first and (
            segment.joint not in LISTED or not is_bare(read.of(segment)) or "known" not in read.marks[cue].text
        ):
            return
        for position in range(cue + 1 if number == first else segment.start, segment.end):
            if position in targets:
                yield position
            elif read.marks[position].has(Part.VERB, Part.WITH, *CUES):
                return


def is_alone(read: SentenceStatement, cue: int) -> bool:
    """Return whether nothing but small words stands before a cue in its segment, so that it looks further back."""
    segment = read.segments[read.number(cue)]
    small = (Part.VERB, Part.FILLER, Part.PREPOSITION, Part.OPENER, Part.IGNORED, Part.PARTLY, Part.BREAK)
    return all(mark.has(*small) for mark in read.marks[segment.start : cue])
