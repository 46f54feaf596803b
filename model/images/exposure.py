"""When an image was taken, read from its header: the one reading that choice, report and display image share."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

_DATE = re.compile(r"(\d{4})[.\-/]?(\d{2})[.\-/]?(\d{2})", re.ASCII)
"""DA; the dots are ACR-NEMA's (PS3.5 section 6.2), dashes and slashes are other people's mistakes."""
_TIME = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6}))?", re.ASCII)
_ZONE = re.compile(r"([+-])(0\d|1[0-4])([0-5]\d)", re.ASCII)
_FIRST_YEAR = 1895
"""No radiograph is older than Röntgen's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Date and time of an exposure.

    moment: naive, as the modality's clock showed it; midnight where only the date is known. time_known: whether it is.
    zone: what that clock is ahead of UTC, where the header says it (in the DT itself, else TimezoneOffsetFromUTC).
    """

    moment: dt.datetime
    time_known: bool
    zone: dt.timedelta | None = None


def exposure_of(ds: Dataset) -> Exposure | None:
    """The first valid date with its own time: AcquisitionDateTime, Acquisition-, Content-, Series-, StudyDate.

    None without a date. Never raises.
    """
    header_zone = _zone(_text(ds, "TimezoneOffsetFromUTC"))
    combined = _text(ds, "AcquisitionDateTime")
    if date := da(combined[:8]):
        # A DT may end with its clock's offset from UTC, as +0100 (PS3.5 section 6.2).
        time = tm(re.split(r"[+-]", combined[8:])[0])
        own_zone = _zone(combined[-5:]) if len(combined) > 12 else None
        return _exposure(date, time, own_zone if own_zone is not None else header_zone)
    for stem in ("Acquisition", "Content", "Series", "Study"):
        if date := da(_text(ds, f"{stem}Date")):
            return _exposure(date, tm(_text(ds, f"{stem}Time")), header_zone)
    return None


def da(value: str) -> str:
    """A DA value as eight digits; "" where it is no date of the age of X-rays."""
    match = _DATE.fullmatch(value.strip())
    if match is None:
        return ""
    year, month, day = (int(part) for part in match.groups())
    try:
        dt.date(year, month, day)
    except ValueError:
        return ""
    # Birth dates of 1800-01-01 are placeholders of some information systems.
    return f"{year:04}{month:02}{day:02}" if year >= _FIRST_YEAR - 25 else ""


def tm(value: str) -> str:
    """A TM value as HHMMSS.FFFFFF; "" where it is no time. Leap seconds are cut to 59."""
    match = _TIME.fullmatch(value.strip())
    if match is None:
        return ""
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    if hour > 23 or minute > 59 or second > 60:
        return ""
    # Padded to six digits of a fraction, so that times compare as text.
    return f"{hour:02}{minute:02}{min(second, 59):02}.{(match.group(4) or ''):0<6}"


def moment_of(date: str, time: str) -> dt.datetime:
    """The moment of `da` and `tm`, naive; midnight where `time` is ""."""
    return dt.datetime.strptime(f"{date}{time or '000000.000000'}", "%Y%m%d%H%M%S.%f")  # noqa: DTZ007 - DICOM local time


def _exposure(date: str, time: str, zone: dt.timedelta | None) -> Exposure:
    return Exposure(moment=moment_of(date, time), time_known=bool(time), zone=zone)


def _zone(value: str) -> dt.timedelta | None:
    match = _ZONE.fullmatch(value)
    if match is None:
        return None
    sign, hours, minutes = match.groups()
    ahead = dt.timedelta(hours=int(hours), minutes=int(minutes))
    return -ahead if sign == "-" else ahead


def _text(ds: Dataset, keyword: str) -> str:
    """An element's first value as text; "" where missing, empty or unreadable."""
    try:
        value = ds[keyword].value if keyword in ds else None
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, NotImplementedError, LookupError):
        return ""
    if isinstance(value, MultiValue):
        value = value[0] if value else ""
    return "" if value is None else str(value).strip().strip("\0").strip()
