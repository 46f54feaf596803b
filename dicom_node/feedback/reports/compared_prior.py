"""With which earlier film a report compares, where it gives a date: changes since another are no labels of our pair."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator

_SPAN = re.compile(
    r"comparisons?[^.\n]{0,40}?:[ \t]*\n?([^\n]{0,200})"  # a heading and its line
    r"|compar(?:ed|ison)\b([^.\n]{0,80}(?:\.\d[^.\n]{0,20}){0,2})",  # in running text; 1.2.2026 goes on after its stops
    re.IGNORECASE,
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"({'|'.join(_MONTHS)})[a-z]*\.?"
_ISO = re.compile(r"\b(?P<y>\d{4})-(?P<a>\d{1,2})-(?P<b>\d{1,2})\b")
_DATES = (
    _ISO,
    re.compile(r"\b(?P<a>\d{1,2})[/.-](?P<b>\d{1,2})[/.-](?P<y>\d{4}|\d{2})\b"),
)
_WRITTEN = (
    re.compile(rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)?[ -]{_MONTH}[ ,-]+(?P<y>\d{{4}})\b", re.IGNORECASE),
    re.compile(rf"\b{_MONTH} (?P<d>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<y>\d{{4}})\b", re.IGNORECASE),
)


def is_of_pair(text: str, prior_date: str) -> bool:
    """Tell whether the report's change may be the change since the film of `prior_date` (DA).

    True where the report gives no date of its comparison, or ours is among those that it gives. A date such as 3/4/2026
    counts in both readings.
    """
    given = dates_of_comparison(text)
    return not given or prior_date in given


def dates_of_comparison(text: str) -> frozenset[str]:
    """Every date (DA) that the report may mean where it says with what it compares."""
    spans = [match[1] or match[2] or "" for match in _SPAN.finditer(text)]
    return frozenset(date for span in spans for date in _dates(span))


def _dates(span: str) -> Iterator[str]:
    for pattern in _DATES:
        for match in pattern.finditer(span):
            year, first, second = int(match["y"]), int(match["a"]), int(match["b"])
            # Both orders, where the writing is not ISO: the wrong one is in most cases no prior's date, and then names
            # no film.
            for month, day in ((first, second), (second, first)) if pattern is not _ISO else ((first, second),):
                yield from _date(year if year > 99 else 2000 + year, month, day)
    for pattern in _WRITTEN:
        for match in pattern.finditer(span):
            name = next(word[:3].lower() for word in match.groups() if word and word[:3].lower() in _MONTHS)
            yield from _date(int(match["y"]), _MONTHS.index(name) + 1, int(match["d"]))


def _date(year: int, month: int, day: int) -> Iterator[str]:
    try:
        yield dt.date(year, month, day).strftime("%Y%m%d")
    except ValueError:
        return
