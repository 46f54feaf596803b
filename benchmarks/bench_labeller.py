"""How well the labeller's rules agree with the hand-labelled sentences: `python -m benchmarks.bench_labeller`.

Prints the tables of docs/labeller.md in Markdown; with --errors also every sentence that is not right in all respects.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from model.labeller.measure import Measured, Score, measure, pooled, read_cases
from model.labeller.rules import label_report, version

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "model" / "labeller"
PARTS = ("development", "held_out", "hard", "fresh")


def main() -> None:
    """Measure every part and print."""
    measured = {name: measure(read_cases(FOLDER / f"sentences_{name}.txt"), label_report) for name in PARTS}
    print(f"labeller: {version()}\n")
    print("| part | sentences | right in all | findings P / R | changes P / R | sides P / R | levels P / R |")
    print("|---|---|---|---|---|---|---|")
    for name, one in measured.items():
        cells = (_cell(pooled(table)) for table in (one.findings, one.changes, one.sides, one.levels))
        print(f"| {name} | {one.sentences} | {one.exact} | {' | '.join(cells)} |")
    for what in ("findings", "presences", "changes"):
        _table(what, measured)
    if "--errors" in sys.argv:
        for name, one in measured.items():
            print(f"\n## {name}\n" + "\n".join(one.errors))


def _table(what: str, measured: Mapping[str, Measured]) -> None:
    """One line for each class, precision / recall (number in the sentences) for each part."""
    print(f"\n| {what} | " + " | ".join(measured) + " |")
    print("|---" * (len(measured) + 1) + "|")
    for key in dict.fromkeys(key for one in measured.values() for key in getattr(one, what)):
        scores = [getattr(one, what).get(key) for one in measured.values()]
        print(f"| {key} | " + " | ".join("–" if score is None else _cell(score) for score in scores) + " |")


def _cell(score: Score) -> str:
    precision, recall = ("–" if value is None else f"{value:.2f}" for value in (score.precision, score.recall))
    return f"{precision} / {recall} ({score.right + score.missed})"


if __name__ == "__main__":
    main()
