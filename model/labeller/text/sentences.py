"""A report's text as sentences with the heading that they stand under; headings such as "history" are left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from model.labeller.text.headings import TextSection, is_heading_of_findings, line_heading, next_inline_heading
from model.labeller.text.plain_text import plain_text

MAX_CHARACTERS = 100_000
"""More of a report is not read."""
MAX_SENTENCE = 1000
"""Longer ones are read in pieces: nobody writes them, and the time for a sentence grows with its square."""

_ITEM = re.compile(r"(?:^|(?<=[\s.;]))[#(]?\d{1,2}[.)](?=[ \t]*[A-Z?])")
_ITEM_AT_START = re.compile(r"[ \t]*[#(]?\d{1,2}[.)][ \t]*(?=[A-Za-z?])")
_BULLET = re.compile(r"[ \t]*(?:[-–—*•●▪◦·>+o‣→]|--)[ \t]+(?=\S)|[ \t]*[-–*•●▪◦·](?=[A-Za-z?])(?!-ve\b)(?!(?<=-)ve\b)")
_ABBREVIATIONS = re.compile(
    "rt|lt|bilat|sig|mod|sm|resp|pl|ant|post|lat|max|min|est|prob|poss|prev|incr|decr|unch|pulm|card|vasc|sup|inf|med|sev"
    "|neg|pos|ext|int"
)
_NEVER_LAST = frozenset(("dr", "mr", "mrs", "ms", "vs", "approx", "cf", "e.g", "i.e", "st", "prof", "fig"))
_VALUE = re.compile(r"\s*(?:no|yes|none|nil|n|y)\b[ \t]*(?:[.,;\n]|$)", re.IGNORECASE)
_GOES_ON = re.compile(
    r"(?:which|that|and|or|nor|with|without|is|are|was|were|has|have|had|in|at|of|on|to|from|but|since|as|than|by|for|the"
    r"|compatible|consistent|likely|seen|noted|over|within|due)\b"
)
_OPEN_END = re.compile(
    r"(?:,|\b(?:which|that|and|or|nor|with|without|is|are|was|were|has|have|had|in|at|of|on|to|from|since|as|than|by|for|the"
    r"|a|an|no|not|be|been|may|could|there))\s*$",
    re.IGNORECASE,
)
_IS_VALUE = re.compile(r"[:=-]\s*\w+$")
_ADJECTIVE_END = re.compile(
    r"\b(?:left|right|bilateral|small|moderate|large|mild|severe|new|stable|increased|decreased|worsening|pleural"
    r"|lower|upper|middle|pulmonary|likely|possible|probable|interval|evidence|focal)\s*$",
    re.IGNORECASE,
)
_FULL_LINE, _LONG_LINE = 45, 60
"""A line of at least so many characters may be one that was wrapped; a shorter one was ended by its author."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One sentence. raw: its characters from `start` of the plain text on. section: its heading in lower case."""

    raw: str
    start: int = 0
    section: str = ""

    @property
    def text(self) -> str:
        """The sentence on one line."""
        return " ".join(self.raw.split())


def sentences(text: str) -> list[Sentence]:
    """Return the sentences that may state findings, in order; `start` counts in `plain_text(text)`.

    Wrapped lines are one sentence; a line that its author ended, a bullet and a numbered item are sentences.
    """
    return list(_sentences(plain_text(text[:MAX_CHARACTERS])))


def _sentences(text: str) -> Iterator[Sentence]:
    section = TextSection()
    for start, end in _paragraphs(text):
        if not text[start:end].strip():
            section.note_empty_line()
            continue
        bullet = _BULLET.match(text, start, end) or _ITEM_AT_START.match(text, start, end)
        begin = section.enter(text, bullet.end() if bullet else start, end)
        for first, last in _blocks_between_headings(text, begin, end, section):
            if section.is_skipped:
                section.note_body()
                continue
            for sentence in _split(text, first, last):
                yield Sentence(raw=text[sentence[0] : sentence[1]], start=sentence[0], section=section.name)
        section.end_line()


def _blocks_between_headings(text: str, start: int, end: int, section: TextSection) -> Iterator[tuple[int, int]]:
    """Yield the stretches between headings that stand inside a line ("… known COPD. Report: The lungs are clear.")."""
    position = start
    while position < end:
        heading = next_inline_heading(text, position, end)
        stop = heading[0] if heading else end
        if text[position:stop].strip():
            yield position, stop
        if not heading:
            return
        position = heading[1]
        section.begin(heading[2])


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Yield each line, joined with those that it was wrapped into."""
    lines = [(match.start(), match.end()) for match in re.finditer(r"[^\n]*(?:\n|$)", text) if match[0]]
    widest = max((end - start for start, end in lines), default=0)
    number = 0
    while number < len(lines):
        start, end = lines[number]
        while number + 1 < len(lines) and _is_wrapped(text, lines[number], lines[number + 1], widest):
            number += 1
            end = lines[number][1]
        yield start, end
        number += 1


def _is_wrapped(text: str, line: tuple[int, int], following: tuple[int, int], widest: int) -> bool:
    """Return whether a sentence of one line goes on in the next."""
    this, after = text[line[0] : line[1]].strip(), text[following[0] : following[1]].strip()
    if not this or not after or this[-1] in ".:;!?" or _BULLET.match(after) or _ITEM_AT_START.match(after):
        return False
    heading = line_heading(this)
    if (heading is not None and heading[1] >= len(this)) or line_heading(after) is not None:
        return False
    # A small letter alone is no proof: many reports have one finding a line, in small letters, without a full stop.
    if after[0].islower():
        ends_open = (_OPEN_END.search(this) or _ADJECTIVE_END.search(this)) and not _IS_VALUE.search(this)
        return len(this) >= _FULL_LINE or _GOES_ON.match(after) is not None or bool(ends_open)
    if _OPEN_END.search(this) and not _IS_VALUE.search(this) and not is_heading_of_findings(after):
        return True
    # In capitals the letters tell nothing: a line nearly as long as the widest one was broken by its width.
    return this.isupper() and len(this) >= max(_LONG_LINE, widest - 15)


def _split(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each sentence of a paragraph."""
    bullet = _BULLET.match(text, start, end) or _ITEM_AT_START.match(text, start, end)
    position = bullet.end() if bullet else start
    stops = [(match.start(), match.end()) for match in _ITEM.finditer(text, position, end)]
    stops += [
        # Searched up to the end and not cut before: a pattern that looks ahead must see what follows.
        (match.start(), match.end())
        for match in re.finditer(r"[.!]+|\?+", text[:end])
        if match.start() >= position
    ]
    for stop, after in sorted(stops):
        if stop < position or (text[stop] in ".!?" and not _ends_sentence(text, stop, after, end)):
            continue
        yield from _trim(text, position, stop + 1 if text[stop] == "?" else stop)
        position = after
    yield from _trim(text, position, end)


def _ends_sentence(text: str, stop: int, after: int, end: int) -> bool:
    """Return whether the mark at `stop` ends a sentence, with or without a blank behind it."""
    before, behind = text[max(0, stop - 12) : stop], text[after : after + 3] if after < end else ""
    word = re.split(r"[\s,;:(/]", before)[-1].lower()
    if text[stop] == "?":
        return (
            bool(word)
            and text[stop - 1] not in ".!"
            and (not behind or behind[0].isspace())
            and not _VALUE.match(text, after, end)
        )
    if after - stop > 1 and _VALUE.match(text, after, end):
        return False  # "Pneumothorax ... no"
    if not behind.strip():
        return True
    if word in _NEVER_LAST or (len(word) == 1 and word.isalpha() and not behind[0].isspace()):
        return False
    if behind[0].isspace():
        following = text[after:end].lstrip()
        return not (_ABBREVIATIONS.fullmatch(word) and following[:1].islower())
    # "5.2 cm" is one number; "at the base.2. No effusion" begins the next item.
    if behind[0].isdigit():
        return bool(word) and not word[-1].isdigit() and re.match(r"\d{1,2}[.)]", text[after : after + 3]) is not None
    if behind[0].isalpha():
        return behind[0].isupper() or (len(word) > 3 and word.isalpha() and behind[:2].isalpha())
    return True


def _trim(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretch without blanks at its ends, in pieces of at most MAX_SENTENCE, if it holds a word."""
    while start < end and (text[start].isspace() or text[start] in "*•"):
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    # A text without any stop must not make the rules slow: they look at pairs of words.
    while end - start > MAX_SENTENCE:
        cut = text.rfind(" ", start + 1, start + MAX_SENTENCE)
        cut = cut if cut > start else start + MAX_SENTENCE
        yield start, cut
        start = cut
    if re.search("[A-Za-z]", text[start:end]):
        yield start, end
