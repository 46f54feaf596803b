"""The log of a run's data: a line for each sample that could not be shown and was replaced, a report at the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from training.data.samples import Dropped
from training.records.drops import EXAMPLES_KEPT, DataError

LEAST = 200
"""The share of dropped samples says something from so many samples on."""
REPORT = "data.json"


class DataLog:
    """Counts the replaced samples of one rank in `dropped-RANK.jsonl`; more than the allowed share stops the run.

    source: where it says what its sets hold (`about`) and teach (`taught`), the report does too.
    """

    def __init__(self, out: Path, *, rank: int, most: float, source: object = None) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._rank, self._most = out, rank, most
        self.about: tuple[str, ...] = tuple(getattr(source, "about", ()))
        self._taught: dict[str, int] = dict(getattr(source, "taught", {}))
        self._seen, self._dropped = 0, 0

    def note(self, samples: int, dropped: Iterable[Dropped]) -> None:
        """Count one batch. Raises DataError where too many of all samples so far had to be replaced."""
        self._seen += samples
        lines = [json.dumps({"pool": d.pool, "reason": d.reason, "which": d.which}) + "\n" for d in dropped]
        if not lines:
            return
        self._dropped += len(lines)
        with (self._out / f"dropped-{self._rank}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(lines)
        # Not at the first few: one bad file among ten would be ten percent.
        if self._seen >= LEAST and self._dropped > self._most * self._seen:
            raise DataError(
                f"{self._dropped} of {self._seen} samples could not be shown, more than data.max_dropped = "
                f"{self._most}; the last: {lines[-1].strip()}"
            )

    def finish(self) -> list[str]:
        """Write data.json from what all ranks noted; returns the report in lines. For the main rank, at the end."""
        dropped = read_dropped(self._out)
        lines: list[str] = []
        reasons: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        for each in dropped:
            reasons[each.reason] += 1
            named = examples.setdefault(each.reason, [])
            if len(named) < EXAMPLES_KEPT:
                named.append(each.which)
        for reason, count in reasons.most_common():
            lines.append(f"not shown, {count}: {reason} (for example {', '.join(examples[reason])})")
        content = {
            "about": list(self.about),
            "not_shown": dict(reasons),
            "examples": examples,
            "taught": self._taught,
        }
        (self._out / REPORT).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        return lines


def read_dropped(out: Path) -> list[Dropped]:
    """Everything that some rank noted, each image or record once: a run that goes on meets the same ones again."""
    dropped: dict[Dropped, None] = {}
    for path in sorted(out.glob("dropped-*.jsonl")):
        for line in path.read_text("utf-8").splitlines(keepends=True):
            if line.endswith("\n"):  # a kill may have cut the last line; its sample is met again
                dropped[Dropped(**json.loads(line))] = None
    return list(dropped)
