"""`dicom-node drift`: the weekly figures of images and answers against their control limits."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dicom_node.cli.common import ConfigOption, JsonOption, Row, console, open_node, print_json, print_rows
from dicom_node.drift import weekly as weeks
from dicom_node.index.tables.models import DriftFigure

HEADS = ("figure", "n", "value", "limits", "baseline", "against", "")


def drift(
    last: Annotated[int, typer.Option("--weeks", min=1, max=520, help="Number of judged weeks to show.")] = 1,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the weeks that have ended for drift and show the newest. Exit 1 if one of its figures raises an alarm."""
    with open_node(config) as node:
        weeks.run(node)
        with node.database.read() as session:
            rows = weeks.latest(session, last)
        needs = node.settings.drift
    lines = [drift_values(row) for row in rows]
    if as_json:
        print_json({"figures": lines})
    elif not lines:
        console.print(
            f"no week is judged yet: that takes {needs.baseline_weeks} weeks with {needs.min_pairs} pairs or more as a"
            " baseline, and one after them"
        )
    else:
        for week, of in dict.fromkeys((line["week"], line["of"]) for line in lines):
            console.print(f"week of {week}, {'images' if of == 'images' else f'answers of {of}'}")
            print_rows(HEADS, [_row(line) for line in lines if (line["week"], line["of"]) == (week, of)])
    if any(line["alarm"] for line in lines):
        raise typer.Exit(1)


def _row(line: dict[str, Any]) -> Row:
    base = f"{line['baseline']:.3f}" if line["baseline"] is not None else ""
    limits = f"{line['low']:.3f} to {line['high']:.3f}"
    cells = (line["figure"], str(line["n"]), f"{line['value']:.3f}", limits, base, line["against"])
    alarm = "ALARM" if line["alarm"] else ""
    return Row(cells=(*cells, alarm), style="red" if alarm else None)


def drift_values(row: DriftFigure) -> dict[str, Any]:
    """One figure as plain values. of: "images", or the checkpoint's Device UID. against: which baseline."""
    return {
        "week": row.week,
        "of": row.device_uid or "images",
        "figure": row.figure,
        "n": row.n,
        "value": row.value,
        "low": row.low,
        "high": row.high,
        "baseline": row.baseline,
        "against": weeks.source_of(row),
        "alarm": row.alarm,
    }


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(drift)
