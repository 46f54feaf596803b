"""Counting what is left out: every sample that a reader or writer drops is counted under a named reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

EXAMPLES_KEPT = 5
"""Ids kept for each reason, so that a person can look one up; the count itself is complete."""


class DataError(Exception):
    """A data set cannot be read at all: a file or column is missing, a file is cut off. The message names it."""


@dataclass(slots=True, kw_only=True)
class DropReport:
    """Counts of kept and dropped records, by reason. Mutable: a reader fills it while it streams."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    """Repairs of records that were kept ("reversed pair swapped")."""

    def drop(self, reason: str, which: str) -> None:
        """Count one dropped sample; `which` names it (an id of the set, never a patient's name)."""
        self.dropped[reason] += 1
        kept = self.examples.setdefault(reason, [])
        if len(kept) < EXAMPLES_KEPT:
            kept.append(which)

    def keep(self) -> None:
        """Count one sample that was handed out."""
        self.kept += 1

    def note(self, what: str) -> None:
        """Count one sample that was repaired and kept."""
        self.notes[what] += 1

    @property
    def total_dropped(self) -> int:
        """All reasons together."""
        return sum(self.dropped.values())

    def lines(self) -> list[str]:
        """The report as text lines, most frequent reason first."""
        lines = [f"kept {self.kept}, dropped {self.total_dropped}"]
        for reason, count in self.dropped.most_common():
            lines.append(f"  dropped {count}: {reason} (for example {', '.join(self.examples[reason])})")
        lines += [f"  noted {count}: {what}" for what, count in self.notes.most_common()]
        return lines

    def as_json(self) -> Mapping[str, object]:
        """For manifests and reports."""
        return {"kept": self.kept, "dropped": dict(self.dropped), "notes": dict(self.notes), "examples": self.examples}
