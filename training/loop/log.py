"""The log of a training run: its recipe, a line for each step, a bar for people, TensorBoard where wanted."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from model.errors import ModelError
from training.recipe.recipe import Recipe

LINE_SECONDS = 10.0
"""Steps may be long: a line comes at least this often, whatever run.log_every says."""


class TrainingError(ModelError):
    """Training cannot go on; the message says what happened at which step and what to look at."""


class TrainLog:
    """log.jsonl (one line for each step), a line or a bar for people, TensorBoard where wanted."""

    def __init__(self, out: Path, recipe: Recipe, first: int, *, main: bool, quiet: bool) -> None:
        self.main, self.quiet, self.recipe, self.first = main, quiet, recipe, first
        self.started = self.spoken = time.perf_counter()
        self.recent: dict[str, float] = {}
        self.board: Any = None
        if not main:
            return
        out.mkdir(parents=True, exist_ok=True)
        (out / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n", "utf-8")
        self.file = (out / "log.jsonl").open("a", encoding="utf-8")
        if recipe.run.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter  # optional extra "train"
            except ImportError as error:
                raise TrainingError("run.tensorboard needs TensorBoard: pip install 'dicom-node[train]'") from error
            self.board = SummaryWriter(str(out / "tensorboard"))

    def step(self, step: int, losses: dict[str, float], rate: float, waited: float) -> None:
        """Note one step; `waited`: seconds spent on data so far."""
        if not self.main:
            return
        seconds = time.perf_counter() - self.started
        line = {"step": step, "rate": rate, "seconds": round(seconds, 2), "data_seconds": round(waited, 2)}
        self.file.write(json.dumps(line | {name: round(value, 5) for name, value in losses.items()}) + "\n")
        self.file.flush()  # a checkpoint may follow: a kill must not take the lines of steps that it holds
        for name, value in losses.items():
            self.recent[name] = 0.9 * self.recent.get(name, value) + 0.1 * value
            if self.board is not None:
                self.board.add_scalar(name, value, step)
        ends = step in (self.first + 1, self.recipe.run.steps) or step % self.recipe.run.log_every == 0
        if not self.quiet and (ends or time.perf_counter() - self.spoken >= LINE_SECONDS):
            self.spoken = time.perf_counter()
            self._say(step, seconds, rate)

    def _say(self, step: int, seconds: float, rate: float) -> None:
        total = self.recipe.run.steps
        # Steps of this run only: a run that goes on from a checkpoint did not spend time on those before it.
        left = seconds / max(1, step - self.first) * (total - step)
        values = " ".join(f"{name} {value:.4f}" for name, value in self.recent.items())
        bar = "#" * round(20 * step / total)
        text = f"[{bar:<20}] {step}/{total} {values} rate {rate:.1e} left {left / 60:.1f} min"
        end = "" if sys.stdout.isatty() else "\n"
        print(("\r" if not end else "") + text, end=end, flush=True)

    def say(self, lines: Iterable[str]) -> None:
        """Lines for people."""
        if self.main and not self.quiet:
            print("\n".join(lines), flush=True)

    def close(self) -> None:
        """End the files."""
        if self.main:
            self.file.close()
            if self.board is not None:
                self.board.close()
