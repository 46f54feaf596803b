"""A person's question in plain words, read into one that the model was taught; refused in words where it was not.

The reading is narrow on purpose: one finding of the checkpoint, one of the kinds below, and no word left over that
could change the meaning. A question that is half understood is refused, because half an answer would be taken for a
whole one. The words are those of `free_text.toml`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources

from model.ontology import FindingKind, ontology
from model.questions.vocabulary import finding_name, finding_wordings, normalise
from model.schema import ImageRole

MAX_CHARACTERS = 400
"""Longest question that is read."""
EXAMPLE = "is there a pleural effusion?"


class AskedKind(StrEnum):
    """The subject of a free question."""

    PRESENCE = "presence"
    """Is it there; with a side: is it there on that side."""
    SIDE = "side"
    """The side."""
    SEVERITY = "severity"
    """The severity."""
    CHANGE = "change"
    """The change since the prior image."""
    ABNORMALITIES = "abnormalities"
    """Everything that is seen."""
    DIFFERENCE = "difference"
    """Everything that changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedQuestion:
    """A question that can be answered.

    finding: ontology key; None for ABNORMALITIES and DIFFERENCE. side: of a presence question that names one.
    image: the image that is asked about; CURRENT for changes. expected: the changes that make "yes" the answer to a
    question that names a direction ("is it larger"); empty where it names none.
    """

    kind: AskedKind
    finding: str | None = None
    side: str | None = None
    image: ImageRole = ImageRole.CURRENT
    expected: tuple[str, ...] = ()


class NotTaughtError(ValueError):
    """The question cannot be answered; the message says why, in words for the person who asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """The patterns of `free_text.toml`."""

    directions: Mapping[str, re.Pattern[str]]
    kinds: Mapping[str, re.Pattern[str]]
    sides: Mapping[str, re.Pattern[str]]
    topics: Mapping[str, re.Pattern[str]]
    fillers: frozenset[str]


@cache
def _words() -> _Words:
    raw = tomllib.loads(resources.files("model.questions").joinpath("free_text.toml").read_text("utf-8"))
    return _Words(
        directions=_patterns(raw["directions"]),
        kinds=_patterns(raw["kinds"]),
        sides=_patterns(raw["sides"]),
        topics=_patterns(raw["topics"]),
        fillers=frozenset(raw["fillers"]["words"].split()),
    )


def _patterns(table: Mapping[str, Iterable[str]]) -> dict[str, re.Pattern[str]]:
    def pattern(phrases: Iterable[str]) -> re.Pattern[str]:
        longest_first = sorted(phrases, key=len, reverse=True)
        return re.compile(rf"(?<![\w-])(?:{'|'.join(re.escape(phrase) for phrase in longest_first)})(?![\w-])")

    return {name: pattern(phrases) for name, phrases in table.items()}


def understand(text: str, findings: Sequence[str], *, has_prior: bool) -> AskedQuestion:
    """Read a question.

    Parameters
    ----------
    text
        The person's words, one question.
    findings
        Ontology keys that the checkpoint may be asked.
    has_prior
        True where a prior image is at hand.

    Raises
    ------
    NotTaughtError
        The question is not understood, is about what no checkpoint is taught, names a finding that this one was not
        taught, or asks for a comparison without a prior.
    """
    if len(text) > MAX_CHARACTERS:
        raise NotTaughtError(f"the question is longer than {MAX_CHARACTERS} characters")
    asked_text = normalise(text)
    if not asked_text:
        raise NotTaughtError("the question is empty")
    finding, rest = _take_finding(asked_text, findings)
    for topic, pattern in _words().topics.items():
        if pattern.search(rest):
            raise NotTaughtError(f"this checkpoint was not trained on questions about {topic}")
    # Strict: a word that is not understood may turn the question round, and a wrong answer is worse than none.
    _refuse_leftovers(rest)
    asked = _parse_question(rest, finding)
    needs_prior = asked.kind in (AskedKind.CHANGE, AskedKind.DIFFERENCE) or asked.image is ImageRole.PRIOR
    if needs_prior and not has_prior:
        raise NotTaughtError("this study was not compared with a prior image")
    return asked


def _take_finding(text: str, findings: Sequence[str]) -> tuple[str | None, str]:
    """The one finding that is named, and the text without its name. Raises NotTaughtError for two, or a foreign one."""
    wordings = finding_wordings()
    # The longest wording first: "pleural effusion" must not be read as "effusion" with "pleural" left over.
    alternatives = "|".join(re.escape(wording) for wording in sorted(wordings, key=len, reverse=True))
    named = list(re.finditer(rf"(?<![\w-])(?:{alternatives})(?![\w-])", text))
    keys = list(dict.fromkeys(wordings[match.group()] for match in named))
    if len(keys) > 1:
        raise NotTaughtError(
            f"the question names {' and '.join(finding_name(key) for key in keys)}; ask about one finding at a time"
        )
    if keys and keys[0] not in findings:
        raise NotTaughtError(f"this checkpoint was not trained on {finding_name(keys[0])}")
    rest = text
    # From the back, so that the places of those before stay right.
    for match in reversed(named):
        rest = f"{rest[: match.start()]} {rest[match.end() :]}"
    return (keys[0] if keys else None), " ".join(rest.split())


def _parse_question(rest: str, finding: str | None) -> AskedQuestion:
    kinds = _words().kinds
    directions = tuple(change for change, pattern in _words().directions.items() if pattern.search(rest))
    sides = {side for side, pattern in _words().sides.items() if pattern.search(rest)}
    if len(directions) > 1:
        raise NotTaughtError("the question names two directions of change; ask about one at a time")
    changes = bool(directions) or kinds["change"].search(rest) is not None
    if finding is None:
        return _parse_question_on_all(rest, directions, changes=changes, has_side=bool(sides))
    if changes:
        if sides:
            raise NotTaughtError("this checkpoint was not trained on the change of one side alone")
        return AskedQuestion(kind=AskedKind.CHANGE, finding=finding, expected=directions)
    if kinds["prior"].search(rest):
        return _parse_question_on_prior(rest, finding, has_side=bool(sides))
    return _parse_question_on_current(rest, finding, sides)


def _parse_question_on_all(rest: str, directions: tuple[str, ...], *, changes: bool, has_side: bool) -> AskedQuestion:
    kinds = _words().kinds
    if changes and not has_side:
        return AskedQuestion(kind=AskedKind.DIFFERENCE, expected=directions)
    if kinds["abnormalities"].search(rest) and not changes and not has_side and not kinds["prior"].search(rest):
        return AskedQuestion(kind=AskedKind.ABNORMALITIES)
    raise NotTaughtError("the question names no finding that this checkpoint was trained on")


def _parse_question_on_prior(rest: str, finding: str, *, has_side: bool) -> AskedQuestion:
    kinds = _words().kinds
    if has_side or kinds["place"].search(rest) or kinds["severity"].search(rest):
        raise NotTaughtError("of the prior image only presence can be asked")
    _require_presence(rest)
    return AskedQuestion(kind=AskedKind.PRESENCE, finding=finding, image=ImageRole.PRIOR)


def _parse_question_on_current(rest: str, finding: str, sides: set[str]) -> AskedQuestion:
    kinds, concept = _words().kinds, ontology().findings[finding]
    if kinds["place"].search(rest):
        if not concept.lateral:
            raise NotTaughtError(f"this checkpoint was not trained on the side of {concept.name}")
        return AskedQuestion(kind=AskedKind.SIDE, finding=finding)
    if kinds["severity"].search(rest):
        if not concept.graded or concept.kind is FindingKind.DEVICE:
            raise NotTaughtError(f"{concept.name} has no degree of severity")
        if sides:
            raise NotTaughtError("this checkpoint was not trained on the severity of one side alone")
        return AskedQuestion(kind=AskedKind.SEVERITY, finding=finding)
    if len(sides) > 1:
        raise NotTaughtError("the question names two sides; ask about one at a time, or: which side is it on?")
    _require_presence(rest)
    if sides and not concept.lateral:
        raise NotTaughtError(f"this checkpoint was not trained on the side of {concept.name}")
    return AskedQuestion(kind=AskedKind.PRESENCE, finding=finding, side=next(iter(sides), None))


def _require_presence(rest: str) -> None:
    if not _words().kinds["presence"].search(rest):
        raise NotTaughtError(f"the question is not understood; ask, for example: {EXAMPLE}")


def _refuse_leftovers(rest: str) -> None:
    """Name the words that stand for something else: they could change the meaning, and are not answered past."""
    words = _words()
    for pattern in (*words.directions.values(), *words.kinds.values(), *words.sides.values()):
        rest = pattern.sub(" ", rest)
    left = [word for word in re.findall(r"[^\W_][\w'-]*", rest) if word not in words.fillers]
    if left:
        named = ", ".join(repr(word) for word in dict.fromkeys(left))
        raise NotTaughtError(f"not understood: {named}; ask about one finding by its name: {EXAMPLE}")
