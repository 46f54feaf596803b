"""Breaks of a training: it stands still while a file says so, and stops with a checkpoint when it is asked to.

Asked between steps only, so that a training which stands still holds no lock and no half-done transaction: stopping
its process by signal could hold a lock of the index for as long as somebody waits for that very index.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

PAUSE_VARIABLE = "DICOM_NODE_PAUSE_FILE"
"""Environment variable: while the file that it names exists, the training waits."""
LOOK_SECONDS = 0.2

Between = Callable[[], bool]
"""Called between two steps; may wait. True: save a checkpoint and stop."""


class TrainingPauses:
    """The usual `Between`: waits while `pause_file` exists, answers whether `stop` is set. paused: seconds waited."""

    def __init__(self, *, pause_file: Path | None = None, stop: threading.Event | None = None) -> None:
        self.pause_file = pause_file
        self.stop = stop or threading.Event()
        self.paused = 0.0

    def __call__(self) -> bool:
        started = time.monotonic()
        waited = False
        while not self.stop.is_set() and self.pause_file is not None and self.pause_file.exists():
            # Waits on the stop and not on the clock: a pause must not delay an end.
            self.stop.wait(LOOK_SECONDS)
            waited = True
        if waited:
            self.paused += time.monotonic() - started
        return self.stop.is_set()


def breaks_from_environment(stop: threading.Event | None = None) -> TrainingPauses:
    """Breaks by the file that the environment names, if any."""
    named = os.environ.get(PAUSE_VARIABLE)
    return TrainingPauses(pause_file=Path(named) if named else None, stop=stop)
