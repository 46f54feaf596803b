"""`retry`, `abandon`, `reprocess`, `resend`, `purge`: what an administrator decides."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from sqlalchemy import select

from dicom_node.admin.formats import amount, day
from dicom_node.cli.common import ConfigOption, JsonOption, Row, console, open_node, print_json, print_rows
from dicom_node.errors import UsageError
from dicom_node.index.tables.core import Job

if TYPE_CHECKING:
    from dicom_node.retention.removal import Removal

MEGABYTE = 10**6


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
        console.print(f"{amount(len(revived), 'job')} will be tried again")


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
        console.print(f"{amount(len(ended), 'delivery is', 'deliveries are')} abandoned")


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
    console.print(f"{amount(count, 'delivery', 'deliveries')} will be made again")


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
        print_json({"dry_run": not for_real, "removed": gone, "plan": [_removal_values(removal) for removal in plan]})
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
        console.print(f"removed {gone} of {amount(len(plan), 'study', 'studies')}")
    else:
        console.print(f"would remove {amount(len(plan), 'study', 'studies')}, {total:.1f} MB; --yes removes this")


def _removal_values(removal: Removal) -> dict[str, Any]:
    return {
        "study_instance_uid": removal.candidate.study_instance_uid,
        "why": removal.why,
        "bytes": removal.candidate.size_bytes,
        "last_instance_at": removal.candidate.last_instance_at,
    }


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (retry, abandon, reprocess, resend, purge):
        app.command()(command)
