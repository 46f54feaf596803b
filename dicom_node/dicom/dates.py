"""Dates and times of DICOM text as plain digits (PS3.5 section 6.2: DA and TM)."""

from __future__ import annotations

import re

_DATE = re.compile(r"(\d{4})[.\-/]?(\d{2})[.\-/]?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(?:(\d{2}):?(?:(\d{2})(?:\.(\d{1,6}))?)?)?")


def normalise_date(text: str) -> str:
    """YYYYMMDD of a DA (also 1999.12.31 and 1999-12-31, which old and careless peers send), or ""."""
    match = _DATE.match(text.strip())
    if match is None:
        return ""
    year, month, day = match.groups()
    valid = year != "0000" and 1 <= int(month) <= 12 and 1 <= int(day) <= _days(int(year), int(month))
    return year + month + day if valid else ""


def normalise_time(text: str) -> str:
    """HHMMSS.FFFFFF of a TM (also HH:MM:SS), missing parts as zeros, or ""."""
    match = _TIME.match(text.strip())
    if match is None:
        return ""
    hour, minute, second, fraction = (part or "" for part in match.groups())
    # 60 is a leap second (PS3.5 table 6.2-1).
    if int(hour) > 23 or int(minute or 0) > 59 or int(second or 0) > 60:
        return ""
    return f"{hour}{minute or '00'}{second or '00'}.{fraction:0<6}"


def _days(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31
