"""`dicom-node report`: looking at Structured Reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from dicom_node.cli.common import printable
from dicom_node.errors import NodeError, UsageError


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A DICOM file with any Structured Report.")],
    html: Annotated[Path | None, typer.Option("--html", help="Write a page to this file instead.")] = None,
) -> None:
    """Print a Structured Report as a readable tree, or write it as a page with --html FILE."""
    # The report package loads highdicom: only when it is asked for.
    from dicom_node.report.render.sr_tree import tree_lines, tree_page

    try:
        dataset = dcmread(file, stop_before_pixels=True)
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


def register(app: typer.Typer) -> None:
    """Add `report show`."""
    group = typer.Typer(help="Show Structured Reports.", no_args_is_help=True)
    group.command("show")(show)
    group.callback()(_group)
    app.add_typer(group, name="report")


def _group() -> None:
    """Show Structured Reports."""
