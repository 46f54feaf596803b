"""`dicom-node feedback`: a table in, what is unmatched or contradictory, how far node and radiologists agree."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.admin.formats import label
from dicom_node.cli.common import ConfigOption, JsonOption, Row, console, open_node, print_json, print_rows
from dicom_node.errors import NodeError, UsageError
from dicom_node.feedback import agreement
from dicom_node.feedback import listing as feedback_listing
from dicom_node.feedback.csv_import import MAX_BYTES, import_table
from dicom_node.index.tables.reports import ReceivedReport, ReportState


def import_feedback(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV; columns: docs/feedback.md.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a table of radiologists' feedback. Exit 1 if a row was rejected; the others are stored."""
    text = _read_text(file, "a table")
    with open_node(config) as node, node.database.write() as session:
        imported = import_table(session, text, now=node.clock())
    if as_json:
        rejected = [{"line": line, "reason": reason} for line, reason in imported.rejected]
        print_json({"added": imported.added, "known": imported.known, "rejected": rejected})
    else:
        console.print(f"{imported.added} added, {imported.known} known already, {len(imported.rejected)} rejected")
        for line, reason in imported.rejected:
            console.print(f"  line {line}: {reason}")
    if imported.rejected:
        raise typer.Exit(1)


def list_feedback(
    state: Annotated[
        list[ReportState] | None,
        typer.Option("--state", help="Reports in this state; default: unmatched and contradictory ones."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Greatest number of each.")] = 200,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List unmatched and self-contradictory reports, and statements on which sources disagree."""
    with open_node(config) as node, node.database.read() as session:
        reports = feedback_listing.report_lines(session, state or feedback_listing.OPEN, limit=limit)
        contradictions = feedback_listing.contradiction_lines(session, limit=limit)
        counts = feedback_listing.report_counts(session)
    if as_json:
        print_json(
            {
                "counts": counts,
                "reports": [dataclasses.asdict(line) for line in reports],
                "contradictions": [dataclasses.asdict(line) for line in contradictions],
            }
        )
        return
    rows = [
        Row(
            cells=(str(line.id), label(line.kind), label(line.state), str(line.words), line.reason),
            below=(line.study_instance_uid,),
        )
        for line in reports
    ]
    print_rows(("report", "by", "state", "words", "why"), rows)
    for contradiction in contradictions:
        opinions = "; ".join(f"{label(value)}: {', '.join(who)}" for value, who in contradiction.said)
        of = f"{contradiction.finding.replace('_', ' ')} {label(contradiction.aspect)}"
        console.print(f"contradiction  {contradiction.study_instance_uid}  {of}  {opinions}")
    shown = ", ".join(f"{label(name)}: {count}" for name, count in sorted(counts.items()))
    console.print(f"reports: {shown or 'none'}")


def show_report(
    report: Annotated[int, typer.Argument(metavar="REPORT", help="Its number in `feedback list`.")],
    config: ConfigOption = None,
) -> None:
    """Show a report's text and its labels, each with its sentence and rule."""
    with open_node(config) as node, node.database.read() as session:
        row = session.get(ReceivedReport, report)
    if row is None:
        raise UsageError(f"no report {report}")
    print_json(
        {
            "id": row.id,
            "state": row.state,
            "reason": row.reason,
            "author": row.author,
            "text": row.text,
            "labeller": row.labeller,
            "labels": row.labels,
            "contradictions": row.contradictions,
        }
    )


def read_report_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A report as plain text, HTML or RTF, UTF-8.")],
    as_html: Annotated[bool, typer.Option("--html", help="Print a page instead of lines.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write there instead of the terminal.")] = None,
) -> None:
    """Show how a report's text is read, phrase by phrase, with the rule for each. Stores nothing."""
    from dicom_node.feedback.reading import reading_lines, reading_page

    text = _read_text(file, "a report", hint="; convert it first, e.g. with iconv")
    shown = reading_page(text) if as_html else "\n".join(reading_lines(text)) + "\n"
    if out is None:
        typer.echo(shown, nl=False)
        return
    try:
        out.write_text(shown, "utf-8")
    except OSError as error:
        raise NodeError(f"{out}: cannot be written: {error.strerror}") from error
    console.print(f"written: {out}")


def show_agreement(
    days: Annotated[float | None, typer.Option("--days", min=0.01, help="Only feedback of the last days.")] = None,
    device_uid: Annotated[str | None, typer.Option("--device-uid", help="Only this checkpoint's statements.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the agreement of node and radiologists by finding: counts and Cohen's kappa."""
    with open_node(config) as node, node.database.read() as session:
        since = node.clock() - dt.timedelta(days=days) if days is not None else None
        figures = {
            aspect: agreement.load_figures(session, since=since, device_uid=device_uid, aspect=aspect)
            for aspect in ("presence", "change")
        }
    if as_json:
        print_json({aspect: feedback_listing.agreement_json(by_finding) for aspect, by_finding in figures.items()})
        return
    for aspect, by_finding in figures.items():
        rows = [
            Row(
                cells=(
                    line.finding or "all",
                    str(line.judged),
                    "" if line.ratio is None else f"{100 * line.ratio:.0f} %",
                    "" if line.kappa is None else f"{line.kappa:.2f}",
                    str(line.node_only) if aspect == "presence" else "",
                    str(line.radiologist_only) if aspect == "presence" else "",
                    str(line.contradictory),
                )
            )
            for line in (*by_finding.values(), agreement.overall(by_finding))
        ]
        print_rows((aspect, "judged", "agree", "kappa", "node only", "radiologist only", "contradictory"), rows)


def register(app: typer.Typer) -> None:
    """Add `feedback import | list | show | read | agreement`."""
    group = typer.Typer(
        help="Import and summarise what radiologists say about the node's results.", no_args_is_help=True
    )
    group.command("import")(import_feedback)
    group.command("list")(list_feedback)
    group.command("show")(show_report)
    group.command("read")(read_report_file)
    group.command("agreement")(show_agreement)
    app.add_typer(group, name="feedback")


def _read_text(file: Path, what: str, *, hint: str = "") -> str:
    """Return a file's text. what: names it where it is too long; hint: follows where it is not UTF-8."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UsageError(f"{file}: {what} has at most {MAX_BYTES >> 20} MiB")
        return file.read_text("utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"{file}: no such file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 at byte {error.start}{hint}") from error
    except OSError as error:
        raise NodeError(f"{file}: cannot be read: {error.strerror}") from error
