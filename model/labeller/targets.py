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

    position: int
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
    targets: dict[int, Target] = {}
    for position, mark in enumerate(read.marks):
        if mark.has(Part.FINDING):
            named = mark.parts[Part.FINDING]
            targets[position] = Target(position=position, named=named, presence=named.presence, change=named.change)
            targets[position].note("finding" if mark.role != "repeated" else "finding, repeated", mark)
            several = next(
                (earlier for earlier in read.marks[max(0, position - 4) : position] if earlier.has(Part.ONE_OF)), None
            )
            if several is not None:
                targets[position].note("one of several", several)
    for position, mark in enumerate(read.marks):
        if mark.has(Part.SUBJECT):
            for where, named in _predicates(read.marks, position):
                if where in targets:
                    _join(targets[where], named, mark)
                    continue
                targets[where] = Target(position=where, named=named, presence=named.presence, change=named.change)
                targets[where].note("part of the body", mark)
                if where != position:
                    targets[where].note("predicate", read.marks[where])
                if named.presence == "uncertain":
                    targets[where].certainty = "possible"
    return dict(sorted(targets.items()))


def _join(target: Target, named: Named, subject: Mark) -> None:
    """Add what the same predicate says of another part of the body ("heart and lungs are normal")."""
    if subject.has(Part.SUBJECT) and named.presence == target.named.presence and target.notes[0][1] != subject:
        keys = tuple(dict.fromkeys((*target.named.keys, *named.keys)))
        target.named = Named(keys=keys, presence=named.presence, general=target.named.general or named.general)
        target.note("part of the body", subject)


def _predicates(read: Sequence[Mark], subject: int) -> Iterator[tuple[int, Named]]:
    """Yield what is said of the part of the body at `subject`, and where: after it, else just before it."""
    behind = list(_predicates_behind(read, subject))
    yield from behind
    if behind:
        return
    for position in range(subject - 1, max(subject - 5, -1), -1):
        mark = read[position]
        predicate = _predicate_of(mark, read[subject])
        if predicate is not None:
            yield subject, predicate
            return
        small = (Part.OPENER, Part.SIDE, Part.PREPOSITION, Part.AND, Part.SUBJECT)
        if not (mark.has(*small) or mark.text in ("bilateral", "lateral")):
            return


def _predicates_behind(read: Sequence[Mark], subject: int) -> Iterator[tuple[int, Named]]:
    """Yield the predicate behind a part of the body, and those joined to it ("is calcified and tortuous")."""
    moved, yielded = False, False
    for position in range(subject + 1, len(read)):
        mark = read[position]
        predicate = _predicate_of(mark, read[subject])
        if predicate is not None:
            yield position, predicate
            yielded = True
            continue
        if yielded and not mark.has(Part.AND, Part.COMMA, Part.LEVEL, Part.PARTLY):
            return
        moved = moved or mark.has(Part.VERB, Part.PREDICATE)
        goes_on = (
            mark.text == "but"
            and position + 1 < len(read)
            and _predicate_of(read[position + 1], read[subject]) is not None
        )
        if mark.has(Part.BREAK, Part.STOP, Part.WITH, Part.FINDING) and not goes_on:
            return
        if (mark.has(Part.SUBJECT) and moved) or (mark.has(Part.OPENER) and mark.text.startswith("there")):
            return


def _predicate_of(mark: Mark, subject: Mark) -> Named | None:
    """Return what a predicate says of a part of the body, None where it says nothing of that part."""
    parts = subject.parts[Part.SUBJECT]
    return next(
        (predicate.named for predicate in mark.parts.get(Part.PREDICATE, ()) if predicate.subject in parts), None
    )


def at(targets: dict[int, Target], places: Iterable[int]) -> Iterator[Target]:
    """Yield the targets at these places."""
    return (targets[position] for position in places if position in targets)


def leave_out(read: SentenceStatement, targets: dict[int, Target]) -> None:
    """Leave out what is only known from before, and a denial that an exception takes back."""
    for target in targets.values():
        if target.is_known and target.change is None and target.presence == "yes" and not _is_predicated(read, target):
            target.left_out = target.left_out or "known from before, and not what became of it"
        if _is_said_by_side(target, targets):
            target.left_out = target.left_out or "said for each side behind it"
        segment = read.segments[read.number(target.position)]
        # "No effusion except a small one on the left": the denial is taken back.
        if segment.joint is Joint.EXCEPT and target.presence == "yes":
            for other in targets.values():
                if (
                    other.position < target.position
                    and other.named.keys == target.named.keys
                    and other.presence == "no"
                ):
                    other.left_out = "an exception follows"


def _is_said_by_side(target: Target, targets: dict[int, Target]) -> bool:
    """Return whether a finding only heads what is said of its sides ("effusions, small on the left and …")."""
    if target.sides or target.level or target.change or target.presence != "yes":
        return False
    repeated = [
        other
        for other in targets.values()
        if other.position > target.position and other.named.keys == target.named.keys
    ]
    return bool(target.named.keys) and any(
        other.sides and other.notes[0][0] == "finding, repeated" for other in repeated
    )


def _is_predicated(read: SentenceStatement, target: Target) -> bool:
    """Return whether a verb of the present says something of a finding ("the known mass is again seen")."""
    segment = read.segments[read.number(target.position)]
    behind: Sequence[Mark] = read.marks[target.position + 1 : segment.end]
    return any(mark.has(Part.VERB) and mark.text not in ("was", "were", "had", "had been") for mark in behind)
