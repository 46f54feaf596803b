"""The progress of a run: how far it is, how fast, how long it may still take; and its studies, for the report."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.orm import Session

from dicom_node.backfill.drive import OPEN_ITEMS, OPEN_RANGES, count_items
from dicom_node.backfill.limits import open_share
from dicom_node.index.tables.backfill import (
    BackfillItem,
    BackfillItemState,
    BackfillRange,
    BackfillRangeState,
    BackfillRun,
)

SPEED_WINDOW = dt.timedelta(hours=1)
"""The speed is that of the newest ends within this time."""
_MOST_ENDS = 2000
_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """A run in figures. Counts by state and by reason; days of its dates that were asked, and all of them."""

    studies: dict[str, int]
    reasons: dict[str, int]
    ranges: dict[str, int]
    days_asked: int
    days: int
    fetched: int
    per_minute: float | None
    """Studies ended in a minute, lately; None where too few ended to tell."""
    time_left: dt.timedelta | None
    """For the studies found so far and those to be expected of days not asked yet; None where it cannot be told."""

    @property
    def total(self) -> int:
        """The studies found so far."""
        return sum(self.studies.values())

    @property
    def left(self) -> int:
        """Those of them that have no end yet."""
        return sum(self.studies.get(state.value, 0) for state in OPEN_ITEMS)

    @property
    def expected(self) -> int:
        """The studies that the run may come to: those found, and as many a day again for each day not asked yet."""
        if not self.days_asked or self.days_asked >= self.days:
            return self.total
        return round(self.total * self.days / self.days_asked)


def progress_of(session: Session, run: BackfillRun, *, now: dt.datetime) -> RunProgress:
    """Count what there is of a run."""
    of_run = BackfillItem.run_pk == run.id
    states = {state.value: count for state, count in count_items(session, run, tuple(BackfillItemState)).items()}
    reasons = select(BackfillItem.reason, func.count()).where(of_run, BackfillItem.reason != "")
    ranges = session.scalars(select(BackfillRange).where(BackfillRange.run_pk == run.id)).all()
    days_asked = sum(_days(part) for part in ranges if part.state is BackfillRangeState.LISTED)
    # A range that was split is counted by its halves.
    days = sum(_days(part) for part in ranges if part.state is not BackfillRangeState.SPLIT)
    speed = _speed(session, run, now)
    counted = RunProgress(
        studies=states,
        reasons={row[0]: row[1] for row in session.execute(reasons.group_by(BackfillItem.reason))},
        ranges={state.value: sum(part.state is state for part in ranges) for state in BackfillRangeState},
        days_asked=round(days_asked),
        days=round(days),
        fetched=session.scalar(select(func.sum(BackfillItem.fetched)).where(of_run)) or 0,
        per_minute=speed,
        time_left=None,
    )
    return _with_time_left(counted, run, is_listing=any(part.state in OPEN_RANGES for part in ranges), now=now)


def report_rows(
    session: Session, run: BackfillRun, *, state: BackfillItemState | None = None
) -> Iterator[dict[str, object]]:
    """Each study of a run with its state and the reason, in order of date; read page by page."""
    after: tuple[str, str, int] = ("", "", 0)
    sort_keys = (BackfillItem.study_date, BackfillItem.study_time, BackfillItem.id)
    while True:
        chosen = select(BackfillItem).where(BackfillItem.run_pk == run.id)
        if state is not None:
            chosen = chosen.where(BackfillItem.state == state)
        page = session.scalars(chosen.where(_is_behind(after)).order_by(*sort_keys).limit(_PAGE)).all()
        for item in page:
            yield {
                "study_instance_uid": item.study_instance_uid,
                "study_date": item.study_date,
                "study_time": item.study_time,
                "state": item.state.value,
                "reason": item.reason,
                "detail": item.detail,
                "attempts": item.attempts,
                "fetched": item.fetched,
                "ended_at": item.ended_at.isoformat() if item.ended_at else "",
            }
        if len(page) < _PAGE:
            return
        last = page[-1]
        after = (last.study_date, last.study_time, last.id)
        # Otherwise the session would hold every row that was ever read.
        session.expunge_all()


def failed_ranges(session: Session, run: BackfillRun) -> list[BackfillRange]:
    """The ranges of which studies may be missing."""
    failed = (BackfillRange.run_pk == run.id) & (BackfillRange.state == BackfillRangeState.FAILED)
    order = (BackfillRange.first_date, BackfillRange.first_time)
    return list(session.scalars(select(BackfillRange).where(failed).order_by(*order)))


def _is_behind(after: tuple[str, str, int]) -> ColumnElement[bool]:
    return tuple_(BackfillItem.study_date, BackfillItem.study_time, BackfillItem.id) > after


def _days(part: BackfillRange) -> float:
    """The length of a range in days."""
    first, last = dt.date.fromisoformat(part.first_date), dt.date.fromisoformat(part.last_date)
    days = float((last - first).days + 1)
    if part.first_time or part.last_time:
        begin = _hours(part.first_time) if part.first_time else 0.0
        end = _hours(part.last_time) if part.last_time else 24.0
        days *= (end - begin) / 24
    return days


def _hours(time: str) -> float:
    return int(time[:2]) + int(time[2:4]) / 60 + int(time[4:6]) / 3600


def _speed(session: Session, run: BackfillRun, now: dt.datetime) -> float | None:
    ended = select(BackfillItem.ended_at).where(BackfillItem.run_pk == run.id, BackfillItem.ended_at.is_not(None))
    newest = [at for at in session.scalars(ended.order_by(BackfillItem.ended_at.desc()).limit(_MOST_ENDS)) if at]
    # Over the newest stretch only, so that a pause or a closed night is not taken for slowness.
    newest = [at for at in newest if at >= newest[0] - SPEED_WINDOW]
    if len(newest) < 2:
        return None
    minutes = (newest[0] - newest[-1]).total_seconds() / 60
    # n ends bound n − 1 intervals.
    return (len(newest) - 1) / minutes if minutes > 0 else None


def _with_time_left(counted: RunProgress, run: BackfillRun, *, is_listing: bool, now: dt.datetime) -> RunProgress:
    left = counted.left + counted.expected - counted.total
    if not left:
        return counted if is_listing else replace(counted, time_left=dt.timedelta(0))
    share = open_share(run.hours, run.timezone, now)
    # Never faster than the run is allowed to be: the window may hold a burst.
    speed = min(counted.per_minute or run.per_minute, run.per_minute)
    if not share or not speed or (is_listing and not counted.days_asked):
        return counted
    # Divided by the open share: in a night of eight hours an hour's work takes three.
    return replace(counted, time_left=dt.timedelta(minutes=left / speed / share))
