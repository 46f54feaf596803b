"""The analysis' own English sentences in the report's language.

Rules and index speak English. A sentence is recognised by the English catalogue's template (section [reason_text]) and
said by the same template of the report's language, what fills its places likewise; one without a template stays.
"""

from __future__ import annotations

import re
from functools import cache

from dicom_node.report.wording.catalogue import DEFAULT_LANGUAGE, Catalogue, catalogue

_SECTION = "reason_text."
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?: (\d{2}:\d{2}))?")
_LIST = re.compile(r", | and (?!issuer)")
_SENTENCES = re.compile(r"\. (?=Image |The image )")
_OUTSIDE_BRACKETS = re.compile(r"; (?![^(]*\))")


def in_language(text: str, words: Catalogue) -> str:
    """The sentence, or the clause, in the language of `words`."""
    if words.language == DEFAULT_LANGUAGE or not text:
        return text
    if len(sentences := _SENTENCES.split(text.removesuffix("."))) > 1:
        return ". ".join(in_language(one, words) for one in sentences) + "."
    for key, pattern in _patterns():
        if found := pattern.fullmatch(text):
            places = {name: in_language(value, words) for name, value in found.groupdict().items()}
            return words.text(key, **places)
    if date := _DATE.fullmatch(text):
        return _date(date, words)
    if len(clauses := _OUTSIDE_BRACKETS.split(text)) > 1:
        return "; ".join(in_language(one, words) for one in clauses)
    listed = _LIST.split(text)
    said = [in_language(one, words) for one in listed] if len(listed) > 1 else listed
    return words.join(said) if all(now != was for now, was in zip(said, listed, strict=True)) else text


_PLAIN = "[^;]+"
_HELD = {"why": ".+", "when": r"[\d: -]+|unknown date", "number": r"\d+", "count": r"\d+"}
"""Places that may hold several clauses, and those that hold no words; the others hold one clause."""


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """(key, pattern) of each English template, the one with the most words of its own first."""
    english = catalogue(DEFAULT_LANGUAGE).messages
    made = []
    for key in (key for key in english if key.startswith(_SECTION)):
        parts = re.split(r"\{(\w+)\}", english[key])
        pattern = "".join(
            re.escape(part) if n % 2 == 0 else f"(?P<{part}>{_HELD.get(part, _PLAIN)})" for n, part in enumerate(parts)
        )
        made.append((sum(map(len, parts[::2])), key, re.compile(pattern, re.DOTALL)))
    return tuple((key, pattern) for _, key, pattern in sorted(made, key=lambda item: -item[0]))


def _date(found: re.Match[str], words: Catalogue) -> str:
    year, month, day, time = found.groups()
    date = words.text("date", day=int(day), month=words.messages[f"month.{int(month)}"], year=int(year))
    return words.text("date_time", date=date, time=time) if time else date
