"""Values as people read them, the same on the pages and on the command line."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any


def moment(value: dt.datetime | None) -> str:
    """A point in time of ours, UTC to the second."""
    return f"{value:%Y-%m-%d %H:%M:%S}" if value is not None else ""


def day(value: str) -> str:
    """A DA as people write it; what is no DA stays as it is."""
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if len(value) == 8 and value.isdigit() else value


def person_name(value: str) -> str:
    """A PN for a list: family name, given names; the first group that is filled."""
    group = next((part for part in value.split("=") if part.strip("^ ")), "")
    family, _, rest = group.partition("^")
    given = " ".join(part for part in rest.split("^")[:2] if part)
    return f"{family}, {given}" if given else family


def percent(value: float | None) -> str:
    """A probability for people; never 0 or 100, which would claim certainty, as in the report."""
    if value is None:
        return ""
    return "< 1 %" if value < 0.01 else "> 99 %" if value > 0.99 else f"{100 * value:.0f} %"


def presence_percent(finding: Mapping[str, Any]) -> str:
    """The probability of a finding of result.json for people; "" where it would contradict the word (rule 2)."""
    value, seen = finding.get("probability"), finding.get("seen")
    if value is None or seen == "no statement" or not finding.get("calibrated", True):
        return ""
    is_contrary = seen is not None and (value >= 0.5) is not (seen == "seen")
    return "" if is_contrary else percent(value)


def change_percent(finding: Mapping[str, Any]) -> str:
    """The probability of the stated change; "" where none is stated."""
    is_stated = finding.get("change") not in (None, "not comparable") and finding.get("calibrated", True)
    return percent(finding.get("change_probability")) if is_stated else ""


def presence_word(finding: Mapping[str, Any]) -> str:
    """The word for a finding of result.json; results of before `seen` was written have their presence alone."""
    if not finding.get("judged", True):
        return "not judged"
    seen = finding.get("seen") or label(finding["presence"])
    return "neither seen nor excluded" if seen == "no statement" else str(seen)


def change_word(finding: Mapping[str, Any]) -> str:
    """The word for the change of a finding of result.json; "" where nothing is said of one."""
    if finding.get("doubt") == "low certainty":
        return "change uncertain"
    return label(finding["change"]) if finding.get("change") is not None else ""


LABELS = {
    "open": "receiving",
    "complete": "waiting for analysis",
    "ready": "waiting",
    "dead": "failed, needs attention",
    "pending": "waiting",
    "stored": "sent, proof awaited",
    "confirmed": "delivered, proven",
    "worsening": "larger or worse",
    "improving": "smaller or better",
    "stable": "unchanged",
    "resolved": "no longer seen",
    "present": "seen",
    "absent": "not seen",
    "abstained": "no statement",
    "findings only": "no comparison",
    "correct": "corrected",
    "location": "site",
    "level": "degree",
    "analyse": "analysis",
    "deliver": "delivery",
    "fetch": "search for priors",
    "shadow": "challenger's answer",
    "report": "radiologist's report",
    "dead letter": "failed, needs attention",
    "machine": "AI regions",
    "reading": "AI reading",
    "pdf": "PDF page",
    "capture": "pair picture",
}
"""Words of the index and of the vocabulary → what people call it; one word for one thing on all pages."""


def clock(value: str) -> str:
    """Show a TM to the minute; "" where it is none."""
    return f"{value[:2]}:{value[2:4]}" if len(value) >= 4 and value[:4].isdigit() else ""


def label(value: object) -> str:
    """A state in words; most states are words already."""
    return LABELS.get(str(value), str(value))


def amount(number: int, one: str, many: str = "") -> str:
    """A number of things in words: "1 job", "2 jobs", "2 studies"; `many` where it is not `one` and an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def words_for(states: Iterable[str]) -> str:
    """Name the words of an option's values, where they differ: "ready: waiting; dead: failed, needs attention"."""
    return "; ".join(f"{state}: {label(state)}" for state in map(str, states) if label(state) != state)


def span(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
