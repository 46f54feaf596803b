"""The figures of `training.films.evaluate` as Markdown tables: those of docs/demonstration-model.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Row = tuple[str, ...]


def film_tables(figures: Mapping[str, Any]) -> str:
    """Every table, with a heading of the checkpoint and the numbers of films."""
    films = figures["films"]
    parts = [
        f"# {figures['model']}",
        f"{films['mined']} films with mined labels, {films['marked']} that radiologists read; 95 % intervals by"
        " bootstrap over patients.",
        _table(("figure", "value", "interval"), [*_presence_rows(figures), *_change_rows(figures)]),
        _table(
            ("pointing game, boxes", "films", "hits", "overlap"),
            (
                (_words_of(key), str(row["films"]), _three_digits(row["hits"]), _three_digits(row["overlap"]))
                for key, row in figures["pointing"].items()
            ),
        ),
        _table(
            ("statements of presence", "hit", "false", "missed", "not asked"),
            (
                (name, *(str(figures[part][kind]) for kind in ("hit", "false", "missed", "not asked")))
                for name, part in (
                    ("against radiologists", "statements, radiologists"),
                    ("against mined labels", "statements, reports"),
                    (f"labelled studies, {figures['labelled studies']['films']} films", "labelled studies"),
                )
            ),
        ),
        _table(
            ("subgroup, six findings, mined labels", "AUROC", "interval"), _intervals(figures["subgroups, reports"])
        ),
        _table(
            ("a kind of label read for the other", "AUROC", "interval"),
            (
                (f"{direction}: {name}", *rest)
                for direction, some in figures["agreement of the labels"].items()
                for name, *rest in _intervals(some)
            ),
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _presence_rows(figures: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for name, part in (
        ("mined labels", "presence, reports"),
        (
            f"mined labels, {figures['presence, reports, larger films']['films']} larger films",
            "presence, reports, larger films",
        ),
        ("radiologists", "presence, radiologists"),
    ):
        some = {key: value for key, value in figures[part].items() if key != "films"}
        rows += [
            (f"calibration error, {name}" if key == "ece" else f"AUROC, {name}: {_words_of(key)}", *rest)
            for key, (_, *rest) in zip(some, _intervals(some), strict=True)
        ]
    share = figures["unlike the training films"]
    return [*rows, ("films called unlike those of training", "-" if share is None else _three_digits(share), "")]


def _change_rows(figures: Mapping[str, Any]) -> list[Row]:
    change = figures["change"]
    rows: list[Row] = [(f"consistency: {name}", *rest) for name, *rest in _intervals(figures["consistency"])]
    for name, part in (
        ("the model", "model"),
        ('always "nothing has changed"', "nothing has changed"),
        ("the commonest answer", "majority"),
    ):
        rows += [(f"change on {change['pairs']} read pairs, macro F1: {name}", *_interval(change[part]))]
    rows += [(f"change, F1: {state}", _three_digits(value), "") for state, value in change["by state"].items()]
    return [
        *rows,
        *((f"worse against better: {name}", *rest) for name, *rest in _intervals(change["worse against better"])),
    ]


def _intervals(some: Mapping[str, Any]) -> list[Row]:
    return [(_words_of(key), *_interval(value)) for key, value in some.items()]


def _interval(value: Mapping[str, float]) -> Row:
    if math.isnan(value["value"]):
        return "–", ""
    return _three_digits(value["value"]), f"{_three_digits(value['low'])}–{_three_digits(value['high'])}"


def _three_digits(value: float) -> str:
    return f"{value:.3f}"


def _words_of(key: str) -> str:
    return key.replace("_", " ")


def _table(heads: Row, rows: Iterable[Row]) -> str:
    """A table; nothing for no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *lines])
