"""`dicom-node report`: looking at Structured Reports."""

from __future__ import annotations

from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from sqlalchemy import select

from dicom_node.cli.common import ConfigOption, open_node, printable
from dicom_node.dicom.uids import is_uid
from dicom_node.errors import NodeError, UsageError
from dicom_node.index.tables.core import Document, DocumentKind, Result, Study


class ShownKind(StrEnum):
    """The reports that can be shown as a tree."""

    READING = "reading"
    MACHINE = "machine"


def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE|STUDY_UID",
            help="A DICOM file with any Structured Report, or the StudyInstanceUID of a study of this node.",
        ),
    ],
    kind: Annotated[ShownKind, typer.Option("--kind", help="Which report of the study's current result.")] = (
        ShownKind.READING
    ),
    html: Annotated[Path | None, typer.Option("--html", help="Write a page to this file instead.")] = None,
    config: ConfigOption = None,
) -> None:
    """Print a Structured Report as a readable tree, or write it as a page with --html FILE."""
    # The report package loads highdicom: only when it is asked for.
    from dicom_node.report.render.sr_tree import tree_lines, tree_page

    file = Path(what)
    names_study = is_uid(what) and not file.exists()
    try:
        dataset = dcmread(BytesIO(_document(what, kind, config)) if names_study else file, stop_before_pixels=True)
    except FileNotFoundError as error:
        raise UsageError(f"{file}: no such file") from error
    except InvalidDicomError as error:
        raise UsageError(f"{file}: not a DICOM file") from error
    except OSError as error:
        raise NodeError(f"{file}: cannot be read: {error.strerror}") from error
    if html is None:
        typer.echo("\n".join(printable(line) for line in tree_lines(dataset)))
        return
    html.write_text(tree_page(dataset), "utf-8")
    typer.echo(f"written: {html}")


def _document(study_uid: str, kind: ShownKind, config: Path | None) -> bytes:
    """Read a report of the study's current result, of its first image where there are several."""
    with open_node(config) as node, node.database.read() as session:
        document = session.scalars(
            select(Document.path)
            .join(Result)
            .join(Study, Study.id == Result.study_pk)
            .where(Study.study_instance_uid == study_uid, Result.is_current, Document.kind == DocumentKind(kind))
            .order_by(Result.id)
        ).first()
        if document is None:
            raise UsageError(f"no {kind} report of a study {study_uid}; `dicom-node studies` lists the studies")
        try:
            return node.documents.read(document)
        except OSError as error:
            raise NodeError(
                f"the {kind} report of {study_uid} is gone; `dicom-node reprocess` makes it again"
            ) from error


def register(app: typer.Typer) -> None:
    """Add `report show`."""
    group = typer.Typer(help="Show Structured Reports.", no_args_is_help=True)
    group.command("show")(show)
    group.callback()(_group)
    app.add_typer(group, name="report")


def _group() -> None:
    """Show Structured Reports."""
