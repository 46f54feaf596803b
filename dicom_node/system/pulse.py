"""A child's sign of life, which its supervisor reads without asking the child: a child that hangs cannot answer."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.sharedctypes import Synchronized

_context = multiprocessing.get_context("forkserver")


class Pulse:
    """One number in shared memory: when the child last moved, by the machine's steady clock.

    CLOCK_MONOTONIC is the same for all processes of a machine, and stands still while the machine sleeps, so a machine
    that was suspended finds no child silent.
    """

    def __init__(self) -> None:
        self._beaten_at: Synchronized[float] = _context.Value("d", 0.0)

    def beat(self) -> None:
        """Say that the child moves."""
        self._beaten_at.value = time.monotonic()

    def silent_seconds(self) -> float:
        """Return for how long the child has not moved."""
        return time.monotonic() - self._beaten_at.value
