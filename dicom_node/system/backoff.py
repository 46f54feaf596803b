"""The pauses between tries of what failed: each twice as long as the one before, up to a longest one."""

from __future__ import annotations

import datetime as dt
from typing import TypeVar

_Pause = TypeVar("_Pause", float, dt.timedelta)

MAX_DOUBLINGS = 30
"""Every longest pause is reached long before; the power of a count that grows for weeks would overflow a timedelta."""


def pause_after(failures: int, *, first: _Pause, longest: _Pause) -> _Pause:
    """The pause after this many failures in a row: `first` after one."""
    return min(first * (1 << min(max(failures - 1, 0), MAX_DOUBLINGS)), longest)
