"""Difference and prediction answers: events written as sentences, and sentences read back into events.

The difference sentences are those of Medical-Diff-VQA 1.0.1 to the letter. The prediction sentences are our own, the
same events in the future tense (LUMEN derives its prediction answers from the difference answers, wording unknown).
The reader never guesses: what it cannot read, or can read in two ways, it hands back as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from model.ontology import ontology
from model.questions.vocabulary import (
    degree_order,
    finding_key,
    finding_name,
    in_ontology_order,
    join_words,
    normalise,
    split_words,
)
from model.schema import Change


class EventKind(StrEnum):
    """The event of a finding between two images."""

    NEW = "new"
    """On the current (main) image only."""
    RESOLVED = "resolved"
    """On the prior (reference) image only."""
    LEVEL = "level"
    """On both, in another degree."""
    NONE = "none"
    """Nothing has changed; stands alone and names no finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of one finding.

    finding: ontology key, "" only where kind is NONE. before, after: level words, only where kind is LEVEL.
    """

    kind: EventKind
    finding: str = ""
    before: str | None = None
    after: str | None = None

    def __post_init__(self) -> None:
        if (self.kind is EventKind.NONE) != (self.finding == ""):
            raise ValueError("an event names a finding unless nothing has changed")
        if (self.kind is EventKind.LEVEL) != (self.before is not None and self.after is not None):
            raise ValueError("level events, and only they, carry the degree before and after")

    @property
    def change(self) -> Change | None:
        """The change of the ontology that this event is; None for NONE and where the level words have no order."""
        if self.kind is EventKind.NEW:
            return Change.NEW
        if self.kind is EventKind.RESOLVED:
            return Change.RESOLVED
        if self.before is None or self.after is None:
            return None
        order = degree_order(self.before, self.after)
        # -1, 0, 1 become the places 0, 1, 2.
        return None if order is None else (Change.IMPROVING, Change.STABLE, Change.WORSENING)[order + 1]

    def inverse(self) -> Event:
        """The event that the same two images show in the other order."""
        if self.kind is EventKind.NEW:
            return Event(kind=EventKind.RESOLVED, finding=self.finding)
        if self.kind is EventKind.RESOLVED:
            return Event(kind=EventKind.NEW, finding=self.finding)
        return Event(kind=self.kind, finding=self.finding, before=self.after, after=self.before)


NOTHING = Event(kind=EventKind.NONE)
"""The event of an unchanged pair."""


class Tense(StrEnum):
    """The tense: one of the two answer grammars."""

    DIFFERENCE = "difference"
    """Changes between the two images that are shown."""
    PREDICTION = "prediction"
    """Changes until the next image, which is not shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedEvents:
    """The contents of an answer.

    events: read without doubt, in canonical order. unparsed: parts that are no sentence of the grammar or name no
    known finding or level. ambiguous: sentences with more than one reading ("from mild to moderate to severe"), as
    the tuple of their readings.
    """

    events: tuple[Event, ...]
    unparsed: tuple[str, ...] = ()
    ambiguous: tuple[tuple[Event, ...], ...] = ()

    @property
    def complete(self) -> bool:
        """The whole answer was understood."""
        return bool(self.events) and not self.unparsed and not self.ambiguous

    @property
    def findings(self) -> frozenset[str]:
        """Keys of the findings that changed."""
        return frozenset(event.finding for event in self.events if event.kind is not EventKind.NONE)

    def of(self, finding: str) -> tuple[Event, ...]:
        """The events of one finding; empty where nothing is said to have happened to it."""
        return tuple(event for event in self.events if event.finding == finding)


_WRITTEN: dict[Tense, dict[str, str]] = {
    Tense.DIFFERENCE: {
        "new one": "the main image has an additional finding of {names} than the reference image.",
        "new many": "the main image has additional findings of {names} than the reference image.",
        "resolved one": "the main image is missing the finding of {names} than the reference image.",
        "resolved many": "the main image is missing the findings of {names} than the reference image.",
        "level": "the level of {name} has changed from {before} to {after}.",
        "none": "nothing has changed.",
    },
    Tense.PREDICTION: {
        "new one": "the next image will have an additional finding of {names}.",
        "new many": "the next image will have additional findings of {names}.",
        "resolved one": "the next image will be missing the finding of {names}.",
        "resolved many": "the next image will be missing the findings of {names}.",
        "level": "the level of {name} will change from {before} to {after}.",
        "none": "nothing will change.",
    },
}

_READ: dict[Tense, tuple[tuple[EventKind, re.Pattern[str]], ...]] = {
    Tense.DIFFERENCE: (
        (
            EventKind.NEW,
            re.compile(
                r"(?:the )?main image has (?:an |the )?additional findings? of (.+?)(?: than the reference image)?"
            ),
        ),
        (
            EventKind.RESOLVED,
            re.compile(r"(?:the )?main image is missing (?:the )?findings? of (.+?)(?: than the reference image)?"),
        ),
        (EventKind.LEVEL, re.compile(r"(?:the )?level of (.+?) (?:has|have) changed from (.+)")),
        (EventKind.NONE, re.compile(r"(?:nothing has|there is no) changed?|no changes?")),
    ),
    Tense.PREDICTION: (
        (
            EventKind.NEW,
            re.compile(
                r"(?:the )?next image will have (?:an |the )?additional findings? of (.+?)(?: than this image)?"
            ),
        ),
        (
            EventKind.RESOLVED,
            re.compile(r"(?:the )?next image will be missing (?:the )?findings? of (.+?)(?: than this image)?"),
        ),
        (EventKind.LEVEL, re.compile(r"(?:the )?level of (.+?) will (?:have )?changed? from (.+)")),
        (EventKind.NONE, re.compile(r"nothing will (?:have )?changed?")),
    ),
}

_KIND_ORDER = {EventKind.NEW: 0, EventKind.RESOLVED: 1, EventKind.LEVEL: 2, EventKind.NONE: 3}


def canonical(events: Iterable[Event]) -> tuple[Event, ...]:
    """The events, each once: new, resolved, level, each in ontology order; NOTHING where there are none.

    Raises ValueError where NOTHING stands beside a change, or one finding has two fates.
    """
    unique = set(events)
    changes = unique - {NOTHING}
    if NOTHING in unique and changes:
        raise ValueError("nothing has changed, and yet something has")
    kinds = [event.finding for event in changes]
    if len(kinds) != len(set(kinds)):
        raise ValueError(f"a finding has two fates in one answer: {sorted(kinds)}")
    return _order_events(changes) if changes else (NOTHING,)


def _order_events(events: Iterable[Event]) -> tuple[Event, ...]:
    """Canonical order without the checks: a model may well contradict itself, and its reader must show that."""
    unique = set(events)
    return tuple(sorted(unique, key=_order)) if len(unique) > 1 else tuple(unique)


@cache
def _order(event: Event) -> tuple[int, int, str, str]:
    rank = list(ontology().findings).index(event.finding) if event.finding else -1
    return _KIND_ORDER[event.kind], rank, event.before or "", event.after or ""


def write_events(events: Iterable[Event], tense: Tense = Tense.DIFFERENCE) -> str:
    """The answer that says `events`; ValueError where they contradict each other, KeyError for a foreign finding."""
    written, sentences = _WRITTEN[tense], []
    ordered = canonical(events)
    if ordered == (NOTHING,):
        return written["none"]
    for kind in (EventKind.NEW, EventKind.RESOLVED):
        keys = in_ontology_order(event.finding for event in ordered if event.kind is kind)
        if keys:
            number = "one" if len(keys) == 1 else "many"
            names = join_words([finding_name(key) for key in keys])
            sentences.append(written[f"{kind.value} {number}"].format(names=names))
    for event in ordered:
        if event.kind is EventKind.LEVEL:
            name = finding_name(event.finding)
            sentences.append(written["level"].format(name=name, before=event.before, after=event.after))
    return " ".join(sentences)


def parse_events(text: str, tense: Tense = Tense.DIFFERENCE) -> ParsedEvents:
    """Read an answer of either grammar; order, plural forms, stray spaces and full stops do not matter."""
    events: list[Event] = []
    unparsed: list[str] = []
    ambiguous: list[tuple[Event, ...]] = []
    for sentence in _sentences(text):
        for kind, pattern in _READ[tense]:
            match = pattern.fullmatch(sentence)
            if match is None:
                continue
            if kind is EventKind.LEVEL:
                readings = level_readings(match[1], match[2])
                # "mild to moderate to severe" can be cut in two ways; such a sentence is kept apart and counts as
                # neither.
                if len(readings) == 1:
                    events.extend(readings)
                elif readings:
                    ambiguous.append(readings)
                else:
                    unparsed.append(sentence)
            elif kind is EventKind.NONE:
                events.append(NOTHING)
            else:
                known, foreign = _parse_names(match[1], kind)
                events.extend(known)
                unparsed.extend(foreign)
            break
        else:
            unparsed.append(sentence)
    return ParsedEvents(events=_order_events(events), unparsed=tuple(unparsed), ambiguous=tuple(ambiguous))


def _sentences(text: str) -> list[str]:
    """Sentences end at full stops and line ends; the last full stop may be missing."""
    parts = (normalise(part) for part in re.split(r"[.\n]+", text))
    return [part for part in parts if part]


def _parse_names(names: str, kind: EventKind) -> tuple[list[Event], list[str]]:
    """The known findings of a list as events of `kind`, and the items that name none."""
    known: list[Event] = []
    foreign: list[str] = []
    for item in split_words(names):
        key = finding_key(item)
        if key is None:
            foreign.append(item)
        else:
            known.append(Event(kind=kind, finding=key))
    return known, foreign


def level_readings(name: str, degrees: str) -> tuple[Event, ...]:
    """Every way to read "A to B" with both parts in the level vocabulary (some level words hold " to " themselves)."""
    key, levels = finding_key(name), set(ontology().levels)
    if key is None:
        return ()
    words = normalise(degrees).split(" to ")
    readings = []
    for cut in range(1, len(words)):
        before, after = " to ".join(words[:cut]).strip(), " to ".join(words[cut:]).strip()
        if before in levels and after in levels:
            readings.append(Event(kind=EventKind.LEVEL, finding=key, before=before, after=after))
    return tuple(readings)


def direction_of_readings(readings: Sequence[Event]) -> Change | None:
    """The change that all readings of an ambiguous sentence agree on, else None."""
    changes = {event.change for event in readings}
    return changes.pop() if len(changes) == 1 else None
