"""`status`, `studies`, `jobs`, `retry`, `abandon`, `reprocess`, `resend`, `purge`: an administrator's daily work."""

from __future__ import annotations

import dataclasses
import getpass
from typing import Annotated, Any

import typer
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.admin import listings as reading
from dicom_node.admin.formats import day, label, moment, person_name, words_for
from dicom_node.admin.job_listings import job_lines
from dicom_node.chart.not_understood import unknown_parts
from dicom_node.cli.common import ConfigOption, JsonOption, Row, console, open_node, print_json, print_rows
from dicom_node.context import NodeContext
from dicom_node.errors import UsageError
from dicom_node.index.tables.backfill import ENDED_RUN_STATES, BackfillRun
from dicom_node.index.tables.core import Job, JobState, Outcome, Quarantine, Study, StudyPurpose, StudyState
from dicom_node.jobs import backlog
from dicom_node.jobs.stalled_destinations import find_stalled
from dicom_node.retention.disk import disk_usage
from dicom_node.serving.workers import serving_lines

MEGABYTE = 10**6


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
            console.print(f"chart    {part['kind']} not understood: {code}, {part['times']} times")
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
    troubles = [
        f"{_in_words('jobs', name)}: {count}; `dicom-node jobs` says why"
        for name, count in depth.items()
        if name.endswith(f" {JobState.DEAD.value}")
    ]
    troubles += [f"{line['wanted'] or 'the configured model'} does not load" for line in serving if line["error"]]
    troubles += worker_troubles + stalled
    if unsettled:
        troubles.append(f"{unsettled} objects in quarantine need a decision: dicom-node quarantine")
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


def _backfill_lines(session: Session, node: NodeContext) -> list[str]:
    unfinished = ~BackfillRun.state.in_(ENDED_RUN_STATES)
    if session.scalar(select(BackfillRun.id).where(unfinished).limit(1)) is None:
        return []
    # Imported where there is one: counting a run takes parts of the node that other nodes need not load here.
    from dicom_node.backfill.words import summary_line, unfinished_runs

    return [summary_line(session, run, node) for run in unfinished_runs(session)]


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
            below=(row.key, row.last_error),
            style="red" if row.state is JobState.DEAD else None,
        )
        for row in rows
    ]
    print_rows(("id", "kind", "state", "attempts", "due (UTC)"), shown)
    console.print(f"{len(shown)} jobs")


def retry(
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID", help="Numbers of failed jobs (see `jobs`).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All failed jobs.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try failed jobs again."""
    from dicom_node.admin import operations

    if bool(ids) == everything:
        raise UsageError("name the failed jobs by their numbers, or give --all")
    with open_node(config) as node, node.database.write() as session:
        keys = None
        if ids:
            key_of = {row.id: row.key for row in session.execute(select(Job.id, Job.key).where(Job.id.in_(ids)))}
            missing = [str(job_id) for job_id in ids if job_id not in key_of]
            if missing:
                raise UsageError(f"no job {', '.join(missing)}; `dicom-node jobs` lists them")
            keys = list(key_of.values())
        revived = operations.retry(session, now=node.clock(), keys=keys)
    if as_json:
        print_json({"revived": revived})
    else:
        console.print(f"{len(revived)} jobs will be tried again")


def abandon(
    ids: Annotated[list[int], typer.Argument(metavar="ID", help="Job numbers of failed deliveries (see `jobs`).")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the delivery.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give up failed deliveries, for example to a destination that no longer exists."""
    from dicom_node.admin import operations

    with open_node(config) as node, node.database.write() as session:
        ended = operations.abandon(
            session, set(ids), reason=reason, settings=node.settings, now=node.clock(), who=getpass.getuser()
        )
    if as_json:
        print_json({"abandoned": ended})
    else:
        console.print(f"{len(ended)} deliveries are abandoned")


def reprocess(
    study: Annotated[str, typer.Argument(metavar="STUDY_UID", help="StudyInstanceUID (see `studies`).")],
    config: ConfigOption = None,
) -> None:
    """Analyse a study again; the new result replaces the old one and is sent."""
    from dicom_node.admin import operations

    with open_node(config) as node, node.database.write() as session:
        generation = operations.reprocess(
            session, study, settings=node.settings, now=node.clock(), who=getpass.getuser()
        )
    console.print(f"generation {generation} will be analysed")


def resend(
    study: Annotated[str, typer.Argument(metavar="STUDY_UID", help="StudyInstanceUID (see `studies`).")],
    config: ConfigOption = None,
) -> None:
    """Send the current documents of a study again."""
    from dicom_node.admin import operations

    with open_node(config) as node, node.database.write() as session:
        count = operations.resend_study(session, study, settings=node.settings, now=node.clock(), who=getpass.getuser())
    console.print(f"{count} deliveries will be made again")


def purge(
    for_real: Annotated[bool, typer.Option("--yes", help="Remove; without it only the plan is shown.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what retention would remove now; with --yes remove it."""
    from dicom_node.retention import removal as retention

    with open_node(config) as node:
        plan = retention.plan_now(node)
        gone = retention.carry_out(node, plan) if for_real else 0
    if as_json:
        print_json(
            {
                "dry_run": not for_real,
                "removed": gone,
                "plan": [
                    {
                        "study_instance_uid": removal.candidate.study_instance_uid,
                        "why": removal.why,
                        "bytes": removal.candidate.size_bytes,
                        "last_instance_at": removal.candidate.last_instance_at,
                    }
                    for removal in plan
                ],
            }
        )
        return
    rows = [
        Row(
            cells=(day(removal.candidate.study_date), f"{removal.candidate.size_bytes / MEGABYTE:.1f}", removal.why),
            below=(removal.candidate.study_instance_uid,),
        )
        for removal in plan
    ]
    print_rows(("date", "MB", "why"), rows)
    total = sum(removal.candidate.size_bytes for removal in plan) / MEGABYTE
    if for_real:
        console.print(f"removed {gone} of {len(plan)} studies")
    else:
        console.print(f"would remove {len(plan)} studies, {total:.1f} MB; --yes removes them")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (status, studies, jobs, retry, abandon, reprocess, resend, purge):
        app.command()(command)
