"""When a tick is due: an interval that a jump of the clock does not hold up."""

from __future__ import annotations

import datetime as dt

from apscheduler.triggers.base import BaseTrigger


class SteadyInterval(BaseTrigger):  # type: ignore[misc,unused-ignore]  # APScheduler has no types
    """Fires every `seconds`; times that were missed count as one.

    APScheduler's own interval lists each missed time before it makes them one: after a clock that was set forward by
    three days it stood still for half a minute, and from 1970, where a dead battery leaves it, for ever.
    """

    def __init__(self, seconds: float) -> None:
        self._interval = dt.timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: dt.datetime | None, now: dt.datetime) -> dt.datetime:
        """Return the next time after `now`, in step with the one before where none was missed."""
        next_time = (previous_fire_time or now) + self._interval
        return next_time if next_time > now else now + self._interval
