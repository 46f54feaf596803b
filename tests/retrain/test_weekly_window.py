"""Windows of the schedule: real moments over changes of the clock, one for each date, none empty."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.config import RetrainSection
from dicom_node.weekly_window import DAYS, next_window, parse_schedule, window_at

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC")
HOUR = dt.timedelta(hours=1)


def _utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[misc,arg-type]


def test_a_window_begins_and_ends_at_the_walls_time() -> None:
    schedule = parse_schedule("mon-fri 01:00-05:00")
    window = window_at(schedule, _utc(2026, 3, 4, 2, 0), BERLIN)  # a Wednesday, 03:00 there
    assert window is not None
    assert (window.begins_at, window.ends_at) == (_utc(2026, 3, 4, 0, 0), _utc(2026, 3, 4, 4, 0))
    assert window_at(schedule, window.begins_at, BERLIN) == window
    assert window_at(schedule, window.ends_at, BERLIN) is None
    assert window_at(schedule, _utc(2026, 3, 7, 2, 0), BERLIN) is None, "a Saturday"


def test_over_midnight_the_day_is_that_of_the_begin() -> None:
    schedule = parse_schedule("fri 22:00-05:00")
    window = window_at(schedule, _utc(2026, 3, 7, 3, 0), BERLIN)  # Saturday, 04:00
    assert window is not None
    assert window.begins_at == _utc(2026, 3, 6, 21, 0)
    assert window_at(schedule, _utc(2026, 3, 8, 3, 0), BERLIN) is None


def test_spring_takes_an_hour_and_autumn_gives_one() -> None:
    schedule = parse_schedule("01:00-05:00")
    spring = window_at(schedule, _utc(2026, 3, 29, 0, 30), BERLIN)  # 02:00 becomes 03:00
    autumn = window_at(schedule, _utc(2026, 10, 25, 1, 30), BERLIN)  # 03:00 becomes 02:00
    assert spring is not None
    assert autumn is not None
    assert spring.ends_at - spring.begins_at == 3 * HOUR
    assert autumn.ends_at - autumn.begins_at == 5 * HOUR


def test_times_that_the_clock_skips_or_shows_twice() -> None:
    schedule = parse_schedule("02:15-02:45")
    skipped = next_window(schedule, _utc(2026, 3, 28, 12), BERLIN)
    assert (skipped.begins_at, skipped.ends_at) == (_utc(2026, 3, 29, 1, 15), _utc(2026, 3, 29, 1, 45))
    twice = next_window(schedule, _utc(2026, 10, 24, 12), BERLIN)
    assert (twice.begins_at, twice.ends_at) == (_utc(2026, 10, 25, 0, 15), _utc(2026, 10, 25, 0, 45))
    assert next_window(schedule, twice.begins_at, BERLIN).begins_at == _utc(2026, 10, 26, 1, 15), "not a second time"


schedules = st.builds(
    lambda days, begin, minutes: (
        f"{','.join(sorted(days))} {begin // 60:02d}:{begin % 60:02d}-"
        f"{(begin + minutes) % 1440 // 60:02d}:{(begin + minutes) % 1440 % 60:02d}"
    ),
    st.sets(st.sampled_from(DAYS), min_size=1),
    st.integers(0, 1439),
    st.integers(61, 1439),
)
moments = st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2035, 1, 1)).map(lambda m: m.replace(tzinfo=dt.UTC))  # noqa: DTZ001


@given(schedules, moments, st.sampled_from(ZONES))
def test_the_next_window_is_one_that_holds_its_own_begin(text: str, now: dt.datetime, name: str) -> None:
    schedule, zone = parse_schedule(text), ZoneInfo(name)
    window = next_window(schedule, now, zone)
    assert now < window.begins_at < window.ends_at
    assert window_at(schedule, window.begins_at, zone) is not None
    assert window.begins_at.astimezone(zone).date().weekday() in schedule.days
    open_now = window_at(schedule, now, zone)
    if open_now is not None:
        assert open_now.begins_at <= now < open_now.ends_at
        nominal = (
            dt.datetime.combine(dt.date(2020, 1, 2), schedule.end)
            - dt.datetime.combine(dt.date(2020, 1, 1), schedule.begin)
        ) % dt.timedelta(days=1)
        assert abs((open_now.ends_at - open_now.begins_at) - nominal) <= HOUR


@pytest.mark.parametrize(
    "text",
    ["", "1:00-5:00", "25:00-26:00", "01:00-01:00", "holiday 01:00-05:00", "24:00-05:00", "01:00", "mon- 01:00-02:00x"],
)
def test_what_is_no_schedule_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"HH:MM-HH:MM|days are mon|00:00-24:00"):
        parse_schedule(text)


def test_the_configuration_refuses_wrong_schedules_and_zones() -> None:
    assert RetrainSection(schedule="sat,sun 00:00-24:00", timezone="Europe/Berlin").timezone
    for values in ({"schedule": "at night"}, {"timezone": "Berlin"}):
        with pytest.raises(ValueError):
            RetrainSection.model_validate(values)
