"""Health of a lane: a circuit breaker against a machine that fails every job at once.

Such a machine (its mount, /tmp or GPU is gone) is always idle, so it wins every claim, and would burn the attempts of
the whole queue beside a healthy worker. After MAX_FAILURES unexpected failures of different jobs in a row the lane
pauses, and those attempts are given back. After the pause one job is tried: its success ends the trouble, its failure
is given back too and doubles the pause.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dicom_node.system.backoff import pause_after

MAX_FAILURES = 3
"""Of different jobs, one after the other. One job that always fails is the job's fault and goes dead by itself."""
FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 600.0


@dataclass(slots=True, kw_only=True)
class LaneHealth:
    """Counts unexpected failures of one lane's threads. steady: a monotonic clock in seconds."""

    steady: Callable[[], float] = time.monotonic
    _failed: dict[int, str] = field(default_factory=dict)
    """Failed jobs since the last success, by id, with the error."""
    _pauses: int = 0
    _paused_until: float = 0.0
    reason: str = ""
    """Why it is paused or on trial; "" while it is well."""
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_on_trial(self) -> bool:
        """Tell whether the lane has been paused and no job has succeeded since."""
        return self._pauses > 0

    def pause_left(self) -> float:
        """Return for how many seconds the lane must not claim."""
        return max(0.0, self._paused_until - self.steady())

    def record_success(self) -> None:
        """A job ended as its handler wanted: the machine works."""
        with self._guard:
            self._failed.clear()
            self._pauses, self.reason = 0, ""

    def record_failure(self, job_id: int, error: str) -> list[int]:
        """Note an unexpected failure; return the jobs whose attempts are to be uncounted where the lane pauses now."""
        with self._guard:
            self._failed[job_id] = error
            # On trial one failure is enough: the job after a pause is tried to learn about the machine, not about the
            # job.
            if len(self._failed) < MAX_FAILURES and not self.is_on_trial:
                return []
            self._pauses += 1
            pause = pause_after(self._pauses, first=FIRST_PAUSE_SECONDS, longest=LONGEST_PAUSE_SECONDS)
            self._paused_until = self.steady() + pause
            self.reason = f"{len(self._failed)} different jobs failed one after the other, the last one with: {error}"
            if self._pauses > 1:
                self.reason = f"a job tried after the pause failed as well: {error}"
            spent, self._failed = list(self._failed), {}
            return spent
