"""How far a cue reaches in a sentence: from the place of a phrase to the places of the findings that it governs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from model.labeller.word_list import Mark, Named, Part

_CUES = (Part.NEGATION_BEFORE, Part.UNCERTAINTY_BEFORE, Part.OPEN, Part.UNSAID)
_LIST = (Part.AND, Part.COMMA)


def forward(read: Sequence[Mark], cue: int, places: set[int], *, far: bool = False) -> Iterator[int]:
    """The findings that a cue before them governs: to the next break, the next cue, or where a new statement begins.

    far: across "with", verbs and other cues (a plan or question covers them all).
    """
    seen = False
    for place in range(cue + 1, len(read)):
        mark = read[place]
        if mark.has(Part.STOP, Part.BREAK):
            return
        if not far and (mark.has(Part.WITH, *_CUES) or (mark.has(Part.VERB) and seen)):
            return
        if mark.has(*_LIST) and _begins_anew(read, place):
            return
        if place in places:
            seen = True
            yield place


def _begins_anew(read: Sequence[Mark], place: int) -> bool:
    """Whether after this comma or "and" a statement of its own begins rather than the next item of the list."""
    following = [mark for mark in read[place + 1 : place + 3] if not mark.has(*_LIST)][:1]
    if not following:
        return False
    if following[0].has(Part.OPENER, Part.SUBJECT, Part.BREAK):
        return True
    if not following[0].has(Part.LEVEL, Part.CHANGE):
        return False
    # "no small, moderate or large effusion": an "or" to come says that the list goes on
    rest = read[place + 1 :]
    return not any(mark.text in ("or", "and/or") for mark in rest)


def backward(read: Sequence[Mark], cue: int, places: set[int]) -> Iterator[int]:
    """The findings that a cue after them governs: back to the verb, cue or break before the nearest of them."""
    seen = False
    for place in range(cue - 1, -1, -1):
        mark = read[place]
        if mark.has(Part.STOP) and (seen or mark.text == ";"):
            return
        if seen and mark.has(Part.VERB, Part.BREAK, Part.NEGATION_AFTER, Part.UNCERTAINTY_AFTER):
            return
        if place in places:
            seen = True
            yield place
        elif seen and mark.has(*_CUES):
            return


def points_forward(read: Sequence[Mark], cue: int, places: set[int]) -> bool | None:
    """Whether a word that may stand on either side ("unchanged") belongs to a finding after it.

    None: it belongs to something that is no finding ("improved aeration").
    """
    if _follows_verb(read, cue) and _finding_before(read, cue, places):
        return False
    for place in range(cue + 1, len(read)):
        mark = read[place]
        if place in places:
            return True
        if mark.has(Part.INERT):
            return None
        if mark.has(Part.VERB, Part.WITH, Part.BREAK, Part.STOP, Part.NEGATION_BEFORE, *_LIST):
            return False
    return False


def described(read: Sequence[Mark], cue: int, places: set[int]) -> Iterator[int]:
    """The findings that a word of change before them describes: one, or a plain list joined by "and"."""
    seen = False
    for place in range(cue + 1, len(read)):
        mark = read[place]
        if mark.has(Part.VERB, Part.WITH, Part.BREAK, Part.STOP, Part.NEGATION_BEFORE, Part.INERT):
            return
        if seen and (mark.has(Part.COMMA, Part.CHANGE) or (mark.has(Part.AND) and _begins_anew(read, place))):
            return
        if place in places:
            seen = True
            yield place


def grades_a_change(read: Sequence[Mark], cue: int) -> bool:
    """Whether a level word says how great a change is ("slightly increased") and not how great the finding."""
    for mark in read[cue + 1 : cue + 3]:
        if mark.has(Part.CHANGE):
            return mark.parts[Part.CHANGE].value not in ("new", "stable")
        if mark.text not in ("interval", "further", "overall", "partial"):
            return False
    return False


def nearest(read: Sequence[Mark], cue: int, places: set[int]) -> int | None:
    """The finding that a level word grades: the one after it in the same noun phrase, else the one before it."""
    for place in range(cue + 1, len(read)):
        if place in places:
            return place
        if read[place].has(Part.VERB, Part.WITH, Part.BREAK, Part.STOP, Part.NEGATION_BEFORE, *_LIST):
            break
    for place in range(cue - 1, -1, -1):
        if place in places:
            return place
        if read[place].has(Part.STOP, Part.BREAK):
            return None
    return None


def sided(read: Sequence[Mark], cue: int, places: set[int]) -> Iterator[int]:
    """The findings that a side belongs to: after it in the noun phrase, else before it, else the next of all."""
    for place in range(cue + 1, len(read)):
        if place in places:
            yield place
            return
        mark = read[place]
        if mark.has(Part.AND) and place + 1 < len(read) and read[place + 1].has(Part.SIDE):
            continue
        blocks = (Part.VERB, Part.WITH, Part.BREAK, Part.STOP, Part.PREPOSITION, *_CUES, *_LIST)
        if mark.has(*blocks):
            break
    seen = False
    for place in range(cue - 1, -1, -1):
        if place in places:
            seen = True
            yield place
        elif read[place].has(Part.STOP, Part.BREAK) or (
            seen and not (read[place].has(Part.AND) or read[place].text in ("versus", "vs"))
        ):
            break
    if seen:
        return
    later = [place for place in sorted(places) if place > cue]
    if later and not any(read[place].has(Part.STOP, Part.BREAK) for place in range(cue, later[0])):
        yield later[0]


def shares_side(read: Sequence[Mark], before: int, place: int) -> bool:
    """Whether a finding without a side has that of the finding before it: joined by "and", or the same thing named."""
    between = read[before + 1 : place]
    if any(mark.has(Part.BREAK, Part.STOP, Part.NEGATION_BEFORE, Part.OPEN) for mark in between):
        return False
    if any(mark.has(Part.SHARED, Part.UNCERTAINTY_BEFORE) for mark in between):
        return True
    if any(mark.has(Part.VERB, Part.WITH, Part.LEVEL, Part.OPENER, Part.CHANGE) for mark in between):
        return False
    return any(mark.has(Part.AND) for mark in between)


def predicate(read: Sequence[Mark], subject: int) -> tuple[int, Named] | None:
    """What is said of the part of the body at `subject`, and where: after it, else just before it."""
    wanted = read[subject].parts[Part.SUBJECT]
    moved = False
    for place in range(subject + 1, len(read)):
        mark = read[place]
        for said in mark.parts.get(Part.PREDICATE, ()):
            if said.subject == wanted:
                return place, said.named
        moved = moved or mark.has(Part.VERB, Part.PREDICATE)
        if mark.has(Part.BREAK, Part.STOP, Part.WITH, Part.FINDING) or (mark.has(Part.SUBJECT) and moved):
            break
        if mark.has(Part.OPENER) and mark.text == "there":
            break
    for place in range(subject - 1, max(subject - 5, -1), -1):
        mark = read[place]
        for said in mark.parts.get(Part.PREDICATE, ()):
            if said.subject == wanted:
                return subject, said.named
        if not (mark.has(Part.OPENER, Part.SIDE, Part.PREPOSITION) or mark.text in ("bilateral", "lateral")):
            break
    return None


def _follows_verb(read: Sequence[Mark], cue: int) -> bool:
    """Whether a verb stands just before, one word between; "there is" makes no statement on what came before."""
    for place in range(cue - 1, max(cue - 4, -1), -1):
        mark = read[place]
        if mark.has(Part.VERB):
            return place == 0 or read[place - 1].text != "there"
        if mark.parts and not mark.has(Part.LEVEL):
            return False
    return False


def _finding_before(read: Sequence[Mark], cue: int, places: set[int]) -> bool:
    for place in range(cue - 1, -1, -1):
        if place in places:
            return True
        if read[place].has(Part.STOP):
            return False
    return False
