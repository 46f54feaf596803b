"""Windows of the week in local time, such as "mon-fri 01:00-05:00", as moments in UTC. Pure: the clock is passed in.

A window's ends are wall-clock times of its own date. An hour that the clock shows twice (autumn) counts the first
time; a time that the clock skips (spring) is taken as if it had not been skipped, an hour later on the new clock
(PEP 495, fold 0 in both). So every date of the schedule has exactly one window, and none is empty.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM = re.compile(r"(?:(?P<days>\S+)\s+)?(?P<begin>\d\d:\d\d)-(?P<end>\d\d:\d\d)")
ALLOWED = 'HH:MM-HH:MM, with days before it if not all: "01:00-05:00", "mon-fri 22:00-05:00", "sat,sun 00:00-24:00"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """days: of the window's begin, Monday is 0. end: of the next day where it is not after `begin`."""

    days: frozenset[int]
    begin: dt.time
    end: dt.time


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeWindow:
    """One window: [begins_at, ends_at) in UTC."""

    begins_at: dt.datetime
    ends_at: dt.datetime


def zone_of(name: str) -> dt.tzinfo | None:
    """The time zone of this IANA name; None, the machine's own, for ""."""
    return ZoneInfo(name) if name else None


def parse_schedule(text: str) -> Schedule:
    """Read a schedule. Raises ValueError naming what is allowed."""
    match = _FORM.fullmatch(text.strip().lower())
    if match is None or match["begin"] == "24:00":
        raise ValueError(f"{text!r} is no schedule; allowed is {ALLOWED}")
    begin, end = _time(match["begin"], text), _time(match["end"], text)
    if match["begin"] == match["end"]:
        raise ValueError(f"{text!r}: a window that ends when it begins is empty; a whole day is 00:00-24:00")
    return Schedule(days=_days(match["days"], text), begin=begin, end=end)


def window_at(schedule: Schedule, now: dt.datetime, zone: dt.tzinfo | None) -> TimeWindow | None:
    """The window that `now` (aware) lies in. zone: None is the machine's own."""
    today = now.astimezone(zone).date()
    for days_back in (0, 1):  # one that began yesterday may still run
        window = _window_of(schedule, today - dt.timedelta(days=days_back), zone)
        if window is not None and window.begins_at <= now < window.ends_at:
            return window
    return None


def next_window(schedule: Schedule, now: dt.datetime, zone: dt.tzinfo | None) -> TimeWindow:
    """The first window that begins after `now` (aware)."""
    today = now.astimezone(zone).date()
    for days_ahead in range(-1, 9):
        window = _window_of(schedule, today + dt.timedelta(days=days_ahead), zone)
        if window is not None and window.begins_at > now:
            return window
    raise AssertionError("a schedule names at least one day of the week")


def _window_of(schedule: Schedule, date: dt.date, zone: dt.tzinfo | None) -> TimeWindow | None:
    if date.weekday() not in schedule.days:
        return None
    last = date if schedule.end > schedule.begin else date + dt.timedelta(days=1)
    return TimeWindow(begins_at=_utc(date, schedule.begin, zone), ends_at=_utc(last, schedule.end, zone))


def _utc(date: dt.date, time: dt.time, zone: dt.tzinfo | None) -> dt.datetime:
    wall = dt.datetime.combine(date, time, tzinfo=zone)
    return wall.astimezone(dt.UTC)  # a naive value is taken as the machine's local time


def _time(text: str, whole: str) -> dt.time:
    if text == "24:00":
        return dt.time(0, 0)
    try:
        return dt.time.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{whole!r}: {text} is no time of day; allowed is {ALLOWED}") from None


def _days(text: str | None, whole: str) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last and last not in DAYS):
            raise ValueError(f"{whole!r}: days are {', '.join(DAYS)}, single, in a list or as a range (mon-fri)")
        start, stop = DAYS.index(first), DAYS.index(last or first)
        days.update((start + n) % 7 for n in range((stop - start) % 7 + 1))
    return frozenset(days)
