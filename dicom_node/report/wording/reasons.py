"""The analysis' own English sentences in the report's language, without the names of DICOM attributes.

Rules and index speak English and name the attributes that they decided on. A sentence is recognised by the English
catalogue's template (section [reason_text]) and said by the same template of the report's language, or by the one of
[reason_plain], which names no attribute; what fills its places likewise; one without a template stays. The names stand
under Limitations (`header_statements`).
"""

from __future__ import annotations

import re
from functools import cache

from pydicom.datadict import tag_for_keyword

from dicom_node.report.wording.catalogue import DEFAULT_LANGUAGE, Catalogue, catalogue

_SECTION = "reason_text."
_PLAIN_SECTION = "reason_plain."
STAMP = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})(?: (\d{2}:\d{2}))?\b")
"""A date in the analysis' sentences, with its time of day where that is known."""
_SAYS = re.compile(r"(?P<element>[A-Z]\w+) says (?P<what>'[^']*'|[^;]+)")
_STATED = re.compile(r"\b([A-Z]\w+) (?:says )?('[^']*'|[^;.)]+)")
_IN_BRACKETS = re.compile(r" \([A-Z][a-z]+(?:[A-Z][a-z]+){2,}\)")
"""An attribute that is named in brackets as the source, such as "(AcquisitionDeviceProcessingDescription)"."""
_CAMEL_CASE = re.compile(r"\b[A-Z][a-z]+(?:[A-Z]+[a-z]*)+\b")
_LIST = re.compile(r", | and (?!issuer)")
_SENTENCES = re.compile(r"\. (?=Image |The image )")
_OUTSIDE_BRACKETS = re.compile(r"; (?![^(]*\))")


def in_language(text: str, words: Catalogue) -> str:
    """The sentence, or the clause, in the language of `words`."""
    text = _IN_BRACKETS.sub("", text)
    if not text:
        return text
    if len(sentences := _SENTENCES.split(text.removesuffix("."))) > 1:
        return ". ".join(in_language(sentence, words) for sentence in sentences) + "."
    # The sentences are built in English deeper down; each is matched against the English catalogue, its places
    # translated the same way, and put into the other language.
    for key, pattern in _patterns():
        if match := pattern.fullmatch(text):
            places = {name: in_language(value, words) for name, value in match.groupdict().items()}
            plain = key.replace(_SECTION, _PLAIN_SECTION, 1)
            return words.text(plain if plain in words.messages else key, **places)
    if date := STAMP.fullmatch(text):
        return _date(date, words)
    clauses = _OUTSIDE_BRACKETS.split(text)
    if len(clauses) > 1 or _SAYS.fullmatch(text):
        return "; ".join(_clauses(clauses, words))
    listed = _LIST.split(text)
    translated = [in_language(part, words) for part in listed] if len(listed) > 1 else listed
    return (
        # A list of which a part has no translation is left as it is: half a sentence in each language reads worse.
        words.join(translated) if all(now != before for now, before in zip(translated, listed, strict=True)) else text
    )


def names_attributes(text: str) -> bool:
    """Tell whether the text names a DICOM attribute by its keyword."""
    return any(tag_for_keyword(word) is not None for word in _CAMEL_CASE.findall(text))


def header_statements(text: str) -> list[str]:
    """The header's elements in the analysis' sentence, "BodyPartExamined KNEE" each, in its order."""
    stated = [(name, value) for name, value in _STATED.findall(text) if names_attributes(name)]
    return list(dict.fromkeys(f"{name} {value.strip()}" for name, value in stated))


def _clauses(clauses: list[str], words: Catalogue) -> list[str]:
    """Each clause in this language; all that elements of the header say is one clause."""
    stated = [match["what"] for clause in clauses if (match := _SAYS.fullmatch(clause))]
    clauses_said: list[str] = []
    for clause in clauses:
        if not _SAYS.fullmatch(clause):
            clauses_said.append(in_language(clause, words))
        elif stated:
            clauses_said.append(words.text(f"{_PLAIN_SECTION}says", what=words.join(list(dict.fromkeys(stated)))))
            stated = []
    return clauses_said


_PLAIN = "[^;]+"
_HELD = {"why": ".+", "when": r"[\d: -]+|unknown date", "number": r"\d+", "count": r"\d+"}
"""Places that may hold several clauses, and those that hold no words; the others hold one clause."""


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """(key, pattern) of each English template, the one with the most words of its own first."""
    english = catalogue(DEFAULT_LANGUAGE).messages
    patterns = []
    for key in (key for key in english if key.startswith(_SECTION)):
        parts = re.split(r"\{(\w+)\}", english[key])
        pattern = "".join(
            re.escape(part) if n % 2 == 0 else f"(?P<{part}>{_HELD.get(part, _PLAIN)})" for n, part in enumerate(parts)
        )
        # The longest fixed text wins: a short template with wide places would match almost anything.
        patterns.append((sum(map(len, parts[::2])), key, re.compile(pattern, re.DOTALL)))
    return tuple((key, pattern) for _, key, pattern in sorted(patterns, key=lambda item: -item[0]))


def _date(found: re.Match[str], words: Catalogue) -> str:
    year, month, day, time = found.groups()
    date = words.text("date", day=int(day), month=words.messages[f"month.{int(month)}"], year=int(year))
    return words.text("date_time", date=date, time=time) if time else date
