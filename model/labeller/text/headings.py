"""The headings of a report: which sections are read, which only tell of the patient, and where one ends."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from model.labeller.text.parts import Part
from model.labeller.text.tokens import marks
from model.labeller.text.word_list import word_list

# A colon before a digit is one of a time ("at 12:30") and opens no section.
_COLON = re.compile(r"[ \t]*([A-Za-z][A-Za-z /&-]{1,40}?)[ \t]*(?:\([A-Za-z/ ]{1,9}\)[ \t]*)?[:=](?!\d)[ \t]*")
_CAPITALS = re.compile(r"[ \t]*([A-Z][A-Z /&]{3,40})[ \t]*$", re.MULTILINE)
_INLINE = re.compile(r"(?:(?<=[.!?;>])|(?<=[.!?;] )|(?<=[.!?;]  ))([A-Za-z][A-Za-z /&-]{2,40}?)[ \t]*:[ \t]*")
_NO_HEADING = r"(?!\s+(?:is|was|are|were|of|made|with|for|to|in|on|as|limited|performed)\b)"


def line_heading(line: str) -> tuple[str, int] | None:
    """Return (heading in lower case, where its body begins) of a line that opens with one, or is one."""
    words = word_list()
    known = words.skipped | words.deciding | words.replacing | words.neutral | words.labels
    colon = _COLON.match(line)
    if colon:
        return _plain(colon[1]), colon.end()
    bare = _plain(line.strip())
    if bare in known:
        return bare, len(line)
    replaced = _replacing().match(line)
    if replaced:
        return _plain(replaced[1]), replaced.end()
    without_colon = _pattern_without_colon().match(line)
    if without_colon:
        return f"{_plain(without_colon[1])} ", without_colon.end()
    capitals = _CAPITALS.match(line)
    # A line in capitals is a heading, unless it names a finding: some reports are written in capitals altogether.
    if capitals and not names_findings(capitals[1]):
        return _plain(capitals[1]), len(line)
    return None


def next_inline_heading(text: str, start: int, end: int) -> tuple[int, int, str] | None:
    """Return (start, end, heading) of the first known section heading behind a sentence, or in capitals."""
    words = word_list()
    known = words.skipped | words.deciding | words.replacing | words.neutral
    places = [
        (match.start(1), match.end(), _plain(match[1]))
        for match in _INLINE.finditer(text, start, end)
        if _plain(match[1]) in known
    ]
    if not text[start:end].isupper():
        places += [
            (match.start(), match.end(), _plain(match[1]))
            for match in _capital_headings().finditer(text, start, end)
            if match.start() > start
        ]
    return min(places, default=None)


def names_findings(heading: str) -> bool:
    """Return whether a heading is a finding or part of the body, so that what follows is said of it."""
    return any(mark.has(Part.FINDING, Part.SUBJECT) for mark in marks(heading))


def _is_value(heading: str) -> bool:
    """Return whether a heading says of what follows that it is there or that it is not."""
    values = marks(heading)
    return bool(values) and all(mark.has(Part.VALUE_NO, Part.VALUE_YES) for mark in values)


def is_heading_of_findings(line: str) -> bool:
    """Return whether a line opens a statement of its own ("No …", "Heart: …")."""
    return line_heading(line) is not None or re.match(r"(?:No|Normal|There|The)\b", line) is not None


@dataclass(slots=True)
class TextSection:
    """The section that is being read."""

    name: str = ""
    is_skipped: bool = False
    _has_body: bool = False
    _one_line: bool = False

    def enter(self, text: str, start: int, end: int) -> int:
        """Take a line's heading, if it has one; return where its body begins."""
        parts = line_heading(text[start:end].rstrip("\n"))
        if not parts:
            return start
        heading, body = parts
        if heading.endswith(" "):
            self.begin(heading.strip())
            self._one_line = True
            return start + body
        words = word_list()
        if heading in words.skipped | words.deciding | words.replacing | words.neutral:
            self.begin(heading)
        elif _is_value(heading):  # "Not seen: pneumothorax"
            self._leave_skipped()
            return start
        elif heading in words.labels or names_findings(heading):
            self._leave_skipped()
            return start + body if heading in words.labels and not names_findings(heading) else start
        else:
            self.begin(heading)
        return start + body

    def begin(self, heading: str) -> None:
        """Begin a section."""
        self.name, self.is_skipped = heading, heading in word_list().skipped
        self._has_body = self._one_line = False

    def note_body(self) -> None:
        """Say that the skipped section has text, so that an empty line ends it."""
        self._has_body = True

    def note_empty_line(self) -> None:
        """End a skipped section that has had its text."""
        if self._has_body:
            self._leave_skipped()

    def end_line(self) -> None:
        """End a section that has no colon ("Indication chest pain"): it is one line."""
        if self._one_line:
            self._leave_skipped()

    def _leave_skipped(self) -> None:
        if self.is_skipped:
            self.begin("")


def _plain(heading: str) -> str:
    return " ".join(heading.lower().rstrip(" :").split())


@cache
def _replacing() -> re.Pattern[str]:
    names = "|".join(sorted(word_list().replacing, key=len, reverse=True))
    return re.compile(rf"[ \t]*({names})\b[ \t]*(?:#?\d[^:\n]*)?(?:\([^)\n]*\))?[ \t]*[:.-]*[ \t]*", re.IGNORECASE)


@cache
def _pattern_without_colon() -> re.Pattern[str]:
    names = (
        "indications?|clinical (?:history|details|information|indications?|data|question|summary)|history|hx"
        "|reason for [a-z]+"
    )
    return re.compile(rf"[ \t]*({names}){_NO_HEADING}\b[ \t.-]+(?=\S)", re.IGNORECASE)


@cache
def _capital_headings() -> re.Pattern[str]:
    words = word_list()
    names = sorted(words.skipped | words.deciding | words.replacing | {"findings", "report"}, key=len, reverse=True)
    chosen = "|".join(re.escape(name.upper()) for name in names if len(name) > 5)
    return re.compile(rf"\b({chosen})\b[ \t]*:?[ \t]*(?=[A-Z?][a-z ]|\d|\n|$)")
