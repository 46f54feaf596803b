"""`studies` and `jobs`: the lists that the pages show, on the command line."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from dicom_node.admin import listings as reading
from dicom_node.admin.formats import amount, day, label, moment, person_name, words_for
from dicom_node.admin.job_listings import job_lines, what_jobs_are_about
from dicom_node.cli.common import ConfigOption, JsonOption, Row, console, open_node, print_json, print_rows
from dicom_node.index.tables.core import JobState, Outcome, StudyState


def studies(
    search: Annotated[str, typer.Option("--search", help="Words of name, ID or accession number.")] = "",
    state: Annotated[
        StudyState | None, typer.Option("--state", help=f"Only studies in this state ({words_for(StudyState)}).")
    ] = None,
    outcome: Annotated[
        Outcome | None, typer.Option("--outcome", help=f"Only results with this outcome ({words_for(Outcome)}).")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Greatest number of lines.")] = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the studies that were sent to the node, newest first."""
    with open_node(config) as node, node.database.read() as session:
        chosen = reading.Filter(words=search, state=state, outcome=outcome, limit=limit)
        lines, total = reading.work_list(session, chosen)
    if as_json:
        print_json({"total": total, "studies": [dataclasses.asdict(line) for line in lines]})
        return
    rows = [
        Row(
            cells=(
                day(line.study_date),
                label(line.state),
                label(line.outcome),
                "; ".join(f"{label(name)}: {count}" for name, count in line.deliveries.items()),
                f"{person_name(line.patient_name)} ({line.patient_id})",
            ),
            below=(
                "its date lies in the future" if line.is_dated_ahead else "",
                line.reason,
                ", ".join(f"critical: {finding}" for finding in line.critical),
                ", ".join(f"{label(change)}: {finding}" for change, finding in line.changes),
                line.study_instance_uid,
            ),
            style="red" if line.failed else None,
        )
        for line in lines
    ]
    print_rows(("date", "state", "outcome", "delivery", "patient"), rows)
    console.print(f"{len(lines)} of {total}")


def jobs(
    state: Annotated[
        JobState | None, typer.Option("--state", help=f"Default: all that are not done ({words_for(JobState)}).")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Greatest number of lines.")] = 200,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the jobs that are not done, failed ones first."""
    with open_node(config) as node, node.database.read() as session:
        rows = job_lines(session, state, limit=limit)
        abouts = what_jobs_are_about(session, rows)
    if as_json:
        keys = ("id", "kind", "key", "state", "attempts", "max_attempts", "run_at", "created_at", "last_error")
        print_json([{key: getattr(row, key) for key in keys} for row in rows])
        return
    shown = [
        Row(
            cells=(
                str(row.id),
                label(row.kind),
                label(row.state),
                f"{row.attempts}/{row.max_attempts}",
                moment(row.run_at),
            ),
            below=(" ".join(abouts.get(row.id, (row.key,))), row.last_error),
            style="red" if row.state is JobState.DEAD else None,
        )
        for row in rows
    ]
    print_rows(("id", "kind", "state", "attempts", "due (UTC)"), shown)
    console.print(amount(len(shown), "job"))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (studies, jobs):
        app.command()(command)
