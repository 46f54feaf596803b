"""The tables of the study of the arms, written into a document between two marks, and as JSON beside it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.questions.grammar import NOTHING, Tense, write_events
from training.arms.ask import AnswerSet, ArmAnswer
from training.arms.scores import arm_figures, measure_run, p_values
from training.metrics.baselines import majority_answers
from training.metrics.significance import Interval
from training.metrics.summed import SummedFigure
from training.records.drops import DataError

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
ZERO, DIAGNOSTIC, BASELINE = "zero-shot", "diagnostic only", "majority, nothing has changed"
WITHOUT = ", asked without its text"
"""Ends the names of the extra rows of arms that learned with the expert's text."""
Results = Mapping[str, Sequence[tuple[dict[str, Any], dict[str, list[ArmAnswer]]]]]

TABLES: Mapping[str, tuple[str, ...]] = {
    "One image; change; order": (
        "closed accuracy",
        "open recall",
        "change macro F1",
        "event F1",
        "order-swap",
        "order-swap, changed",
    ),
    "Difference and prediction": (
        "difference BLEU-4",
        "difference ROUGE-L",
        "difference CIDEr",
        "prediction BLEU-4",
        "prediction ROUGE-L",
        "prediction CIDEr",
    ),
    "Both together; prediction with both images shown": (
        "together BLEU-4",
        "together ROUGE-L",
        "together CIDEr",
        "prediction, both images BLEU-4",
        "prediction, both images ROUGE-L",
        "prediction, both images CIDEr",
    ),
}


def write_study(results: Results, doc: Path) -> tuple[Path, Path]:
    """Put the tables into `doc` and write the JSON beside it; returns both paths. Raises DataError."""
    if not results:
        raise DataError("there is no result of the study to make a table of")
    rows = study_rows(results)
    before, mark, rest = doc.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise DataError(f"{doc} lacks the marks {BEGIN} and {END}")
    figures = {name: arm_figures(runs) for name, runs in rows.items()}
    tests = _tests(rows)
    doc.write_text(f"{before}{BEGIN}\n{_tables(figures, rows, tests)}\n{END}{after}", "utf-8")
    values = {
        "runs": {name: [about for about, _ in runs] for name, runs in results.items()},
        "figures": {name: {k: asdict(v) for k, v in by_metric.items()} for name, by_metric in figures.items()},
        "p": {f"{second} | {first}": p_value for (first, second), p_value in tests.items()},
    }
    data = doc.with_suffix(".json")
    data.write_text(json.dumps(finite(values), indent=1, allow_nan=False) + "\n", "utf-8")
    return doc, data


def finite(value: Any) -> Any:
    """The same plain values with None in the place of what is no number."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def study_rows(results: Results) -> dict[str, list[dict[str, SummedFigure]]]:
    """Row name → figures of each run. An arm with the expert is scored with its text, and once more without."""
    some = next(iter(results.values()))[0][1]["without"]
    rows: dict[str, list[dict[str, SummedFigure]]] = {BASELINE: [measure_run(_blind(some))]}
    extra: dict[str, list[dict[str, SummedFigure]]] = {}
    for name, runs in results.items():
        rows[name] = [measure_run(answers.get("with", answers["without"])) for _, answers in runs]
        if any("with" in answers for _, answers in runs):
            extra[f"{name}{WITHOUT}"] = [measure_run(answers["without"]) for _, answers in runs]
    return rows | extra


def _blind(said: Sequence[ArmAnswer]) -> list[ArmAnswer]:
    """The baseline that sees no image: each question's most frequent true answer of this very test (which flatters
    it), and that nothing has changed or will."""
    majority = majority_answers((f"{item.set}/{_question(item)}", item.truth) for item in said)
    blind = []
    for item in said:
        answer = majority.answer(f"{item.set}/{_question(item)}")
        if item.set in (AnswerSet.DIFFERENCE, AnswerSet.PREDICTION, AnswerSet.PREDICTION_BOTH):
            tense = Tense.DIFFERENCE if item.set is AnswerSet.DIFFERENCE else Tense.PREDICTION
            answer = write_events([NOTHING], tense)
        blind.append(ArmAnswer(set=item.set, key=item.key, pair=item.pair, truth=item.truth, said=answer, back=answer))
    return blind


def _question(item: ArmAnswer) -> str:
    """The key without its pair."""
    return item.key.partition("/")[2]


def _tests(rows: Mapping[str, Sequence[Mapping[str, SummedFigure]]]) -> dict[tuple[str, str], dict[str, float]]:
    """p of each arm against the one before it and against diagnostic only; extra rows against diagnostic only."""
    arms = [name for name in rows if name != BASELINE and not name.endswith(WITHOUT)]
    pairs = list(itertools.pairwise(arms))
    pairs += [(DIAGNOSTIC, name) for name in rows if name not in (BASELINE, ZERO, DIAGNOSTIC)]
    known = [(first, second) for first, second in dict.fromkeys(pairs) if first in rows]
    return {(first, second): p_values(rows[first], rows[second]) for first, second in known}


def _tables(
    figures: Mapping[str, Mapping[str, Interval]],
    rows: Mapping[str, Sequence[Mapping[str, SummedFigure]]],
    tests: Mapping[tuple[str, str], Mapping[str, float]],
) -> str:
    parts = []
    for title, names in TABLES.items():
        head = ["arm", "runs", *names]
        body = [
            [name, str(len(rows[name])), *(_cell(by_metric.get(figure)) for figure in names)]
            for name, by_metric in figures.items()
        ]
        parts.append(f"### {title}\n\n{write_table(head, body)}")
    for title, chosen in (
        ("p against the arm before it", [pair for pair in tests if pair[0] != DIAGNOSTIC or pair[1] == "+ difference"]),
        ("p against diagnostic only", [pair for pair in tests if pair[0] == DIAGNOSTIC]),
    ):
        scored = [name for group in TABLES.values() for name in group if any(name in tests[pair] for pair in chosen)]
        body = [[name, *(write_p(tests[pair].get(name)) for pair in chosen)] for name in scored]
        parts.append(f"### {title}\n\n{write_table(['figure', *(second for _, second in chosen)], body)}")
    return "\n\n".join(parts)


def write_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(found: Interval | None) -> str:
    if found is None or not math.isfinite(found.value):
        return "–"
    return f"{found.value:.3f} ({found.low:.3f}–{found.high:.3f})"


def write_p(value: float | None) -> str:
    """Write the p of a test, a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
