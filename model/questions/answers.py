"""Answers other than differences: yes/no, views, choices, lists of findings, places, levels and types; both ways."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from model.ontology import ontology
from model.questions.vocabulary import (
    NOTHING_FOUND,
    finding_key,
    finding_name,
    in_ontology_order,
    join_words,
    normalise,
    split_words,
)
from model.schema import COMPARED_CHANGES

YES_NO = ("yes", "no")
CHANGE_ANSWERS = (*COMPARED_CHANGES, "none")
DEGREE_CHANGES = ("worsening", "improving")
"""Changes of degree, which only a graded finding can show."""
""""none": absent on both images. The others are the values of `Change`."""
VIEW_ANSWERS = ("AP", "PA")

_CHOICE_WORDINGS: Mapping[str, str] = {
    "ap view": "ap",
    "pa view": "pa",
    "anteroposterior": "ap",
    "posteroanterior": "pa",
    "left side": "left",
    "right side": "right",
    "left-sided": "left",
    "right-sided": "right",
    "both": "bilateral",
    "both sides": "bilateral",
    "unchanged": "stable",
    "worse": "worsening",
    "worsened": "worsening",
    "improved": "improving",
    "better": "improving",
    "absent": "none",
    "mildly": "mild",
    "moderately": "moderate",
    "y": "yes",
    "n": "no",
}
"""Other usual wordings of the closed choices; everything else is unparsed."""

_NOTHING = frozenset({NOTHING_FOUND, "no abnormality", "none", "no findings", "no finding", "no", "nothing"})
_FILLERS = frozenset({"the", "in", "on", "at", "of", "is", "it", "located", "side", "zone", "region"})
_TOKEN = re.compile(r"[a-z]+(?:-[a-z]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedWords:
    """A list answer. words: what was understood, in canonical order; unparsed: the rest, as it stood.

    For findings the words are ontology keys; for places phrases of location words such as "left lower lobe".
    """

    words: tuple[str, ...]
    unparsed: tuple[str, ...] = ()


def parse_choice(text: str, allowed: Sequence[str]) -> str | None:
    """The allowed answer that `text` gives, in the spelling of `allowed`; None where it gives none of them."""
    normalised = normalise(text)
    by_word = {word.lower(): word for word in allowed}
    return by_word.get(normalised) or by_word.get(_CHOICE_WORDINGS.get(normalised, ""))


def write_view(view: str) -> str:
    """The answer to "which view is this image taken?": "AP view" or "PA view"; raises ValueError for another view."""
    if view not in VIEW_ANSWERS:
        raise ValueError(f"view {view!r} is none of {VIEW_ANSWERS}")
    return f"{view} view"


def parse_view(text: str) -> str | None:
    """ "AP" or "PA", or None."""
    return parse_choice(text, VIEW_ANSWERS)


def write_findings(keys: Iterable[str]) -> str:
    """An open list of findings by ontology key, joined by commas alone as the published abnormality answers are.

    `NOTHING_FOUND` where there are none.
    """
    return ", ".join(finding_name(key) for key in in_ontology_order(keys)) or NOTHING_FOUND


def parse_findings(text: str) -> ParsedWords:
    """The findings of an open list, whatever its order."""
    if normalise(text) in _NOTHING:
        return ParsedWords(words=())
    keys, foreign = [], []
    for item in split_words(text.replace(".", ",")):
        key = finding_key(item)
        if key is None:
            foreign.append(item)
        else:
            keys.append(key)
    return ParsedWords(words=tuple(in_ontology_order(keys)), unparsed=tuple(foreign))


def write_vocabulary(words: Iterable[str], vocabulary: Sequence[str]) -> str:
    """A list of levels or types, in the order of the vocabulary; raises ValueError for a foreign or missing word."""
    chosen = set(words)
    foreign = chosen - set(vocabulary)
    if foreign or not chosen:
        raise ValueError(f"words {sorted(foreign) or 'missing'} are not of {list(vocabulary)}")
    return join_words([word for word in vocabulary if word in chosen])


def parse_vocabulary(text: str, vocabulary: Sequence[str]) -> ParsedWords:
    """Read a list of levels or types."""
    items = split_words(text.replace(".", ","))
    known = {item for item in items if item in vocabulary}
    return ParsedWords(
        words=tuple(word for word in vocabulary if word in known),
        unparsed=tuple(item for item in items if item not in vocabulary),
    )


def write_level(levels: Iterable[str]) -> str:
    """The answer to "what level is the X?"."""
    return write_vocabulary(levels, ontology().levels)


def parse_level(text: str) -> ParsedWords:
    """Read the answer to "what level is the X?"."""
    return parse_vocabulary(text, ontology().levels)


def write_type(types: Iterable[str]) -> str:
    """The answer to "what type is the X?"."""
    return write_vocabulary(types, ontology().types)


def parse_type(text: str) -> ParsedWords:
    """Read the answer to "what type is the X?"."""
    return parse_vocabulary(text, ontology().types)


def write_locations(phrases: Iterable[str]) -> str:
    """Places, each a phrase of location words ("left lower lobe"); raises ValueError where a word is no location."""
    ordered = sorted({normalise(phrase) for phrase in phrases})
    for phrase in ordered:
        if _place(phrase) != phrase:
            raise ValueError(f"{phrase!r} is not made of location words alone")
    if not ordered:
        raise ValueError("a place must be said")
    return join_words(ordered)


def parse_locations(text: str) -> ParsedWords:
    """Read places; filler words ("in the", "side") are passed over, any other foreign word makes its item unparsed."""
    phrases, foreign = set(), []
    for item in split_words(text.replace(".", ",")):
        phrase = _place(item)
        if phrase:
            phrases.add(phrase)
        else:
            foreign.append(item)
    return ParsedWords(words=tuple(sorted(phrases)), unparsed=tuple(foreign))


def side_of_place(phrase: str) -> str | None:
    """The side ("left", "right", "bilateral") that a place phrase states, or None."""
    # Whole words: "leftover" or "upright" states no side.
    words = set(_TOKEN.findall(phrase.lower()))
    left = bool(words & {"left", "left-sided"})
    right = bool(words & {"right", "right-sided"})
    if (left and right) or words & {"bilateral", "bibasilar"}:
        return "bilateral"
    if left or right:
        return "left" if left else "right"
    return None


def _place(item: str) -> str:
    """The location words of `item` in order, fillers dropped; "" where a word is neither."""
    tokens, known, position, kept = _TOKEN.findall(normalise(item)), set(ontology().locations), 0, []
    while position < len(tokens):
        for length in (3, 1):  # "mid to lower" is one location of three words
            candidate = " ".join(tokens[position : position + length])
            if candidate in known:
                kept.append(candidate)
                position += length
                break
        else:
            if tokens[position] not in _FILLERS:
                return ""
            position += 1
    return " ".join(kept)
