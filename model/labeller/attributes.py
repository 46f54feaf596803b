"""Assignment of change, degree and side to the findings of a statement."""

from __future__ import annotations

from collections.abc import Sequence

from model.labeller import scope
from model.labeller.sides import first_after, last_before
from model.labeller.statement import LISTED, Joint, SentenceStatement
from model.labeller.targets import Target
from model.labeller.text.parts import Mark, Part
from model.schema import Change

_OF_DEVICES = (
    *("removal of", "interval removal of", "withdrawal of", "placement of", "interval placement of", "insertion of"),
    *("interval insertion of", "interval removal"),
)


def give_changes(read: SentenceStatement, targets: dict[int, Target]) -> None:
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
        # The word describes what is no finding ("improved aeration").
        if governed is None:
            continue
        if not governed:
            governed = scope.before(read, cue, places) or _find_described_next(read, cue, targets)
        _change([targets[position] for position in governed], mark, change)
        _note_contradictions(read, cue, [targets[position] for position in governed])
    _exchange(read, targets)
    for target in targets.values():
        # What was there before and is denied today has gone.
        if target.is_known and target.presence == "no" and target.change is None and not target.left_out:
            target.change = Change.RESOLVED


def _find_described_next(read: SentenceStatement, cue: int, targets: dict[int, Target]) -> list[int]:
    """Return the finding of the next segment where adjectives are parted by commas ("stable, small effusion")."""
    segment = read.segments[read.number(cue)]
    position = first_after(read, segment, targets)
    number = read.number(cue) + 1
    if position is None and number < len(read.segments) and cue == segment.end - 1 and segment.joint is Joint.START:
        following = read.segments[number]  # "improved but persistent collapse"
        leads = read.marks[following.start].has(Part.CHANGE) and read.marks[following.start - 1].text in (
            "but",
            "yet",
            "though",
        )
        is_first = read.marks[cue].parts[Part.CHANGE] is not Change.STABLE  # "persistent but improved"
        position = (
            next((position for position in targets if following.start <= position < following.end), None)
            if leads and is_first
            else None
        )
    return [] if position is None else [position]


def _find_listed_behind(read: SentenceStatement, cue: int, targets: dict[int, Target]) -> list[int]:
    """Return the devices of a list behind "removal of" or "placement of"; it goes on over commas and sides."""
    first = read.number(cue)
    governed: list[int] = []
    for number in range(first, len(read.segments)):
        segment = read.segments[number]
        start = cue + 1 if number == first else segment.start
        inside = [
            position for position in range(start, segment.end) if position in targets and targets[position].is_device
        ]
        if number > first and (
            segment.joint not in LISTED
            or not inside
            or any(mark.has(Part.VERB, Part.CHANGE, Part.LEVEL, Part.NEGATION_BEFORE) for mark in read.of(segment))
        ):
            break
        if not inside:
            break
        ended = any(mark.has(Part.WITH, Part.RELATION) for mark in read.marks[start : segment.end])
        # "Removal of the tube with placement of a line": what follows "with" is not removed.
        governed += inside[:1] if ended else inside
        if ended:
            break
    return governed


def _change(governed: Sequence[Target], mark: Mark, change: Change) -> None:
    for target in governed:
        if change in (Change.WORSENING, Change.IMPROVING) and _only_persists(target):
            target.change = None  # "persisting, slightly smaller"
        # What is not there cannot have grown, but it can have gone.
        if target.change is None and (target.presence != "no" or change is Change.RESOLVED):
            target.change = change
            target.note("change", mark)
            if change is Change.RESOLVED and any(rule == "one of several" for rule, _ in target.notes):
                target.left_out = "one of several is gone"
            if change is Change.RESOLVED and target.named.presence == "yes":
                target.presence = "no"


def _note_contradictions(read: SentenceStatement, cue: int, governed: Sequence[Target]) -> None:
    """Leave out what one rule calls absent and another changed: it is listed with the reason and not used."""
    mark = read.marks[cue]
    for target in governed:
        is_behind = target.position < cue and read.number(target.position) == read.number(cue)
        is_denied = target.presence == "no" and target.named.presence == "yes" and target.change is None
        if is_behind and is_denied and mark.parts[Part.CHANGE] in (Change.WORSENING, Change.IMPROVING):
            target.left_out = target.left_out or "denied, and said to have changed"
            target.note("change", mark)


def _only_persists(target: Target) -> bool:
    """Return whether all that was said of a change so far is that the finding is still there."""
    texts = [mark.text for rule, mark in target.notes if rule == "change"]
    return target.change is Change.STABLE and bool(texts) and texts[-1].startswith(("persist", "ongoing", "still"))


def _exchange(read: SentenceStatement, targets: dict[int, Target]) -> None:
    """Read "A has been replaced by B" and "B has replaced A"; of the same kind and side nothing is gone."""
    for cue, mark in enumerate(read.marks):
        if not mark.has(Part.EXCHANGED) or mark.has(Part.CHANGE) or mark.role == "plan":
            continue
        start, end = _bounds(read, cue)
        removed = [target for target in targets.values() if target.is_device and start <= target.position < cue][-1:]
        inserted = [target for target in targets.values() if target.is_device and cue < target.position < end][:1]
        link = read.marks[cue + 1].text if cue + 1 < len(read.marks) else ""
        # "A replaced by B" names the old one first, "B has replaced A" the new one.
        is_passive = link in ("by", "with", "for", "to")
        if not is_passive:
            if cue and read.marks[cue - 1].text.endswith(("been", "was", "were", "be")):
                continue  # nothing is said of what came in its place
            removed, inserted = inserted, removed
        if not removed or (is_passive and not inserted and not _names_other(read.marks[cue + 2 :])):
            continue
        same_kind = bool(inserted) and inserted[0].named.keys == removed[0].named.keys
        # A line in the place of a line: the patient has one as before, so nothing has gone.
        if same_kind and (not removed[0].sides or set(inserted[0].sides) == set(removed[0].sides)):
            removed[0].left_out = "replaced by one of its kind"
            continue
        _change(removed, mark, Change.RESOLVED)
        _change(inserted, mark, Change.NEW)


def _bounds(read: SentenceStatement, position: int) -> tuple[int, int]:
    """Return where the stretch between semicolons begins and ends that a place stands in."""
    number = last = read.number(position)
    while number and read.segments[number].joint is not Joint.STOP:
        number -= 1
    while last + 1 < len(read.segments) and read.segments[last + 1].joint is not Joint.STOP:
        last += 1
    return read.segments[number].start, read.segments[last].end


def _names_other(behind: Sequence[Mark]) -> bool:
    return any("tracheostomy" in mark.text or mark.text in ("trach", "gastrostomy", "peg") for mark in behind)


def give_levels(read: SentenceStatement, targets: dict[int, Target]) -> None:
    """Give each finding its degree: of the noun phrase that it stands in, else the one before."""
    for cue, mark in enumerate(read.marks):
        if not mark.has(Part.LEVEL) or _grades_change(read.marks, cue):
            continue
        position = _find_graded(read, cue, targets)
        # The first word of degree counts.
        if position is not None and targets[position].level is None:
            targets[position].level = mark.parts[Part.LEVEL]
            targets[position].note("degree", mark)


def _grades_change(marks: Sequence[Mark], cue: int) -> bool:
    """Return whether a degree says how great a change is ("slightly increased") and not how great the finding."""
    if marks[cue].has(Part.CHANGE):
        return False
    for mark in marks[cue + 1 : cue + 3]:
        if mark.has(Part.CHANGE):
            return mark.role == "nothing changed" or mark.parts[Part.CHANGE] not in (Change.NEW, Change.STABLE)
        if mark.role in ("negated change", "sides compared"):
            return True
        # Words that may stand between the degree and the change it grades.
        if mark.text not in ("interval", "further", "overall", "partial"):
            return False
    return False


def _find_graded(read: SentenceStatement, cue: int, targets: dict[int, Target]) -> int | None:
    segment = read.segments[read.number(cue)]
    for position in range(cue + 1, segment.end):
        if position in targets:
            return position
        if read.marks[position].has(Part.VERB, Part.WITH, Part.NEGATION_BEFORE) or read.marks[position].text in (
            "in",
            "at",
            "on",
        ):
            break
    # None behind it ("the effusion is small"): the one before, else the first of the next segment.
    before = last_before(read, cue, segment, targets)
    return before if before is not None else first_after(read, segment, targets)
