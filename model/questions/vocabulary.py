"""The words of questions and answers: normalising text, lists of words, names of findings, degrees in order.

The word lists are those of Medical-Diff-VQA 1.0.1 as `ontology.toml` holds them; the order of degrees is our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from model.ontology import ontology

NOTHING_FOUND = "no abnormalities"
"""Our answer to an open list question about an image without findings; the published set has none for that case."""

_ARTICLE = re.compile(r"^(?:a|an|the|any|some)\s+")
_EDGES = " \t\n\r.,;:!?\"'"
_SEPARATOR = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+|\s*;\s*")

_DEGREES: tuple[tuple[str, ...], ...] = (
    ("minimal", "minimally", "subtle", "minor"),
    ("mild", "mildly", "small"),
    ("mild to moderate",),
    ("moderate", "moderately"),
    ("moderate to large", "moderate to severe"),
    ("severe", "massive"),
)
"""Degree words from least to most, equal ones together. "acute", "increasing" and "decreasing" have no place in it."""

DEGREE_RANK: Mapping[str, int] = {word: rank for rank, words in enumerate(_DEGREES) for word in words}

_GRADE_OF_RANK = ("mild", "mild", "moderate", "moderate", "severe", "severe")


def normalise(text: str) -> str:
    """Lower case, single spaces, no punctuation at the edges: what every parser here compares."""
    return " ".join(text.lower().split()).strip(_EDGES)


def degree_order(before: str, after: str) -> int | None:
    """1 where `after` is the higher degree, -1 where lower, 0 where equal, None where a word has no place in it."""
    if before not in DEGREE_RANK or after not in DEGREE_RANK:
        return None
    difference = DEGREE_RANK[after] - DEGREE_RANK[before]
    return (difference > 0) - (difference < 0)


def grade_of_level(level: str) -> str | None:
    """The grade ("mild", "moderate" or "severe") that a level word falls into; None for words that are no degree."""
    rank = DEGREE_RANK.get(normalise(level))
    return None if rank is None else _GRADE_OF_RANK[rank]


def join_words(words: Sequence[str]) -> str:
    """A list as Medical-Diff-VQA writes it: "X", "X, and Y", "X, Y, and Z"."""
    if not words:
        raise ValueError("an empty list has no words to join")
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])}, and {words[-1]}"


def split_words(text: str) -> list[str]:
    """The items of a list in any usual writing (commas, "and", semicolons), normalised; the inverse of `join_words`."""
    items = (normalise(item) for item in _SEPARATOR.split(text))
    return [item for item in items if item and item != "and"]


def _plurals(name: str) -> Iterable[str]:
    """Plural spellings that reports use for `name` (regular ones; wrong guesses match nothing and do no harm)."""
    yield f"{name}s"
    if name.endswith("y"):
        yield f"{name[:-1]}ies"
    if name.endswith("is"):
        yield f"{name[:-2]}es"
    if name.endswith(("s", "x", "ch")):
        yield f"{name}es"
    if name.startswith("tortuosity of"):
        yield name.replace("tortuosity", "tortuosities", 1)


@cache
def _finding_keys() -> Mapping[str, str]:
    """Every accepted wording → ontology key. Names win over synonyms, synonyms over plurals."""
    concepts = ontology().findings.values()
    table = {concept.name: concept.key for concept in concepts}
    for concept in concepts:
        for synonym in (*concept.synonyms, concept.key, concept.key.replace("_", " ")):
            table.setdefault(synonym, concept.key)
    # A copy: the table grows while it is read.
    for name, key in list(table.items()):
        for plural in _plurals(name):
            table.setdefault(plural, key)
    return table


def finding_key(text: str) -> str | None:
    """The ontology key that `text` names (case, articles, plural and stray punctuation do not matter), else None."""
    normalised = normalise(text)
    key = _finding_keys().get(normalised)
    return key if key is not None else _finding_keys().get(_ARTICLE.sub("", normalised))


def finding_name(key: str) -> str:
    """The spelling of the finding in answers; raises KeyError for a key that the ontology does not hold."""
    return ontology().findings[key].name


def finding_wordings() -> Mapping[str, str]:
    """Every wording that `finding_key` accepts, with its key: for finding names in running text."""
    return _finding_keys()


def in_ontology_order(keys: Iterable[str]) -> list[str]:
    """The keys, each once, in the order of the ontology; raises KeyError for a foreign one."""
    order = {key: number for number, key in enumerate(ontology().findings)}
    return sorted(set(keys), key=lambda key: order[key])
