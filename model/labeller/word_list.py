"""The labeller's word list, read from `word_list.toml`: phrases with the parts that they may play in a sentence."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from model.ontology import ontology
from model.questions.vocabulary import finding_wordings
from model.schema import Change

_COMPARED = re.compile(r"\b([rl])\s*>\s*([rl])\b")
"""R > L."""
_SIDE = {"r": "right", "l": "left"}
_TOKEN = re.compile(r"[a-z0-9]+(?:[./'][a-z0-9]+)*|[,;:()]")


class Part(StrEnum):
    """What a phrase may be in a sentence."""

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
    UNSAID = "unsaid"
    """A question, a plan or the past: no statement on this image."""
    OPEN = "old stays open"
    """ "no new": nothing is said of an old one."""
    PAST = "past"
    """ "previously seen"."""
    CHANGE = "change"
    TAKEN_OUT = "taken out"
    IGNORED = "ignored"
    INERT = "inert"
    LEVEL = "level"
    SIDE = "side"
    SHARED = "shared"
    BREAK = "break"
    WITH = "with"
    VERB = "verb"
    OPENER = "opener"
    PREPOSITION = "preposition"
    AND = "and"
    COMMA = "comma"
    STOP = "stop"
    """A semicolon or bracket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a phrase that names findings says. general: inferred ("lungs are clear"), yields to explicit words."""

    keys: tuple[str, ...]
    presence: str = "yes"
    change: Change | None = None
    general: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a predicate says of one part of the body."""

    subject: int
    named: Named


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One phrase of a sentence, or one word that no list holds (`parts` is empty)."""

    text: str
    parts: Mapping[Part, Any] = field(default_factory=dict)

    def has(self, *parts: Part) -> bool:
        """Whether it may play one of these parts."""
        return any(part in self.parts for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordList:
    """The whole list. phrases: tokens → parts. by_first: first token → the phrases' tokens, longest first."""

    version: str
    phrases: Mapping[tuple[str, ...], Mapping[Part, Any]]
    by_first: Mapping[str, Sequence[tuple[str, ...]]]
    letters: Mapping[int, Sequence[str]]
    """The words long enough to be guessed from a misspelling, by length."""
    known: frozenset[str]
    min_letters: int
    skipped: frozenset[str]
    deciding: frozenset[str]


def tokens(text: str) -> list[str]:
    """Lower-case words and punctuation; hyphens separate."""
    plain = text.lower().replace("-", " ").replace("’", "'")
    plain = _COMPARED.sub(lambda found: f"{_SIDE[found[1]]} greater than {_SIDE[found[2]]}", plain)
    return _TOKEN.findall(plain)


def marks(sentence: str) -> list[Mark]:
    """The sentence as phrases, longest first from the left, misspelt words mended."""
    words, found, place = word_list(), [], 0
    read = [_mended(token) for token in tokens(sentence)]
    while place < len(read):
        for phrase in words.by_first.get(read[place], ()):
            if tuple(read[place : place + len(phrase)]) == phrase:
                found.append(Mark(text=" ".join(phrase), parts=words.phrases[phrase]))
                place += len(phrase)
                break
        else:
            found.append(Mark(text=read[place]))
            place += 1
    return found


@lru_cache(maxsize=65_536)
def _mended(token: str) -> str:
    """The listed word that a misspelt one means: the only one at distance 1 with enough letters, else the token."""
    words = word_list()
    if token in words.known or len(token) < words.min_letters - 1 or not token.isalpha():
        return token
    near = {
        known
        for length in range(max(len(token) - 1, words.min_letters), len(token) + 2)
        for known in words.letters.get(length, ())
        if _one_edit(token, known)
    }
    return near.pop() if len(near) == 1 else token


def _one_edit(one: str, other: str) -> bool:
    """Whether one insertion, deletion, substitution or swap of neighbours makes `other` of `one`."""
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    a, b = one[start:], other[start:]
    swapped = len(a) > 1 and len(b) > 1 and a[0] == b[1] and a[1] == b[0] and a[2:] == b[2:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or swapped


@cache
def word_list() -> WordList:
    """The bundled list, read once."""
    raw = tomllib.loads(resources.files("model.labeller").joinpath("word_list.toml").read_text("utf-8"))
    phrases: dict[tuple[str, ...], dict[Part, Any]] = {}
    for words, part, value in _entries(raw):
        for word in words:
            phrases.setdefault(tuple(tokens(word)), {}).setdefault(part, value)
    for said in _said(raw):
        for word, value in said:
            phrases.setdefault(tuple(tokens(word)), {}).setdefault(Part.PREDICATE, []).append(value)
    by_first: dict[str, list[tuple[str, ...]]] = {}
    for phrase in sorted(phrases, key=lambda phrase: (-len(phrase), phrase)):
        by_first.setdefault(phrase[0], []).append(phrase)
    known = {token for phrase in phrases for token in phrase}
    letters: dict[int, list[str]] = {}
    for token in sorted(known):
        if token.isalpha() and len(token) >= raw["typing"]["min_letters"]:
            letters.setdefault(len(token), []).append(token)
    return WordList(
        version=raw["version"],
        phrases=phrases,
        by_first=by_first,
        letters=letters,
        known=frozenset(known | set(raw["typing"]["never"])),
        min_letters=raw["typing"]["min_letters"],
        skipped=frozenset(raw["sections"]["skipped"]),
        deciding=frozenset(raw["sections"]["deciding"]),
    )


def _entries(raw: Mapping[str, Any]) -> Iterator[tuple[Iterable[str], Part, Any]]:
    """Every phrase group with its part and value; where a phrase comes twice for one part, the first counts."""
    yield (form for word in raw["decoys"]["words"] for form in _forms(word)), Part.IGNORED, True
    for statement in raw["statement"]:
        change = Change(statement["change"]) if "change" in statement else None
        yield (
            statement["words"],
            Part.FINDING,
            Named(
                keys=tuple(statement["keys"]),
                presence=statement.get("presence", "yes"),
                change=change,
                general=statement.get("general", False),
            ),
        )
    yield from _findings(raw)
    cues = raw["cues"]
    yield cues["negation"]["before"], Part.NEGATION_BEFORE, True
    yield cues["negation"]["after"], Part.NEGATION_AFTER, True
    yield cues["uncertainty"]["before"], Part.UNCERTAINTY_BEFORE, True
    yield cues["uncertainty"]["after"], Part.UNCERTAINTY_AFTER, True
    yield cues["unsaid"]["before"], Part.UNSAID, True
    yield cues["old_stays_open"]["before"], Part.OPEN, True
    yield cues["past"]["before"], Part.PAST, True
    for change in (Change.NEW, Change.WORSENING, Change.STABLE, Change.IMPROVING, Change.RESOLVED):
        yield raw["change"][change.value], Part.CHANGE, change
    yield raw["change"]["taken_out"], Part.TAKEN_OUT, Change.RESOLVED
    yield raw["change"]["ignored"], Part.IGNORED, True
    yield raw["change"]["inert"], Part.INERT, True
    for level, words in raw["levels"].items():
        yield words, Part.LEVEL, level
    yield raw["sides"]["others"], Part.IGNORED, True
    yield raw["sides"]["shared"], Part.SHARED, True
    for side in ontology().sides:
        yield raw["sides"][side], Part.SIDE, side
    for index, part in enumerate(raw["part"]):
        yield part["subjects"], Part.SUBJECT, index
    yield from _small_words(raw["breaks"])


def _small_words(breaks: Mapping[str, Any]) -> Iterator[tuple[Iterable[str], Part, Any]]:
    yield breaks["words"], Part.BREAK, True
    yield breaks["with"], Part.WITH, True
    yield breaks["verbs"], Part.VERB, True
    yield breaks["openers"], Part.OPENER, True
    yield breaks["prepositions"], Part.PREPOSITION, True
    yield ("and", "or", "and/or", "as well as"), Part.AND, True
    yield (",",), Part.COMMA, True
    yield (";", "(", ")"), Part.STOP, True


def _findings(raw: Mapping[str, Any]) -> Iterator[tuple[Iterable[str], Part, Named]]:
    for wording, key in finding_wordings().items():
        yield (wording,), Part.FINDING, Named(keys=(key,))
    for finding in raw["finding"]:
        if finding["key"] not in ontology().findings:
            raise ValueError(f"word_list.toml: no finding {finding['key']!r} in the ontology")
        yield (
            (form for word in finding["words"] for form in _forms(word)),
            Part.FINDING,
            Named(keys=(finding["key"],)),
        )


def _forms(word: str) -> Iterator[str]:
    yield word
    yield f"{word}s"
    if word.endswith("y"):
        yield f"{word[:-1]}ies"
    if word.endswith("is"):
        yield f"{word[:-2]}es"


def _said(raw: Mapping[str, Any]) -> Iterator[list[tuple[str, Said]]]:
    for index, part in enumerate(raw["part"]):
        general = part.get("general", False)
        for kind, presence in (("normal", "no"), ("abnormal", "yes"), ("doubtful", "uncertain")):
            keys = part.get("abnormal_keys" if kind != "normal" else "normal_keys", ())
            named = Named(keys=tuple(keys), presence=presence, general=general and presence == "no")
            yield [(word, Said(subject=index, named=named)) for word in part.get(kind, ())]
