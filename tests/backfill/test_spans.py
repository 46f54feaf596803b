"""Spans of dates and times: halves that lose nothing, months that cover all days."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from dicom_node.backfill.spans import MIN_SECONDS, Span, months

DAYS = st.dates(dt.date(1990, 1, 1), dt.date(2030, 12, 31))
TIMES = st.times().map(lambda t: f"{t:%H%M%S.%f}")


@given(DAYS, st.integers(0, 900), st.data())
def test_every_moment_of_a_span_is_in_one_of_its_halves(first: dt.date, length: int, data: st.DataObject) -> None:
    span = Span(first_date=f"{first:%Y%m%d}", last_date=f"{first + dt.timedelta(days=length):%Y%m%d}")
    date = f"{first + dt.timedelta(days=data.draw(st.integers(0, length))):%Y%m%d}"
    time = data.draw(TIMES)
    for _ in range(40):
        assert span.holds(date, time)
        halves = span.halves()
        if halves is None:
            break
        holding = [half for half in halves if half.holds(date, time)]
        assert holding
        assert all(half.dates != span.dates or half.times != span.times for half in halves)
        span = data.draw(st.sampled_from(holding))
    else:
        raise AssertionError("a span can be halved for ever")
    assert span.first_date == span.last_date == date


def test_a_span_ends_at_a_minute() -> None:
    day = Span(first_date="20240110", last_date="20240110")
    assert (day.dates, day.times) == ("20240110", "")
    morning, evening = day.halves() or (day, day)
    assert (morning.times, evening.times) == ("-120000", "120000-")
    seconds = 86_400
    span = day
    while (halves := span.halves()) is not None:
        span, seconds = halves[0], seconds // 2
    assert seconds <= MIN_SECONDS < 2 * seconds + 2


@given(DAYS, st.integers(0, 800))
def test_months_hold_every_day_once(first: dt.date, length: int) -> None:
    last = first + dt.timedelta(days=length)
    spans = list(months(first, last))
    held = [day for span in spans for day in range(_day(span.first_date), _day(span.last_date) + 1)]
    assert held == list(range(first.toordinal(), last.toordinal() + 1))


def _day(date: str) -> int:
    return dt.date.fromisoformat(date).toordinal()
