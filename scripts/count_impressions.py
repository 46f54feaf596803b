"""Count how many statements of the impression are true on films that radiologists read, by finding.

    python scripts/count_impressions.py --series FOLDER [--limit 150] [--model demo]

Films and pairs of the dev patients of nih_series; the truth is the radiologists' marks on each film alone. A statement
is one that the report would open with (`dicom_node.report.rules`): a finding that is seen, or a change of one. What was
not asked of the radiologists, and change where they marked no difference of degree, is not judged. Intervals: 95 % by
Wilson, one statement at a time.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.report.rules import Circumstances, Rank, Seen, Statement, statements_of
from model.predict import load_predictor
from model.schema import Change, Prediction
from training.data.datasets import load_records
from training.readers.nih_series import read_nih_marks
from training.records.drops import DropReport
from training.records.record import Record, Split

Z = 1.96


@dataclass(slots=True)
class Count:
    """Statements by finding and kind: true and all; and whole impressions."""

    true: Counter[tuple[str, str]] = field(default_factory=Counter)
    stated: Counter[tuple[str, str]] = field(default_factory=Counter)
    films: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)


def judge(record: Record, said: Prediction, count: Count) -> None:
    """Compare the impression of one film or pair with what the radiologists marked."""
    circumstances = Circumstances(
        has_prior=record.prior is not None,
        is_calibrated=said.is_calibrated,
        certainty_floor=said.certainty_floor,
        omitted=frozenset(said.unstated),
    )
    stated = statements_of(said, circumstances)
    verdicts = [verdict for one in stated for verdict in _verdicts(one, record)]
    for key, kind, is_true in verdicts:
        count.stated[key, kind] += 1
        count.true[key, kind] += is_true
    seen = {one.finding.key for one in stated if one.seen is Seen.SEEN and one.rank is not Rank.NONE}
    asked = {one.finding.key for one in stated}
    for key, truth in record.truth.findings.items():
        if truth.current is not None and truth.current.present:
            count.missed[key] += key not in seen
    if said.is_unfamiliar:
        count.films["refused: unlike the films of training"] += 1
    elif verdicts:
        count.films["with statements"] += 1
        count.films["… of which every statement is true"] += all(is_true for *_, is_true in verdicts)
    else:
        count.films['"none … is seen"'] += 1
        marked = {key for key, truth in record.truth.findings.items() if truth.current and truth.current.present}
        count.films["… of which radiologists marked none of what was asked"] += not marked & asked


def _verdicts(one: Statement, record: Record) -> Iterator[tuple[str, str, bool]]:
    """(finding, kind of statement, whether it is true) of what the impression says and the marks can judge."""
    truth = record.truth.findings.get(one.finding.key)
    if one.rank is Rank.NONE or truth is None or truth.current is None:
        return
    if one.seen is Seen.SEEN:
        yield one.finding.key, "seen", truth.current.present
    if one.change is not None and (known := _known_change(record, one.finding.key)) is not None:
        yield one.finding.key, f"change: {one.change.value}", one.change is known


def _known_change(record: Record, key: str) -> Change | None:
    """The change that the marks on both films tell; none where the finding is on neither."""
    truth = record.truth.findings[key]
    return truth.change if truth.change is not None else None


def interval(true: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if of == 0:
        return 0.0, 1.0
    share, square = true / of, Z * Z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = Z / (1 + square / of) * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def lines(count: Count) -> Iterable[str]:
    """A Markdown table of the counts."""
    yield "| finding | statement | true | of | share | 95 % interval |"
    yield "|---|---|---|---|---|---|"
    for key, kind in sorted(count.stated):
        true, of = count.true[key, kind], count.stated[key, kind]
        low, high = interval(true, of)
        yield f"| {key.replace('_', ' ')} | {kind} | {true} | {of} | {true / of:.2f} | {low:.2f}–{high:.2f} |"
    for kind, name in (("seen", "all findings seen"), ("change", "all changes")):
        keys = [pair for pair in count.stated if pair[1].startswith(kind)]
        true, of = sum(count.true[pair] for pair in keys), sum(count.stated[pair] for pair in keys)
        if of:
            low, high = interval(true, of)
            yield f"| **{name}** | | {true} | {of} | {true / of:.2f} | {low:.2f}–{high:.2f} |"
    yield ""
    yield "; ".join(f"{name}: {number}" for name, number in count.films.items())
    yield "marked and not seen: " + ", ".join(f"{key} {number}" for key, number in sorted(count.missed.items()))


def main(
    series: Annotated[Path, typer.Option(help="The folder nih_series.")],
    limit: Annotated[int, typer.Option(min=1, help="At most so many films and pairs.")] = 150,
    model: Annotated[str, typer.Option(help="Checkpoint.")] = "demo",
) -> None:
    """Ask, judge, print."""
    predictor, report, count = load_predictor(model), DropReport(), Count()
    records = load_records(read_nih_marks(series, report), report, split=Split.VALIDATE, limit=limit)
    number = 0
    try:
        for number, (record, pair) in enumerate(records, start=1):
            judge(record, predictor.predict(pair), count)
            if number % 25 == 0:
                print(f"{number} films", file=sys.stderr)
    except KeyboardInterrupt:
        print("cut short: what follows is counted so far", file=sys.stderr)
    print(f"{number} films and pairs, {predictor.identity.name} {predictor.identity.version}")
    print("\n".join(lines(count)))


if __name__ == "__main__":
    typer.run(main)
