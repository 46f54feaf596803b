"""Stream D: short difference answers rewritten into one or two report-style sentences, kept only when still true.

The writer is any text model (OpenAI-compatible server or local Transformers, `model.remote.text_model`), or the
rules below when there is none. Whatever wrote it, a sentence is kept only if the findings and changes read back
from it equal the source's; everything else is dropped and counted. A writer is never trusted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Protocol

import numpy as np

from model.errors import InferenceError, RefusedRequestError
from model.ontology import ontology
from model.questions.grammar import NOTHING, Event, EventKind, level_readings, parse_events
from model.questions.vocabulary import finding_name, finding_wordings, join_words
from model.remote.text_model import TextModel
from training.records.drops import DataError, DropReport

MAX_TOKENS = 120
MAX_WORDS = 80
"""Longer answers are no one or two sentences."""
MAX_FAILURES = 3
"""A writer that fails this often in a row, and not by refusing the request, is gone."""

PROMPT = """\
Rewrite the statement as one or two sentences of a radiology report that compares a current chest radiograph with the
prior one. Say exactly the same findings and changes, each by its name as written; add nothing, leave nothing out. Use
"new" for what has appeared, "resolved" for what has gone, and keep the words of degree.
Statement: {statement}
Answer with the sentences alone."""

PROMPT_SHA256 = hashlib.sha256(PROMPT.encode()).hexdigest()

_NEW = r"new(?:ly)?|appeared|developed|additional|now present|interval development|has arisen|since then"
_GONE = r"resolved|resolution|cleared|disappeared|no longer|gone|missing|not seen any more|absent"
_SAME = r"unchanged|no change|nothing has changed|no interval change|not changed|stable"
_WORDS = {
    EventKind.NEW: re.compile(rf"\b(?:{_NEW})\b"),
    EventKind.RESOLVED: re.compile(rf"\b(?:{_GONE})\b"),
    EventKind.NONE: re.compile(rf"\b(?:{_SAME})\b"),
}
_FINDING = re.compile(
    r"\b(?:" + "|".join(re.escape(w) for w in sorted(finding_wordings(), key=len, reverse=True)) + r")\b"
)
_DEGREE = "(?:" + "|".join(re.escape(w) for w in sorted(ontology().levels, key=len, reverse=True)) + ")"
_LEVEL = re.compile(rf"\b{_DEGREE}\b")
_FROM_TO = re.compile(rf"\bfrom ({_DEGREE}(?: to {_DEGREE})+)\b")
_NEGATION = re.compile(r"\b(?:no|not|without|neither|nor)\b")


class Writer(Protocol):
    """Turns statements of events into report-style sentences."""

    @property
    def name(self) -> str:
        """Who wrote, as it is recorded."""
        ...

    def write(self, statements: Sequence[tuple[Event, ...]], sources: Sequence[str]) -> list[str]:
        """One text for each statement; `sources` are the same in the published grammar."""
        ...


class ModelWriter:
    """A language model that rewrites."""

    def __init__(self, model: TextModel) -> None:
        self._model = model

    @property
    def name(self) -> str:
        """The model's name and the prompt's hash."""
        return f"{self._model.name}, prompt {PROMPT_SHA256[:12]}"

    def write(self, statements: Sequence[tuple[Event, ...]], sources: Sequence[str]) -> list[str]:
        """Ask the model once for each."""
        return self._model.complete([PROMPT.format(statement=source) for source in sources], max_tokens=MAX_TOKENS)


class RuleWriter:
    """Report-style sentences from templates, chosen by a seed: for use without a language model."""

    _NEW = (
        "There is new {names}.",
        "New {names} has appeared since the prior radiograph.",
        "Interval development of {names}.",
    )
    _GONE = ("{names} has resolved.", "There is no longer {names}.", "Interval resolution of {names}.")
    _LEVEL = (
        "The {name} has changed from {before} to {after}.",
        "{name}, {before} on the prior radiograph, is now {after}.",
    )
    _SAME = ("No interval change since the prior radiograph.", "The chest is unchanged compared with the prior image.")

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    @property
    def name(self) -> str:
        """Rules and seed."""
        return f"rules 1, seed {self._seed}"

    def write(self, statements: Sequence[tuple[Event, ...]], sources: Sequence[str]) -> list[str]:
        """One text for each; the same source always gives the same text."""
        return [self._one(events, source) for events, source in zip(statements, sources, strict=True)]

    def _one(self, events: tuple[Event, ...], source: str) -> str:
        # From the text alone: the same answer is written the same way in whatever order the run comes to it.
        digest = hashlib.sha256(f"{self._seed}\x1f{source}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))

        def pick(options: Sequence[str], **values: str) -> str:
            text = options[int(rng.integers(len(options)))].format(**values)
            return text[0].upper() + text[1:]

        if events == (NOTHING,):
            return pick(self._SAME)
        parts = []
        for kind, options in ((EventKind.NEW, self._NEW), (EventKind.RESOLVED, self._GONE)):
            names = [finding_name(event.finding) for event in events if event.kind is kind]
            if names:
                parts.append(pick(options, names=join_words(names)))
        parts += [
            pick(self._LEVEL, name=finding_name(e.finding), before=e.before or "", after=e.after or "")
            for e in events
            if e.kind is EventKind.LEVEL
        ]
        return " ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """The contents of a report-style text. doubtful: clauses with a finding whose change could not be read."""

    events: frozenset[Event]
    doubtful: tuple[str, ...]


def read_back(text: str) -> ReadBack:
    """Read a report-style text clause by clause; strict on purpose, because a wrong "kept" poisons the training set.

    A clause's findings take the one kind of change that the clause states. "from A to B", or "A … now B", with two
    level words is a change of degree. A clause that states no change or two, or negates one, is doubtful.
    """
    events: set[Event] = set()
    doubtful = []
    for clause in re.split(r"(?<=[.;])\s+|\s+while\s+|\s+whereas\s+|\s+but\s+|\n+", text.lower()):
        findings = [finding_wordings()[wording] for wording in _FINDING.findall(clause)]
        # Names of findings go first: a name may hold a word of degree.
        degrees = _degrees(_FINDING.sub(" ", clause))
        kinds = [kind for kind, pattern in _WORDS.items() if pattern.search(clause)]
        if degrees is not None and not kinds and len(findings) == 1:
            events.add(Event(kind=EventKind.LEVEL, finding=findings[0], before=degrees[0], after=degrees[1]))
        elif not findings and kinds == [EventKind.NONE]:
            events.add(NOTHING)
        elif findings and len(kinds) == 1 and kinds[0] is not EventKind.NONE and not _is_negated(clause, kinds[0]):
            events.update(Event(kind=kinds[0], finding=finding) for finding in findings)
        elif findings or kinds:
            doubtful.append(clause.strip())
    return ReadBack(events=frozenset(events), doubtful=tuple(doubtful))


def _degrees(clause: str) -> tuple[str, str] | None:
    """The degree before and after that a clause states; None where it states none, or one that can be read two ways."""
    stated = _FROM_TO.search(clause)
    if stated is not None:
        readings = level_readings("edema", stated[1])  # whichever finding: only the degrees are read here
        return (readings[0].before or "", readings[0].after or "") if len(readings) == 1 else None
    levels = _LEVEL.findall(clause)
    return (levels[0], levels[1]) if len(levels) == 2 and " is now " in clause else None


def _is_negated(clause: str, kind: EventKind) -> bool:
    """Tell whether a negation stands in the clause beside the "no longer" kind of words themselves."""
    return _NEGATION.search(_WORDS[kind].sub(" ", clause)) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """The outcome of one difference answer: an accepted text, or why there is none."""

    record_id: str
    text: str = ""
    fault: str = ""


def rewrite(sources: Iterable[tuple[str, str]], writer: Writer, report: DropReport) -> dict[str, str]:
    """(record id, difference answer) → {record id: accepted long answer}. Everything not accepted is counted.

    Raises InferenceError where the writer's server fails for good.
    """
    accepted: dict[str, str] = {}
    for outcome in chain.from_iterable(rewrite_batches(sources, writer)):
        count(outcome, report)
        if not outcome.fault:
            accepted[outcome.record_id] = outcome.text
    return accepted


def rewrite_batches(
    sources: Iterable[tuple[str, str]], writer: Writer, *, batch: int = 64
) -> Iterator[tuple[Rewritten, ...]]:
    """Rewrite each (record id, difference answer); yields the outcomes batch by batch.

    Raises InferenceError where the writer's server fails for good; the batches before are given by then.
    """
    remaining = iter(sources)
    while taken := list(islice(remaining, batch)):
        parsed = [(record_id, source, parse_events(source)) for record_id, source in taken]
        # What does not parse has no events to check the text against, and costs no request.
        asked = [(record_id, source, reading.events) for record_id, source, reading in parsed if reading.complete]
        yield (
            *(
                Rewritten(record_id=record_id, fault="long answer: the source does not parse")
                for record_id, _, reading in parsed
                if not reading.complete
            ),
            *_rewrite_batch(asked, writer),
        )


def count(one: Rewritten, report: DropReport) -> None:
    """Count an answer as kept or dropped."""
    if one.fault:
        report.drop(one.fault, one.record_id)
    else:
        report.keep()


def _rewrite_batch(asked: Sequence[tuple[str, str, tuple[Event, ...]]], writer: Writer) -> Iterator[Rewritten]:
    """Have a batch written; where it fails each alone, so that one answer that cannot be had costs no other."""
    try:
        texts: list[str | None] = list(writer.write([e for _, _, e in asked], [source for _, source, _ in asked]))
    except InferenceError:
        texts, failures = [], 0
        for _, source, events in asked:
            try:
                texts += writer.write([events], [source])
                failures = 0
            except InferenceError as error:
                # A refusal is about this one text; failures in a row mean that the server is gone.
                failures += not isinstance(error, RefusedRequestError)
                if failures >= MAX_FAILURES:
                    raise
                texts.append(None)
    for (record_id, _, events), text in zip(asked, texts, strict=True):
        fault = "long answer: the writer gave none" if text is None else _fault(text, events)
        yield Rewritten(
            record_id=record_id, text="" if fault or not text else " ".join(text.split()), fault=fault or ""
        )


def _fault(text: str, events: tuple[Event, ...]) -> str | None:
    """Why a text may not stand for the events; None where it may."""
    if not text.strip():
        return "long answer: empty"
    if len(text.split()) > MAX_WORDS:
        return "long answer: longer than two sentences"
    statement = read_back(text)
    if statement.doubtful:
        return "long answer: a clause could not be read back"
    if statement.events != frozenset(events):
        return "long answer: says other findings than its source"
    return None


def save_answers(path: Path, answers: Mapping[str, str], *, writer: str, report: DropReport) -> None:
    """Keep accepted answers for training, with who wrote them and what was dropped, as JSON."""
    content = {"writer": writer, "prompt_sha256": PROMPT_SHA256, "report": report.as_json(), "answers": dict(answers)}
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def load_answers(path: Path) -> dict[str, str]:
    """Read what `save_answers` wrote; raises DataError for anything else."""
    try:
        answers = json.loads(path.read_text("utf-8"))["answers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no long answers: {error}") from error
    if not isinstance(answers, dict) or not all(isinstance(text, str) for text in answers.values()):
        raise DataError(f"{path} holds no long answers")
    return {str(key): text for key, text in answers.items()}
