"""The findings of a statement, and what parts of the body are said to be, each with what the cues have said of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from model.labeller.statement import Joint, SentenceStatement
from model.labeller.text.parts import Mark, Named, Part
from model.ontology import ontology
from model.schema import Change


@dataclass(slots=True, kw_only=True)
class Target:
    """A finding's place in the statement, and what the cues have said of it so far.

    left_out: why nothing is stated of it, "" where something is. notes: the rules that read it, each with its phrase.
    """

    place: int
    named: Named
    presence: str
    certainty: str = ""
    change: Change | None = None
    sides: list[str] = field(default_factory=list)
    level: str | None = None
    is_known: bool = False
    left_out: str = ""
    notes: list[tuple[str, Mark]] = field(default_factory=list)

    def note(self, rule: str, mark: Mark) -> None:
        """Record that a rule read this phrase for the finding."""
        self.notes.append((rule, mark))

    @property
    def is_device(self) -> bool:
        """Tell whether it is a tube, line or the like."""
        return bool(self.named.keys) and all(ontology().findings[key].kind == "device" for key in self.named.keys)


def targets_of(read: SentenceStatement) -> dict[int, Target]:
    """Return the findings of a statement by the place of their phrase, in order."""
    found: dict[int, Target] = {}
    for place, mark in enumerate(read.marks):
        if mark.has(Part.FINDING):
            named = mark.parts[Part.FINDING]
            found[place] = Target(place=place, named=named, presence=named.presence, change=named.change)
            found[place].note("finding" if mark.role != "repeated" else "finding, repeated", mark)
            several = next((one for one in read.marks[max(0, place - 4) : place] if one.has(Part.ONE_OF)), None)
            if several is not None:
                found[place].note("one of several", several)
    for place, mark in enumerate(read.marks):
        if mark.has(Part.SUBJECT):
            for where, named in _predicates(read.marks, place):
                if where in found:
                    _join(found[where], named, mark)
                    continue
                found[where] = Target(place=where, named=named, presence=named.presence, change=named.change)
                found[where].note("part of the body", mark)
                if where != place:
                    found[where].note("predicate", read.marks[where])
                if named.presence == "uncertain":
                    found[where].certainty = "possible"
    return dict(sorted(found.items()))


def _join(target: Target, named: Named, subject: Mark) -> None:
    """Add what the same predicate says of another part of the body ("heart and lungs are normal")."""
    if subject.has(Part.SUBJECT) and named.presence == target.named.presence and target.notes[0][1] != subject:
        keys = tuple(dict.fromkeys((*target.named.keys, *named.keys)))
        target.named = Named(keys=keys, presence=named.presence, general=target.named.general or named.general)
        target.note("part of the body", subject)


def _predicates(read: Sequence[Mark], subject: int) -> Iterator[tuple[int, Named]]:
    """Yield what is said of the part of the body at `subject`, and where: after it, else just before it."""
    found = list(_predicates_behind(read, subject))
    yield from found
    if found:
        return
    for place in range(subject - 1, max(subject - 5, -1), -1):
        mark = read[place]
        said = _said_of(mark, read[subject])
        if said is not None:
            yield subject, said
            return
        small = (Part.OPENER, Part.SIDE, Part.PREPOSITION, Part.AND, Part.SUBJECT)
        if not (mark.has(*small) or mark.text in ("bilateral", "lateral")):
            return


def _predicates_behind(read: Sequence[Mark], subject: int) -> Iterator[tuple[int, Named]]:
    """Yield the predicate behind a part of the body, and those joined to it ("is calcified and tortuous")."""
    moved, found = False, False
    for place in range(subject + 1, len(read)):
        mark = read[place]
        said = _said_of(mark, read[subject])
        if said is not None:
            yield place, said
            found = True
            continue
        if found and not mark.has(Part.AND, Part.COMMA, Part.LEVEL, Part.PARTLY):
            return
        moved = moved or mark.has(Part.VERB, Part.PREDICATE)
        goes_on = mark.text == "but" and place + 1 < len(read) and _said_of(read[place + 1], read[subject]) is not None
        if mark.has(Part.BREAK, Part.STOP, Part.WITH, Part.FINDING) and not goes_on:
            return
        if (mark.has(Part.SUBJECT) and moved) or (mark.has(Part.OPENER) and mark.text.startswith("there")):
            return


def _said_of(mark: Mark, subject: Mark) -> Named | None:
    """Return what a predicate says of a part of the body, None where it says nothing of that part."""
    parts = subject.parts[Part.SUBJECT]
    return next((said.named for said in mark.parts.get(Part.PREDICATE, ()) if said.subject in parts), None)


def at(targets: dict[int, Target], places: Iterable[int]) -> Iterator[Target]:
    """Yield the targets at these places."""
    return (targets[place] for place in places if place in targets)


def leave_out(read: SentenceStatement, targets: dict[int, Target]) -> None:
    """Leave out what is only known from before, and a denial that an exception takes back."""
    for target in targets.values():
        if target.is_known and target.change is None and target.presence == "yes" and not _is_predicated(read, target):
            target.left_out = target.left_out or "known from before, and not what became of it"
        if _is_said_by_side(target, targets):
            target.left_out = target.left_out or "said for each side behind it"
        segment = read.segments[read.number(target.place)]
        if segment.joint is Joint.EXCEPT and target.presence == "yes":
            for other in targets.values():
                if other.place < target.place and other.named.keys == target.named.keys and other.presence == "no":
                    other.left_out = "an exception follows"


def _is_said_by_side(target: Target, targets: dict[int, Target]) -> bool:
    """Return whether a finding only heads what is said of its sides ("effusions, small on the left and …")."""
    if target.sides or target.level or target.change or target.presence != "yes":
        return False
    repeated = [
        other for other in targets.values() if other.place > target.place and other.named.keys == target.named.keys
    ]
    return bool(target.named.keys) and any(
        other.sides and other.notes[0][0] == "finding, repeated" for other in repeated
    )


def _is_predicated(read: SentenceStatement, target: Target) -> bool:
    """Return whether a verb of the present says something of a finding ("the known mass is again seen")."""
    segment = read.segments[read.number(target.place)]
    behind: Sequence[Mark] = read.marks[target.place + 1 : segment.end]
    return any(mark.has(Part.VERB) and mark.text not in ("was", "were", "had", "had been") for mark in behind)
