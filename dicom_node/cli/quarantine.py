"""`dicom-node quarantine`: what was set apart, and a person's word that it is settled."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from dicom_node.admin import quarantine as apart
from dicom_node.admin.formats import amount, moment
from dicom_node.cli.common import ConfigOption, JsonOption, Row, console, open_node, print_json, print_rows
from dicom_node.index.tables.core import Quarantine, QuarantineReason


def quarantine(
    settled: Annotated[
        list[int] | None,
        typer.Option(
            "--settle",
            metavar="ID",
            help="Settle: the stored image is right. Repeatable; the quarantined file is deleted.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Greatest number of lines.")] = 200,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List quarantined objects, which need a decision; with --settle mark one as settled.

    Reason "conflict": a trusted peer (a destination, a query peer or one of [[receive.peers]] with reject = true) sent
    an object with the UID of a stored image but other content, possibly of another patient. Until it is settled, that
    image is neither analysed nor compared with. Reason "claim": the same from any other peer; it changes nothing.
    Settling states that the stored image is right, and its study is analysed again; use `reprocess` for a study that
    was not compared with it meanwhile. If the quarantined object is right, leave it in quarantine and have the archive
    withdraw the stored image by a rejection note.
    """
    with open_node(config) as node:
        opened = apart.settle(node, set(settled), who=getpass.getuser()) if settled else 0
        with node.database.read() as session:
            rows = apart.waiting(session, limit=limit)
    if as_json:
        keys = ("id", "reason", "detail", "sop_instance_uid", "path", "calling_ae_title", "received_at", "times")
        print_json([{key: getattr(row, key) for key in keys} for row in rows])
        return
    print_rows(("id", "reason", "from", "times", "last (UTC)"), [_line(row) for row in rows])
    if settled:
        console.print(f"{len(settled)} settled; {amount(opened, 'study is', 'studies are')} opened again")
    console.print(f"{amount(len(rows), 'object is', 'objects are')} set apart")
    claims = sum(row.reason is QuarantineReason.CLAIM for row in rows)
    if claims:
        words = amount(claims, "is a claim", "are claims")
        console.print(f"{words} of peers whose word does not count: the images named are used as before")


def _line(row: Quarantine) -> Row:
    return Row(
        cells=(str(row.id), row.reason, row.calling_ae_title, str(row.times), moment(row.received_at)),
        below=(row.sop_instance_uid, row.detail, row.path),
        style="red",
    )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(quarantine)
