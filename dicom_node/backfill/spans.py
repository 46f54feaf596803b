"""Spans of dates and times that an archive is asked for, and how one is halved where the archive limits its answers."""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

MIN_SECONDS = 60
"""A span of time this short is not halved: what it lists too much of is told to a person."""
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Span:
    """Some days, or some hours of one day. Dates are DA, times HHMMSS; "" is the day's begin or end."""

    first_date: str
    last_date: str
    first_time: str = ""
    last_time: str = ""

    @property
    def dates(self) -> str:
        """The value of StudyDate in a query (PS3.4 section C.2.2.2.5)."""
        return self.first_date if self.first_date == self.last_date else f"{self.first_date}-{self.last_date}"

    @property
    def times(self) -> str:
        """The value of StudyTime in a query, "" for any.

        Halves meet in one second that both ask for, and the last is open: some archives compare times as text and
        would lose 23:59:59.5 behind an end of 235959.
        """
        return f"{self.first_time}-{self.last_time}" if self.first_time or self.last_time else ""

    def holds(self, date: str, time: str) -> bool:
        """Tell whether a study of this date and time may be an answer; what it leaves unsaid is no objection."""
        if date and not self.first_date <= date <= self.last_date:
            return False
        # A time may carry a fraction of a second; spans end at whole ones.
        second = time[:6]
        return not second or (self.first_time <= second and (not self.last_time or second <= self.last_time))

    def halves(self) -> tuple[Span, Span] | None:
        """The earlier and the later half: by days, then by time; None where it is too short to be halved."""
        if self.first_date != self.last_date:
            first, last = _date(self.first_date), _date(self.last_date)
            middle = first + (last - first) // 2
            return (
                Span(first_date=self.first_date, last_date=f"{middle:%Y%m%d}"),
                Span(first_date=f"{middle + dt.timedelta(days=1):%Y%m%d}", last_date=self.last_date),
            )
        # One day is halved by its times; "" is its beginning or its end.
        begin = _seconds(self.first_time) if self.first_time else 0
        end = _seconds(self.last_time) if self.last_time else _DAY_SECONDS
        if end - begin <= MIN_SECONDS:
            return None
        middle_time = _time((begin + end) // 2)
        day = {"first_date": self.first_date, "last_date": self.last_date}
        return (
            Span(**day, first_time=self.first_time, last_time=middle_time),
            Span(**day, first_time=middle_time, last_time=self.last_time),
        )


def months(first: dt.date, last: dt.date) -> Iterator[Span]:
    """The calendar months from one date to another, the first and last cut to them."""
    begin = first
    while begin <= last:
        end = min(begin.replace(day=calendar.monthrange(begin.year, begin.month)[1]), last)
        yield Span(first_date=f"{begin:%Y%m%d}", last_date=f"{end:%Y%m%d}")
        begin = end + dt.timedelta(days=1)


def _date(value: str) -> dt.date:
    return dt.date(int(value[:4]), int(value[4:6]), int(value[6:8]))


def _seconds(value: str) -> int:
    return int(value[:2]) * 3600 + int(value[2:4]) * 60 + int(value[4:6])


def _time(seconds: int) -> str:
    return f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
