"""`dicom-node backfill`: begin, watch, pause, resume and report runs over an archive's past studies."""

from __future__ import annotations

import csv
import datetime as dt
import getpass
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from sqlalchemy import select

from dicom_node.admin.formats import day
from dicom_node.backfill import runs
from dicom_node.backfill.dry_run import DryRun, dry_run
from dicom_node.backfill.limits import obstacle, windows_of
from dicom_node.backfill.progress import failed_ranges, progress_of, report_rows
from dicom_node.backfill.run_text import duration, run_lines, run_values
from dicom_node.cli.common import ConfigOption, JsonOption, console, open_node, print_json, printable
from dicom_node.context import NodeContext
from dicom_node.dicom.uids import is_uid
from dicom_node.errors import UsageError
from dicom_node.index.tables.backfill import BackfillItemState, BackfillRun
from dicom_node.weekly_window import parse_schedule

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the run.")]
PerMinuteOption = Annotated[
    float | None, typer.Option("--per-minute", min=0.01, max=1000, help="Studies fetched per minute, priors included.")
]
AtOnceOption = Annotated[int | None, typer.Option("--at-once", min=1, max=64, help="Studies fetched at the same time.")]
HoursOption = Annotated[
    str | None,
    typer.Option("--hours", help='When the archive may be asked: "mon-fri 20:00-06:00; sat,sun 00:00-24:00".'),
]
ZoneOption = Annotated[str | None, typer.Option("--timezone", help='Time zone of the hours, such as "Europe/Berlin".')]
MOST_ANSWERS = 100
"""Below the limit that archives are commonly set to, so that an answer cut short without a word is not believed."""


def start(
    name: NameArgument,
    first: Annotated[str, typer.Option("--from", help="First study date, 2015-01-01.")] = "",
    last: Annotated[str, typer.Option("--to", help="Last study date, 2019-12-31.")] = "",
    studies: Annotated[
        str, typer.Option("--studies", help="Instead of dates: a file of StudyInstanceUIDs, one per line; - for stdin.")
    ] = "",
    archive: Annotated[str, typer.Option("--archive", help="Name of the [[query]] peer, if there are several.")] = "",
    reports: Annotated[
        bool, typer.Option("--reports/--no-reports", help="Send the reports to the destinations as well.")
    ] = False,
    per_minute: PerMinuteOption = None,
    at_once: AtOnceOption = None,
    hours: HoursOption = None,
    timezone: ZoneOption = None,
    most_answers: Annotated[
        int,
        typer.Option(
            "--answers",
            min=2,
            max=1000,
            help="If a query returns this many studies, split its dates in two and query again.",
        ),
    ] = MOST_ANSWERS,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Query the archive and count; start nothing.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a run over the archive's studies in a range of dates, or over a list. Sends no report without --reports."""
    limits = _limits(runs.BackfillLimits(), per_minute, at_once, hours, timezone)
    dates = _dates(first, last, studies)
    uids = tuple(_read_uids(studies)) if studies else ()
    with open_node(config) as node:
        new = runs.NewRun(
            name=name,
            archive=runs.peer_named(node.settings, archive).name,
            dates=dates,
            studies=uids,
            sends_reports=reports,
            limits=limits,
            most_answers=most_answers,
        )
        if is_dry_run:
            _print_dry_run(dry_run(new, node), new, node, as_json=as_json)
            return
        with node.database.write() as session:
            run = runs.start_run(session, new, settings=node.settings, now=node.clock(), who=getpass.getuser())
        _print_run(run, node, as_json=as_json)


def status(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a run; default: all.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the progress of the runs, what delays them, and the estimated time left."""
    with open_node(config) as node:
        with node.database.read() as session:
            named = [runs.run_named(session, name)] if name else []
            shown = named or list(session.scalars(select(BackfillRun).order_by(BackfillRun.id)))
        if as_json:
            print_json([run_values(run, node) for run in shown])
            return
        if not shown:
            console.print("there is no run; `dicom-node backfill start` begins one")
        for run in shown:
            _print_run(run, node)


def pause(name: NameArgument, config: ConfigOption = None) -> None:
    """Stop queries and retrievals until `resume`; studies already fetched are still analysed."""
    with open_node(config) as node:
        with node.database.write() as session:
            runs.pause_run(session, name, settings=node.settings, now=node.clock(), who=getpass.getuser())
        _print_named(name, node)


def resume(
    name: NameArgument,
    per_minute: PerMinuteOption = None,
    at_once: AtOnceOption = None,
    hours: HoursOption = None,
    timezone: ZoneOption = None,
    config: ConfigOption = None,
) -> None:
    """Continue a paused run, or change the limits of a running one."""
    who = getpass.getuser()
    with open_node(config) as node:
        with node.database.write() as session:
            run = runs.run_named(session, name)
            present = runs.BackfillLimits(
                per_minute=run.per_minute, at_once=run.at_once, hours=run.hours, timezone=run.timezone
            )
            limits = _limits(present, per_minute, at_once, hours, timezone)
            runs.resume_run(session, name, limits=limits, settings=node.settings, now=node.clock(), who=who)
        _print_named(name, node)


def cancel(name: NameArgument, config: ConfigOption = None) -> None:
    """End a run for good; its results stay, and its report lists what was not done."""
    with open_node(config) as node:
        with node.database.write() as session:
            runs.cancel_run(session, name, settings=node.settings, now=node.clock(), who=getpass.getuser())
        _print_named(name, node)


def retry(name: NameArgument, config: ConfigOption = None) -> None:
    """Try the failed studies and date ranges of a run again."""
    with open_node(config) as node, node.database.write() as session:
        ranges, items = runs.retry_run(session, name, settings=node.settings, now=node.clock(), who=getpass.getuser())
    console.print(f"{items} studies and {ranges} date ranges are tried again")


def report(
    name: NameArgument,
    state: Annotated[BackfillItemState | None, typer.Option("--state", help="Only studies in this state.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the state of every study of a run and the reason, as CSV or with --json."""
    with open_node(config) as node, node.database.read() as session:
        run = runs.run_named(session, name)
        failed = failed_ranges(session, run)
        missing = [{"from": p.first_date, "to": p.last_date, "why": p.last_error} for p in failed]
        rows = report_rows(session, run, state=state)
        if as_json:
            print_json({"run": name, "ranges_failed": missing, "studies": list(rows)})
            return
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(sys.stdout, list(row))
                writer.writeheader()
            writer.writerow({key: printable(value) if isinstance(value, str) else value for key, value in row.items()})
    for part in missing:
        typer.echo(f"studies of {day(part['from'])} to {day(part['to'])} may be missing: {part['why']}", err=True)


def _limits(
    present: runs.BackfillLimits, per_minute: float | None, at_once: int | None, hours: str | None, timezone: str | None
) -> runs.BackfillLimits:
    """The present limits with what was given in place of theirs. Raises UsageError for what is no schedule or zone."""
    given = {"per_minute": per_minute, "at_once": at_once, "hours": hours, "timezone": timezone}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    limits = replace(present, **changes)
    try:
        for window in windows_of(limits.hours):
            parse_schedule(window)
        if limits.timezone:
            ZoneInfo(limits.timezone)
    except (ZoneInfoNotFoundError, OSError):
        raise UsageError('--timezone: a time zone is an IANA name such as "Europe/Berlin"') from None
    except ValueError as error:
        raise UsageError(f"--hours: {error}") from None
    if len(limits.hours) > 255:
        raise UsageError("--hours: at most 255 characters")
    return limits


def _dates(first: str, last: str, studies: str) -> tuple[dt.date, dt.date] | None:
    """The dates of the options, None where a list of studies is given. Raises UsageError."""
    if studies and (first or last):
        raise UsageError("give --studies or --from and --to, not both")
    if studies:
        return None
    if not first or not last:
        raise UsageError("give --from and --to, or a list of studies with --studies")
    days = []
    for option, text in (("--from", first), ("--to", last)):
        try:
            days.append(dt.date.fromisoformat(text))
        except ValueError:
            raise UsageError(f"{option}: {text!r} is no date; allowed is 2015-01-31") from None
    if days[0] > days[1]:
        raise UsageError(f"--from {first} is after --to {last}")
    return days[0], days[1]


def _read_uids(source: str) -> Iterator[str]:
    """The UIDs of a file, one a line; blank lines and what follows a # are no matter. Raises UsageError."""
    lines = sys.stdin if source == "-" else Path(source).read_text("utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        uid = line.partition("#")[0].strip()
        if uid and not is_uid(uid):
            raise UsageError(f"--studies: line {number} is no UID: {printable(uid)[:80]!r}")
        if uid:
            yield uid


def _print_named(name: str, node: NodeContext) -> None:
    with node.database.read() as session:
        run = runs.run_named(session, name)
    _print_run(run, node)


def _print_run(run: BackfillRun, node: NodeContext, *, as_json: bool = False) -> None:
    if as_json:
        print_json(run_values(run, node))
        return
    with node.database.read() as session:
        counted = progress_of(session, run, now=node.clock())
    for line in run_lines(run, counted, obstacle(run, node)):
        console.print(printable(line))


def _print_dry_run(counted: DryRun, new: runs.NewRun, node: NodeContext, *, as_json: bool) -> None:
    if as_json:
        print_json(counted.values())
        return
    for word, count in counted.values().items():
        if isinstance(count, int):
            console.print(f"{count:8d}  {word.replace('_', ' ')}")
    for text in counted.incomplete:
        console.print(printable(f"  studies may be missing: {text}"))
    minutes = counted.to_fetch / new.limits.per_minute
    console.print(
        f"at {new.limits.per_minute:g} a minute and without priors: about {duration(dt.timedelta(minutes=minutes))}"
    )
    kinds = sum(len(destination.documents) for destination in node.settings.destinations)
    console.print(
        f"with --reports up to {counted.to_fetch * kinds} documents would be sent"
        if new.sends_reports
        else "no report is sent; --reports would send them"
    )


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Analyse an archive's past studies as bulk work.", no_args_is_help=True)
    for command in (start, status, pause, resume, cancel, retry, report):
        group.command()(command)
    app.add_typer(group, name="backfill")
