"""From a radiologist's sentence to findings with presence, side, level and change, by rules over a published word list.

The word list is `word_list.toml`. A rule is a cue with a reach: after Chapman et al. 2001 (NegEx), Harkema et al. 2009
(ConText) and Irvin et al. 2019 (CheXpert labeller); words and reaches are our own. No model, no torch: the same text
gives the same labels, each with the sentence and the words that decided. Measured in docs/labeller.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice, pairwise

from model.labeller import scope as reach
from model.labeller.sentences import sentences
from model.labeller.word_list import Mark, Named, Part, marks, word_list
from model.ontology import ontology
from model.schema import Change


class Stated(StrEnum):
    """What a report states of a finding."""

    YES = "yes"
    """It is there."""
    NO = "no"
    """It is not."""
    UNCERTAIN = "uncertain"
    """It may be there: no use as truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What one sentence states of one finding.

    finding: ontology key. side: "left", "right" or "bilateral", only of findings that have one; an absence with a side
    is one of that side only. level: a level word of the ontology. general: inferred from a sentence on the whole
    ("the lungs are clear"); explicit words outweigh it. rule: the words that decided.
    """

    finding: str
    presence: Stated
    side: str | None = None
    level: str | None = None
    change: Change | None = None
    general: bool = False
    sentence: str = ""
    section: str = ""
    rule: str = ""


_BETWEEN = ("versus", "vs", "over")
"""Make what stands before them doubtful, and what stands after them."""


@dataclass(slots=True, kw_only=True)
class _Found:
    """A finding's place in the sentence, and what the cues have said of it so far."""

    place: int
    named: Named
    presence: str
    change: Change | None = None
    sides: list[str] = field(default_factory=list)
    level: str | None = None
    is_silent: bool = False
    is_past: bool = False
    rule: list[str] = field(default_factory=list)

    def note(self, what: str, mark: Mark) -> None:
        self.rule.append(f'{what} "{mark.text}"')


def version() -> str:
    """Which word list: kept beside each label."""
    return f"rules {word_list().version}"


def label_report(text: str) -> list[Label]:
    """The labels of every sentence of a report that may state findings, in order."""
    return [label for sentence in sentences(text) for label in label_sentence(sentence.text, section=sentence.section)]


def label_sentence(text: str, *, section: str = "") -> list[Label]:
    """The labels of one sentence, each finding, side and presence once; explicit ones before inferred ones."""
    read = marks(text)
    found = _findings(read)
    _before(read, found)
    _changes(read, found)
    _after(read, found)
    _levels(read, found)
    _sides(read, found)
    made: list[Label] = []
    for one in sorted(found, key=lambda one: one.named.general):
        for label in _labels(one, text, section):
            same = (other for other in made if other.finding == label.finding)
            if not any(label.general or (other.side, other.presence) == (label.side, label.presence) for other in same):
                made.append(label)
    return made


def _findings(read: Sequence[Mark]) -> list[_Found]:
    """Named findings, and what is said of parts of the body ("the heart is enlarged")."""
    found = [
        _Found(place=place, named=mark.parts[Part.FINDING], presence=mark.parts[Part.FINDING].presence)
        for place, mark in enumerate(read)
        if mark.has(Part.FINDING)
    ]
    for place, mark in enumerate(read):
        if mark.has(Part.SUBJECT):
            said = reach.predicate(read, place)
            if said is not None:
                at, named = said
                found.append(_Found(place=at, named=named, presence=named.presence))
                found[-1].note("part", mark)
    for one in found:
        one.note("words", read[one.place])
        one.change = one.named.change
    return sorted(found, key=lambda one: one.place)


def _at(found: Sequence[_Found], places: Iterator[int]) -> list[_Found]:
    wanted = set(places)
    return [one for one in found if one.place in wanted]


def _before(read: Sequence[Mark], found: list[_Found]) -> None:
    """Cues that stand before what they govern; of two, the nearer one counts."""
    places = {one.place for one in found}
    for cue, mark in enumerate(read):
        if mark.has(Part.UNSAID):
            for one in _at(found, reach.forward(read, cue, places, far=True)):
                one.is_silent = True
                one.note("no statement", mark)
        elif mark.has(Part.OPEN, Part.NEGATION_BEFORE):
            for one in _at(found, reach.forward(read, cue, places)):
                one.presence = "no" if _can_be_denied(one) and mark.has(Part.NEGATION_BEFORE) else ""
                one.note("negation" if mark.has(Part.NEGATION_BEFORE) else "leaves open", mark)
        elif mark.has(Part.UNCERTAINTY_BEFORE):
            for one in _at(found, reach.forward(read, cue, places)):
                one.presence = "uncertain"
                one.note("uncertainty", mark)
        elif mark.has(Part.PAST):
            for one in _at(found, reach.forward(read, cue, places)):
                one.is_past = True
                one.note("past", mark)


def _can_be_denied(one: _Found) -> bool:
    """ "Not clear" leaves open what there is."""
    return one.named.presence == "yes"


def _after(read: Sequence[Mark], found: list[_Found]) -> None:
    """Cues that stand after what they govern. "No effusion is suspected" stays a negation."""
    places = {one.place for one in found}
    for cue, mark in enumerate(read):
        if not mark.has(Part.NEGATION_AFTER, Part.UNCERTAINTY_AFTER):
            continue
        governed = reach.backward(read, cue, places)
        if mark.has(Part.UNCERTAINTY_BEFORE) and reach.points_forward(read, cue, places):
            if not mark.text.endswith(_BETWEEN):
                continue
            governed = islice(governed, 1)
        for one in _at(found, governed):
            if one.presence in ("yes", "uncertain"):
                one.presence = "no" if mark.has(Part.NEGATION_AFTER) else "uncertain"
                one.note("negation" if mark.has(Part.NEGATION_AFTER) else "uncertainty", mark)


def _changes(read: Sequence[Mark], found: list[_Found]) -> None:
    places = {one.place for one in found}
    for cue, mark in enumerate(read):
        if mark.has(Part.TAKEN_OUT) and cue - 1 in places:
            _change(_at(found, iter((cue - 1,))), mark, Change.RESOLVED)
        if not mark.has(Part.CHANGE) or (cue and read[cue - 1].text == "not"):
            continue
        if any(one.place == cue for one in found):
            continue  # "increased in size" said of the heart is what it is, not what became of it
        forward = reach.points_forward(read, cue, places)
        if forward is None:
            continue  # said of something that is no finding: "improved aeration"
        governed = reach.described(read, cue, places) if forward else reach.backward(read, cue, places)
        _change(_at(found, governed), mark, mark.parts[Part.CHANGE])


def _change(governed: list[_Found], mark: Mark, change: Change) -> None:
    for one in governed:
        if one.change is None and (one.presence != "no" or change is Change.RESOLVED):
            one.change = change
            one.note("change", mark)
            if change is Change.RESOLVED and one.named.presence == "yes":
                one.presence = "no"


def _levels(read: Sequence[Mark], found: list[_Found]) -> None:
    places = {one.place for one in found}
    for cue, mark in enumerate(read):
        if not mark.has(Part.LEVEL) or reach.grades_a_change(read, cue):
            continue
        place = reach.nearest(read, cue, places)
        for one in _at(found, iter(() if place is None else (place,))):
            if one.level is None:
                one.level = mark.parts[Part.LEVEL]
                one.note("level", mark)


def _sides(read: Sequence[Mark], found: list[_Found]) -> None:
    places = {one.place for one in found}
    for cue, mark in enumerate(read):
        if mark.has(Part.SIDE):
            for one in _at(found, reach.sided(read, cue, places)):
                one.sides.append(mark.parts[Part.SIDE])
                one.note("side", mark)
    for before, one in pairwise(found):
        if not one.sides and before.sides and reach.shares_side(read, before.place, one.place):
            one.sides = list(before.sides)


def _labels(one: _Found, sentence: str, section: str) -> Iterator[Label]:
    if one.is_silent or not one.presence or (one.is_past and one.change is None and one.presence == "yes"):
        return
    side = None
    if one.sides:
        side = one.sides[0] if len(set(one.sides)) == 1 else "bilateral"
    for key in one.named.keys:
        concept = ontology().findings[key]
        presence = Stated(one.presence)
        if presence is Stated.NO and side in ("left", "right") and not concept.lateral and one.named.general:
            continue  # "the right lung is clear" denies no edema
        change = one.change if presence is Stated.YES or one.change is Change.RESOLVED else None
        yield Label(
            finding=key,
            presence=presence,
            side=side if concept.lateral and not (presence is Stated.NO and side == "bilateral") else None,
            level=one.level if concept.graded else None,
            change=change if presence is not Stated.UNCERTAIN else None,
            general=one.named.general,
            sentence=sentence,
            section=section,
            rule="; ".join(one.rule),
        )
