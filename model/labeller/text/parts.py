"""The parts that a phrase may play in a sentence, and the phrase itself with its place in the text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from model.schema import Change


class Part(StrEnum):
    """The parts that a phrase may play in a sentence. The words of each stand in word_list.toml."""

    FINDING = "finding"
    """Names findings."""
    SUBJECT = "subject"
    """Names a part of the body of which something is said."""
    PREDICATE = "predicate"
    """Says it."""
    NEGATION_BEFORE = "negation before"
    NEGATION_AFTER = "negation after"
    UNCERTAINTY_BEFORE = "uncertainty before"
    UNCERTAINTY_AFTER = "uncertainty after"
    UNSAID_BEFORE = "no statement before"
    """A question, a plan or a history: no statement on this image."""
    UNSAID_AFTER = "no statement after"
    KNOWN = "known before"
    """ "previously seen", "known"."""
    CHANGE = "change"
    CHANGED = "changed"
    """ "change": with a denial before it, nothing has changed."""
    NO_LONGER = "no longer"
    TAKEN_OUT = "taken out"
    PLACED = "placed"
    MOVED = "moved"
    EXCHANGED = "exchanged"
    PLAN = "plan"
    PARTLY = "partly"
    FILLER = "filler"
    ONE_OF = "one of several"
    IGNORED = "ignored"
    INERT = "inert"
    LEVEL = "degree"
    SIDE = "side"
    OTHER_SIDE = "side of another thing"
    SHARED = "shared side"
    LEAVES_OPEN = "leaves open"
    EVIDENCE = "evidence"
    SEEN = "seen"
    IMAGE = "image"
    IMAGE_BEFORE = "earlier image"
    REPORTED = "reported"
    MOVEMENT = "movement"
    VALUE_NO = "value no"
    VALUE_YES = "value yes"
    VALUE_OPEN = "value open"
    BREAK = "break"
    EXCEPT = "except"
    RELATION = "relation"
    WITH = "with"
    VERB = "verb"
    OPENER = "opener"
    PREPOSITION = "preposition"
    AND = "and"
    OR = "or"
    COMMA = "comma"
    COLON = "colon"
    DASH = "dash"
    STOP = "stop"
    """A semicolon or bracket."""


CUES = (Part.NEGATION_BEFORE, Part.UNCERTAINTY_BEFORE, Part.UNSAID_BEFORE)
ENDS = (Part.BREAK, Part.STOP, Part.EXCEPT)
LIST = (Part.AND, Part.OR, Part.COMMA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The findings that a phrase names. general: inferred ("lungs are clear"), yields to explicit words."""

    keys: tuple[str, ...]
    presence: str = "yes"
    change: Change | None = None
    general: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicate:
    """The statement of a predicate on one part of the body."""

    subject: int
    named: Named


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One phrase of a sentence, or one word that no list holds (`parts` is empty).

    start, end: its characters in the sentence. text: as the list spells it. role: the rule that gave it another part
    than the list's. A mark that a rule supplied ("moderate right [effusion]") has the characters of the word that it
    repeats.
    """

    text: str
    start: int = 0
    end: int = 0
    parts: Mapping[Part, Any] = field(default_factory=dict)
    role: str = ""

    def has(self, *parts: Part) -> bool:
        """Return whether it may play one of these parts."""
        return any(part in self.parts for part in parts)


def replace_parts(mark: Mark, role: str, **parts: Any) -> Mark:
    """Return the mark with these parts alone."""
    return dataclasses.replace(mark, parts={Part[name]: value for name, value in parts.items()}, role=role)


def ignore_mark(mark: Mark, role: str) -> Mark:
    """Return the mark as one that no other rule reads."""
    return replace_parts(mark, role, IGNORED=True)
