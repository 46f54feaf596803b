"""The labeller's word list, read from `word_list.toml`: phrases with the parts that they may play in a sentence."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from model.labeller.text.parts import Named, Part, Predicate
from model.ontology import ontology
from model.questions.vocabulary import finding_wordings
from model.schema import Change

_Entry = tuple[Iterable[str], Part, Any]


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
    min_letters_two_edits: int
    abbreviations: Mapping[str, tuple[str, ...]]
    skipped: frozenset[str]
    deciding: frozenset[str]
    replacing: frozenset[str]
    neutral: frozenset[str]
    labels: frozenset[str]


@cache
def word_list() -> WordList:
    """Return the bundled list, read once."""
    raw = tomllib.loads(resources.files("model.labeller.text").joinpath("word_list.toml").read_text("utf-8"))
    phrases: dict[tuple[str, ...], dict[Part, Any]] = {}
    for words, part, value in _entries(raw):
        for word in words:
            phrases.setdefault(_spellings(word), {}).setdefault(part, value)
    for word, predicate in _predicates(raw):
        phrases.setdefault(_spellings(word), {}).setdefault(Part.PREDICATE, []).append(predicate)
    by_first: dict[str, list[tuple[str, ...]]] = {}
    for phrase in sorted(phrases, key=lambda phrase: (-len(phrase), phrase)):
        by_first.setdefault(phrase[0], []).append(phrase)
    known = {token for phrase in phrases for token in phrase}
    letters: dict[int, list[str]] = {}
    for token in sorted(_mendable(phrases)):
        if token.isalpha() and len(token) >= raw["typing"]["min_letters"]:
            letters.setdefault(len(token), []).append(token)
    sections = raw["sections"]
    return WordList(
        version=raw["version"],
        phrases=phrases,
        by_first=by_first,
        letters=letters,
        known=frozenset(known | set(raw["typing"]["never"])),
        min_letters=raw["typing"]["min_letters"],
        min_letters_two_edits=raw["typing"]["min_letters_two_edits"],
        abbreviations={short: _spellings(long) for short, long in raw["abbreviations"].items()},
        **{name: frozenset(sections[name]) for name in ("skipped", "deciding", "replacing", "neutral", "labels")},
    )


def _mendable(phrases: Mapping[tuple[str, ...], Mapping[Part, Any]]) -> set[str]:
    """Return the words of findings, parts of the body and what is said of them; small words are not guessed."""
    parts = {Part.FINDING, Part.SUBJECT, Part.PREDICATE, Part.LEVEL, Part.CHANGE, Part.SIDE, Part.IGNORED}
    return {token for phrase, of in phrases.items() if parts & of.keys() for token in phrase}


def _spellings(phrase: str) -> tuple[str, ...]:
    return tuple(phrase.replace("-", " ").split()) if phrase != "-" else ("-",)


def _entries(raw: Mapping[str, Any]) -> Iterator[_Entry]:
    """Yield every phrase group with its part and value; where a phrase comes twice for one part, the first counts."""
    # a thing of its own, so that sides and denials of it go to no finding beside it
    yield (form for word in raw["decoys"]["words"] for form in _forms(word)), Part.FINDING, Named(keys=())
    for statement in raw["statement"]:
        named = Named(
            keys=tuple(statement["keys"]),
            presence=statement.get("presence", "yes"),
            change=Change(statement["change"]) if "change" in statement else None,
            general=statement.get("general", False),
        )
        yield statement["words"], Part.FINDING, named
    yield from _findings(raw)
    yield from _cues(raw["cues"])
    yield from _changes(raw["change"])
    for level, words in raw["levels"].items():
        yield words, Part.LEVEL, level
    yield raw["sides"]["others"], Part.OTHER_SIDE, True
    yield raw["sides"]["shared"], Part.SHARED, True
    for side in ontology().sides:
        yield raw["sides"][side], Part.SIDE, side
    subjects: dict[str, list[int]] = {}
    for index, part in enumerate(raw["part"]):
        for subject in part["subjects"]:
            subjects.setdefault(subject, []).append(index)
    for subject, indices in subjects.items():
        yield (subject,), Part.SUBJECT, tuple(indices)
    for value, part in (("no", Part.VALUE_NO), ("yes", Part.VALUE_YES), ("open", Part.VALUE_OPEN)):
        yield raw["values"][value], part, True
    yield from _small_words(raw["breaks"])


def _cues(cues: Mapping[str, Any]) -> Iterator[_Entry]:
    yield cues["negation"]["before"], Part.NEGATION_BEFORE, True
    yield cues["negation"]["after"], Part.NEGATION_AFTER, True
    for certainty in ("probable", "possible", "unlikely"):
        yield cues["uncertainty"][certainty]["before"], Part.UNCERTAINTY_BEFORE, certainty
        yield cues["uncertainty"][certainty]["after"], Part.UNCERTAINTY_AFTER, certainty
    yield cues["unsaid"]["before"], Part.UNSAID_BEFORE, True
    yield cues["unsaid"]["after"], Part.UNSAID_AFTER, True
    yield cues["known"]["before"], Part.KNOWN, True


def _changes(words: Mapping[str, Any]) -> Iterator[_Entry]:
    for change in (Change.NEW, Change.WORSENING, Change.STABLE, Change.IMPROVING, Change.RESOLVED):
        yield words[change.value], Part.CHANGE, change
    yield words["changed"], Part.CHANGED, True
    yield ("no longer",), Part.NO_LONGER, True
    yield words["taken_out"], Part.TAKEN_OUT, True
    yield words["placed"], Part.PLACED, True
    yield words["ignored"], Part.IGNORED, True
    yield words["inert"], Part.INERT, True
    yield words["leaves_open"], Part.LEAVES_OPEN, True
    yield words["partly"], Part.PARTLY, True
    yield words["one_of"], Part.ONE_OF, True


def _small_words(breaks: Mapping[str, Any]) -> Iterator[_Entry]:
    for name, part in (
        ("words", Part.BREAK),
        ("except", Part.EXCEPT),
        ("relations", Part.RELATION),
        ("with", Part.WITH),
        ("verbs", Part.VERB),
        ("openers", Part.OPENER),
        ("prepositions", Part.PREPOSITION),
        ("evidence", Part.EVIDENCE),
        ("image", Part.IMAGE),
        ("image_before", Part.IMAGE_BEFORE),
        ("reported", Part.REPORTED),
        ("seen", Part.SEEN),
        ("movement", Part.MOVEMENT),
        ("plan", Part.PLAN),
        ("fillers", Part.FILLER),
        ("moved", Part.MOVED),
        ("exchanged", Part.EXCHANGED),
    ):
        yield breaks[name], part, True
    yield ("and", "as well as", "&", "+", "and also"), Part.AND, True
    yield ("or", "and/or", "nor", "or else"), Part.OR, True
    yield (",", "/"), Part.COMMA, True
    yield (":", "="), Part.COLON, True
    yield ("-",), Part.DASH, True
    yield (";", "(", ")"), Part.STOP, True


def _findings(raw: Mapping[str, Any]) -> Iterator[_Entry]:
    for wording, key in finding_wordings().items():
        yield (wording,), Part.FINDING, Named(keys=(key,))
    for finding in raw["finding"]:
        if finding["key"] not in ontology().findings:
            raise ValueError(f"word_list.toml: no finding {finding['key']!r} in the ontology")
        forms = (form for word in finding["words"] for form in _forms(word))
        yield forms, Part.FINDING, Named(keys=(finding["key"],))


def _forms(word: str) -> Iterator[str]:
    yield word
    yield f"{word}s"
    if word.endswith("y"):
        yield f"{word[:-1]}ies"
    if word.endswith("is"):
        yield f"{word[:-2]}es"


def _predicates(raw: Mapping[str, Any]) -> Iterator[tuple[str, Predicate]]:
    for index, part in enumerate(raw["part"]):
        general = part.get("general", False)
        for kind, presence in (("normal", "no"), ("abnormal", "yes"), ("doubtful", "uncertain")):
            keys = part.get("abnormal_keys" if kind != "normal" else "normal_keys", ())
            named = Named(keys=tuple(keys), presence=presence, general=general and presence == "no")
            for word in part.get(kind, ()):
                yield word, Predicate(subject=index, named=named)
