"""When a run may ask its archive: its state, its hours, the archive's silence and the room that is left on the disk."""

from __future__ import annotations

import datetime as dt

from dicom_node.context import NodeContext
from dicom_node.index.tables.backfill import BackfillRun, BackfillRunState
from dicom_node.retention.disk import disk_usage
from dicom_node.weekly_window import next_window, parse_schedule, window_at, zone_of

_WEEK = dt.timedelta(days=7)


def obstacle(run: BackfillRun, node: NodeContext) -> str:
    """Return why nothing may be asked of the archive just now, "" where it may."""
    now = node.clock()
    if run.state is not BackfillRunState.RUNNING:
        return f"it is {run.state}"
    opens_at = opening(run.hours, run.timezone, now)
    if opens_at is not None and opens_at > now:
        return f"out of its hours until {opens_at:%Y-%m-%d %H:%M} UTC"
    if run.held_until is not None and run.held_until > now:
        return f"{run.held_reason}; asked again at {run.held_until:%Y-%m-%d %H:%M} UTC"
    usage = disk_usage(node)
    if usage.free_percent < node.settings.retention.keep_free_percent:
        # Tonight's studies need the room: retention makes some, and until then nothing is brought.
        return f"the disk has {usage.free_percent:.1f} % free, less than retention.keep_free_percent"
    return ""


def opening(hours: str, timezone: str, now: dt.datetime) -> dt.datetime | None:
    """Return when the archive may be asked again: a moment not after `now` where it may be now. None: always."""
    schedules = [parse_schedule(part) for part in windows_of(hours)]
    if not schedules:
        return None
    zone = zone_of(timezone)
    if any(window_at(schedule, now, zone) is not None for schedule in schedules):
        return now
    return min(next_window(schedule, now, zone).begins_at for schedule in schedules)


def open_share(hours: str, timezone: str, now: dt.datetime) -> float:
    """Return the share of the coming week in which the archive may be asked, 0..1; windows that overlap count once."""
    schedules = [parse_schedule(part) for part in windows_of(hours)]
    if not schedules:
        return 1.0
    # By counting quarters of an hour in local time: windows may overlap, cross midnight and a change of the clocks.
    zone, step = zone_of(timezone), dt.timedelta(minutes=15)
    moments = [now + step * number for number in range(int(_WEEK / step))]
    is_open = [any(window_at(schedule, moment, zone) for schedule in schedules) for moment in moments]
    return sum(is_open) / len(is_open)


def windows_of(hours: str) -> list[str]:
    """The windows of a text that joins them by ";"."""
    return [part.strip() for part in hours.split(";") if part.strip()]
