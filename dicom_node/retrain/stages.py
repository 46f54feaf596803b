"""The stages of a run's process, and how it tells its parent how far it is; light, imported on both sides."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from dicom_node.retrain.file_names import PROGRESS_FILE
from model.errors import ModelError

STOPPED: Final = 75
"""Exit status of a stage that was asked to stop (EX_TEMPFAIL): the next start continues it."""
_WRITE_SECONDS: Final = 0.5


class Stage(StrEnum):
    """A stage of the process."""

    PROBE = "probe"
    """Measures a few steps and answers."""
    TRAIN = "train"
    """Trains, calibrates and puts the challenger into the models folder."""
    EVALUATE = "evaluate"
    """Asks champion and challenger, decides, and writes card and page."""


class Stopped(ModelError):
    """Asked to stop between two answers."""


@dataclass(slots=True)
class StageProgress:
    """Tells the parent how far it is, by a file that is replaced."""

    folder: Path
    stage: str
    total: int
    done: int = 0
    written_at: float = field(default=0.0)

    def at(self, done: int) -> None:
        """Write that this much is done, unless the file is newer than half a second."""
        self.done = done
        now = time.monotonic()
        if now - self.written_at >= _WRITE_SECONDS or done >= self.total:
            self.written_at = now
            text = json.dumps({"stage": self.stage, "done": done, "total": self.total})
            temporary = self.folder / f"{PROGRESS_FILE}.tmp"
            temporary.write_text(text + "\n", "utf-8")
            temporary.replace(self.folder / PROGRESS_FILE)

    def after(self, before: int) -> Callable[[int], None]:
        """The progress of a part of the stage, before which this much was done."""
        return lambda done: self.at(before + done)
