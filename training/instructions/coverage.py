"""Counts of a data set's answers to closed questions: a checkpoint may be asked what it was taught, nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache

from model.ontology import ontology
from model.questions.battery import QuestionType, battery
from model.questions.prompts import Turn

FEWEST = 50
"""Answers of each kind (yes and no, for a presence) below which a finding or a type counts as not taught."""

Taught = Mapping[str, int]
"""Question key and answer, "presence/edema=yes" → how many turns; open questions have no answer: "difference"."""


@cache
def _keys() -> Mapping[str, tuple[str, bool]]:
    """Text of every question of the battery → its key, and whether its answer is one of a few."""
    asked = battery(tuple(ontology().findings), with_prior=True, prognosis=True)
    return {question.text: (question.key, question.allowed is not None) for question in asked}


def note_taught(counts: Counter[str], turns: Iterable[Turn]) -> None:
    """Count the turns that serving may ask."""
    for turn in turns:
        known = _keys().get(turn.question)
        if known is not None:
            counts[f"{known[0]}={turn.answer}" if known[1] else known[0]] += 1


def findings_taught(taught: Taught, *, fewest: int = FEWEST) -> tuple[str, ...]:
    """Findings whose presence was asserted and denied often enough, in ontology order."""
    return tuple(
        key
        for key in ontology().findings
        if min(taught.get(f"{QuestionType.PRESENCE.value}/{key}={answer}", 0) for answer in ("yes", "no")) >= fewest
    )


def types_taught(taught: Taught, *, fewest: int = FEWEST) -> tuple[str, ...]:
    """Types of question that were answered often enough, all findings together."""
    counts: Counter[str] = Counter()
    for key, count in taught.items():
        counts[key.partition("=")[0].partition("/")[0]] += count
    return tuple(type.value for type in QuestionType if counts[type.value] >= fewest)
