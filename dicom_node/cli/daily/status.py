"""`status`: what the node holds and does, and what needs attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.admin import listings as reading
from dicom_node.admin.formats import amount, label
from dicom_node.chart.not_understood import unknown_parts
from dicom_node.cli.common import ConfigOption, JsonOption, Row, console, open_node, print_json, print_rows
from dicom_node.context import NodeContext
from dicom_node.index.tables.backfill import ENDED_RUN_STATES, BackfillRun
from dicom_node.index.tables.core import JobState, Quarantine, Study, StudyPurpose, StudyState
from dicom_node.jobs import backlog
from dicom_node.jobs.stalled_destinations import find_stalled
from dicom_node.retention.disk import disk_usage
from dicom_node.serving.workers import serving_lines


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show studies, jobs, deliveries and free disk space. Exit 1 if something needs attention."""
    with open_node(config) as node:
        values = _status(node)
    if as_json:
        print_json(values)
    else:
        rows = [
            Row(
                cells=(what, _in_words(what, which), str(count)),
                style="red" if which.endswith("dead") else None,
            )
            for what in ("studies", "jobs", "deliveries")
            for which, count in values[what].items()
        ]
        print_rows(("what", "which", "count"), rows)
        disk = values["disk"]
        console.print(f"disk    {disk['free_percent']:.1f} % free of {disk['total_bytes'] / 10**9:.0f} GB")
        for part in values["chart_not_understood"]:
            code = f"{part['code'] or 'none'} ({part['system'] or 'no system'})"
            console.print(f"chart    {part['kind']} not understood: {code}, {amount(part['times'], 'time')}")
        for line in values["backfill"]:
            console.print(f"backfill  {line}")
        for trouble in values["troubles"]:
            console.print(f"trouble  {trouble}", style="red")
    if values["troubles"]:
        raise typer.Exit(1)


def _in_words(what: str, which: str) -> str:
    """A key of the counts, "deliver dead" or "pacs stored", as the pages say it; a destination keeps its name."""
    first, _, state = which.rpartition(" ")
    of = label(first) if what == "jobs" else first
    return f"{of}: {label(state)}" if of else label(state)


def _status(node: NodeContext) -> dict[str, Any]:
    with node.database.read() as session:
        studies = {
            state.value: session.query(Study).filter(Study.state == state, Study.purpose == StudyPurpose.ROUTED).count()
            for state in StudyState
        }
        depth = {f"{kind.value} {state.value}": count for (kind, state), count in backlog.depth(session).items()}
        deliveries: dict[str, int] = {}
        for line in reading.delivery_counts(session):
            deliveries[f"{line[0]} {line[1].value}"] = line[2]
        serving = serving_lines(session, node.clock())
        unknown = [
            {"kind": row.kind, "code": row.code, "system": row.system, "times": row.times}
            for row in unknown_parts(session, limit=10)
        ]
        stalled = [destination.sentence() for destination in find_stalled(session)]
        unsettled = session.scalar(select(func.count()).where(Quarantine.resolved_at.is_(None))) or 0
        backfills = _backfill_lines(session, node)
        worker_troubles = backlog.worker_troubles(session)
    usage = disk_usage(node)
    troubles = _job_troubles(depth)
    troubles += [f"{line['wanted'] or 'the configured model'} does not load" for line in serving if line["error"]]
    troubles += worker_troubles + stalled
    if unsettled:
        objects_need = amount(unsettled, "object in quarantine needs", "objects in quarantine need")
        troubles.append(f"{objects_need} a decision: dicom-node quarantine")
    if usage.free_percent < node.settings.retention.keep_free_percent:
        troubles.append(f"the disk has {usage.free_percent:.1f} % free")
    return {
        "studies": studies,
        "jobs": depth,
        "deliveries": deliveries,
        "disk": {"total_bytes": usage.total, "free_bytes": usage.free, "free_percent": usage.free_percent},
        "chart_not_understood": unknown,
        "backfill": backfills,
        "troubles": troubles,
    }


def _job_troubles(depth: Mapping[str, int]) -> list[str]:
    return [
        f"{_in_words('jobs', name)}: {count}; `dicom-node jobs` says why"
        for name, count in depth.items()
        if name.endswith(f" {JobState.DEAD.value}")
    ]


def _backfill_lines(session: Session, node: NodeContext) -> list[str]:
    unfinished = ~BackfillRun.state.in_(ENDED_RUN_STATES)
    if session.scalar(select(BackfillRun.id).where(unfinished).limit(1)) is None:
        return []
    # Imported where there is one: counting a run takes parts of the node that other nodes need not load here.
    from dicom_node.backfill.run_text import summary_line, unfinished_runs

    return [summary_line(session, run, node) for run in unfinished_runs(session)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)
