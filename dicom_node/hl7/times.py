"""Time stamps of HL7 v2 (data type TS, v2.5.1 section 2.A.77) as local time with the zone where it is stated."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

_TS = re.compile(r"(\d{8})(?:(\d{4})(\d{2})?)?(?:\.\d{1,4})?([+-]\d{4})?")
FORM = "%Y%m%d%H%M%S"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockTime:
    """The time that a clock showed. zone: minutes ahead of UTC, None where nobody stated it."""

    local: dt.datetime
    zone: int | None = None

    @property
    def text(self) -> str:
        """14 digits, which sort as text."""
        return self.local.strftime(FORM)

    def is_after(self, other: ClockTime) -> bool:
        """Compare in UTC where both state their zone, else as the clocks of one hospital."""
        if self.zone is None or other.zone is None:
            return self.local > other.local
        return self._utc > other._utc

    def since(self, other: ClockTime) -> dt.timedelta:
        """The time since `other`, on the same clock as `is_after`."""
        if self.zone is None or other.zone is None:
            return self.local - other.local
        return self._utc - other._utc

    @property
    def _utc(self) -> dt.datetime:
        return self.local - dt.timedelta(minutes=self.zone or 0)


def clock_time(text: str) -> ClockTime | None:
    """Read a time stamp; of a date alone the end of the day, so that nothing is known too early. None for any other."""
    match = _TS.fullmatch(text.strip())
    if match is None:
        return None
    date, minutes, seconds, zone = match.groups()
    time = f"{minutes}{seconds or '00'}" if minutes else "235959"
    try:
        local = dt.datetime.strptime(date + time, FORM)  # noqa: DTZ007 - a clock's time, its zone stands beside it
        ahead = None if zone is None else _minutes(zone)
    except ValueError:
        return None
    return ClockTime(local=local, zone=ahead)


def from_text(text: str, zone: int | None) -> ClockTime | None:
    """Make the time again that `ClockTime.text` wrote; None for ""."""
    if not text:
        return None
    return ClockTime(local=dt.datetime.strptime(text, FORM), zone=zone)  # noqa: DTZ007 - as above


def _minutes(zone: str) -> int:
    hours, minutes = int(zone[1:3]), int(zone[3:])
    if hours > 14 or minutes > 59:
        raise ValueError(f"{zone} is no zone")
    return (-1 if zone[0] == "-" else 1) * (hours * 60 + minutes)
