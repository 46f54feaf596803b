"""`dicom-node audit list`: who did what to whose data (DICOM PS3.15 section A.5)."""

from __future__ import annotations

import dataclasses
import datetime as dt
import getpass
from typing import Annotated

import typer

from dicom_node.admin.formats import amount, moment
from dicom_node.audit import messages as audit
from dicom_node.audit.listing import AuditFilter, AuditLine, audit_lines, events_by_name
from dicom_node.cli.common import ConfigOption, JsonOption, Row, console, open_node, print_json, print_rows
from dicom_node.errors import UsageError


def list_command(
    since: Annotated[str, typer.Option(help="Messages from this time on: 2026-11-29 or 2026-11-29T18:00, UTC.")] = "",
    until: Annotated[str, typer.Option(help="Messages before this time, in the same form.")] = "",
    actor: Annotated[str, typer.Option(help="Part of a user's name, a host or an AE title.")] = "",
    patient: Annotated[str, typer.Option(help="Part of a Patient ID or name.")] = "",
    event: Annotated[str, typer.Option(help='Event or event type: its DCM code or name, such as "query".')] = "",
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=100_000, help="Greatest number of messages, the newest first.")
    ] = 100,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List audit messages, newest first. Reading them is itself written to the audit trail."""
    chosen = AuditFilter(since=_time(since), until=_time(until), actor=actor, patient=patient, event=_event(event))
    with open_node(config) as node:
        with node.database.read() as session:
            lines = audit_lines(session, chosen, limit=limit)
        with node.database.write() as session:
            audit.record(
                session,
                audit.AuditedEvent.AUDIT_LOG_USED,
                now=node.clock(),
                participants=(audit.Participant(user_id=getpass.getuser(), requestor=True),),
                audit_log=node.settings.node.data_dir.as_uri(),
                site=node.settings.audit.site,
            )
    if as_json:
        print_json([dataclasses.asdict(line) for line in lines])
        return
    print_rows(("when (UTC)", "event", "type", "outcome"), [_row(line) for line in lines])
    console.print(
        amount(len(lines), "message") + (f"; there may be more, --limit is {limit}" if len(lines) == limit else "")
    )


def _row(line: AuditLine) -> Row:
    below = [f"by {', '.join(line.actors)}" if line.actors else "", *line.patients, *line.studies]
    return Row(
        cells=(moment(line.at), line.event, line.event_type, line.outcome),
        below=tuple(below),
        style=None if line.outcome == "success" else "red",
    )


def _time(text: str) -> dt.datetime | None:
    """An aware time; one without an offset is UTC. Raises UsageError."""
    if not text:
        return None
    try:
        value = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no time; write 2026-11-29 or 2026-11-29T18:00") from error
    return value if value.tzinfo else value.replace(tzinfo=dt.UTC)


def _event(text: str) -> str:
    """The code value of an event's code or name, or of a part of one name. Raises UsageError naming what there is."""
    names = events_by_name()
    if not text or text in names.values():
        return text
    codes = {code for name, code in names.items() if text.lower() in name}
    codes = {names[text.lower()]} if text.lower() in names else codes
    if len(codes) != 1:
        raise UsageError(f"--event {text!r}: write one of {', '.join(sorted(names))}, or a code of them")
    return codes.pop()


def register(app: typer.Typer) -> None:
    """Add `audit list`."""
    group = typer.Typer(help="Show who did what to whose data.", no_args_is_help=True)
    group.callback()(lambda: None)
    group.command("list")(list_command)
    app.add_typer(group, name="audit")
