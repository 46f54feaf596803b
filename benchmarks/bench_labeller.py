"""Agreement of the labeller's rules with sentences and reports read by hand: `python -m benchmarks.bench_labeller`.

Prints the tables of docs/labeller.md in Markdown, with 95 % intervals (Wilson 1927); with --errors also every sentence
that is wrong in any respect.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from model.labeller.measure import (
    Measured,
    Score,
    is_same,
    measure,
    polarity_errors,
    pool_classes,
    read_cases,
    read_report_cases,
    settle_gold,
    settle_labels,
)
from model.labeller.rules import label_report, version

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "model" / "labeller"
PARTS = ("development", "held_out", "hard", "fresh", "check", "build", "opened_once", "second", "third", "last")
REPORT_PARTS = ("check", "build", "opened_once")
Z_95 = 1.959964


def main() -> None:
    """Measure every part and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--errors", action="store_true", help="print every sentence that is wrong in any respect")
    options = parser.parse_args()
    measured = {name: measure(read_cases(FOLDER / f"sentences_{name}.txt"), label_report) for name in PARTS}
    print(f"labeller: {version()}\n")
    print("| part | wholly right | presence P | presence R | change P / R | side P / R | degree P / R | opposite |")
    print("|---|---|---|---|---|---|---|---|")
    for name, one in measured.items():
        presence = pool_classes(one.findings)
        others = (pool_classes(table) for table in (one.changes, one.sides, one.levels))
        cells = [
            *(name, _interval(one.exact, one.sentences)),
            _interval(presence.right, presence.right + presence.wrong),
            _interval(presence.right, presence.right + presence.missed),
            *map(_cell, others),
            str(one.polarity_errors),
        ]
        print(f"| {' | '.join(cells)} |")
    _kinds(measured)
    _reports()
    if options.errors:
        for name, one in measured.items():
            print(f"\n## {name}\n" + "\n".join(one.errors))


def _kinds(measured: dict[str, Measured]) -> None:
    parts = [name for name in PARTS if set(measured[name].kinds) != {""}]
    print("\n| kind, wholly right | " + " | ".join(parts) + " |")
    print("|---" * (len(parts) + 1) + "|")
    for kind in dict.fromkeys(kind for name in parts for kind in measured[name].kinds):
        cells = [_interval(*measured[name].kinds[kind]) if kind in measured[name].kinds else "–" for name in parts]
        print(f"| {kind} | " + " | ".join(cells) + " |")


def _reports() -> None:
    print("\n| whole reports | wholly right | opposite |\n|---|---|---|")
    for name in REPORT_PARTS:
        cases = read_report_cases(FOLDER / f"reports_{name}.txt")
        settled = [(settle_labels(case.text), settle_gold(case)) for case in cases]
        right = sum(is_same(found, gold) for found, gold in settled)
        turned = sum(polarity_errors(found, gold) for found, gold in settled)
        print(f"| {name} | {_interval(right, len(cases))} | {turned} |")


def _interval(right: int, total: int) -> str:
    """Return a share with Wilson's interval and its counts."""
    if not total:
        return "–"
    share, spread = right / total, Z_95**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return f"{share:.3f} ({max(0.0, middle - half):.3f}–{min(1.0, middle + half):.3f}) of {total}"


def _cell(score: Score) -> str:
    precision, recall = ("–" if value is None else f"{value:.3f}" for value in (score.precision, score.recall))
    return f"{precision} / {recall} ({score.right + score.missed})"


if __name__ == "__main__":
    main()
