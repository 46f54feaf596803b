"""A report's text as sentences with the heading that they stand under; headings such as "history" are left out."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from model.labeller.word_list import Part, marks, word_list

MAX_CHARACTERS = 100_000
"""More of a report is not read."""
MAX_SENTENCE = 1000
"""Longer ones are read in pieces: nobody writes them, and the time for a sentence grows with its square."""

_LINE_HEADING = re.compile(r"^[ \t]*([A-Za-z][A-Za-z /&-]{1,40}?)[ \t]*:[ \t]*", re.MULTILINE)
_INLINE_HEADING = re.compile(r"(?:(?<=[.!?] )|(?<=[.!?]  ))([A-Z][A-Z /&-]{3,40}?)[ \t]*:[ \t]*")
_BARE_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z /&]{3,40})[ \t]*$", re.MULTILINE)
_END = re.compile(
    r"(?<![A-Z])(?<!\bDr)(?<!\bvs)(?<!\be\.g)(?<!\bi\.e)(?<!\bapprox)[.!?]+(?=\s|$)|(?<=[A-Z]{2})\.(?=\s|$)"
)
_ITEM = re.compile(r"\n\s*(?:[-*•]|\d{1,2}[.)])\s+|\n\s*\n+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One sentence. section: its heading in lower case, "" before the first."""

    text: str
    section: str = ""


def sentences(text: str) -> list[Sentence]:
    """The sentences that may state findings, in order. Wrapped lines are joined; numbered items are sentences."""
    return list(_sentences(text[:MAX_CHARACTERS].replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")))


def _sentences(text: str) -> Iterator[Sentence]:
    skipped = word_list().skipped
    for section, body in _sections(text):
        if section in skipped:
            continue
        if any(mark.has(Part.SUBJECT, Part.FINDING) for mark in marks(section)):
            body = f"{section.capitalize()}: {body.lstrip()}"  # "Lungs: Clear." is one statement
        for item in _ITEM.split("\n" + body):
            for part in _END.split(item):
                words = " ".join(part.split()).lstrip("-*•").strip()
                words = re.sub(r"^\d{1,2}[.)]\s+", "", words)
                if re.search("[A-Za-z]", words):
                    for piece in textwrap.wrap(words, MAX_SENTENCE, break_long_words=True, break_on_hyphens=False):
                        yield Sentence(text=piece, section=section)


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Headings ("FINDINGS:", a line of capitals) with the text up to the next."""
    found = sorted(
        {
            (match.start(1), match.end(), match[1])
            for pattern in (_LINE_HEADING, _INLINE_HEADING, _BARE_HEADING)
            for match in pattern.finditer(text)
        }
    )
    place, name = 0, ""
    for start, end, heading in found:
        if start < place:
            continue
        yield name, text[place:start]
        place, name = end, " ".join(heading.lower().split())
    yield name, text[place:]
