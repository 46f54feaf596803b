"""`dicom-node import DIR`: index an existing folder, with a progress bar, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.admin.formats import amount
from dicom_node.admin.import_folder import files_below, import_files, summary
from dicom_node.cli.common import ConfigOption, JsonOption, console, open_node, print_json
from dicom_node.cli.progress import Progress
from dicom_node.errors import NodeError, UsageError
from dicom_node.index.tables.core import StudyPurpose


def import_folder(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of DICOM files.")],
    analyse: Annotated[bool, typer.Option("--analyse", help="Analyse the studies; default: priors only.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a folder of DICOM files as priors or, with --analyse, as studies to be analysed."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    files = files_below(folder)
    with open_node(config) as node, Progress() as progress:
        taken = import_files(files, node, purpose=StudyPurpose.ROUTED if analyse else StudyPurpose.PRIOR)
        result = summary(progress.watch("importing", taken, len(files)))
    if as_json:
        print_json({kind.value: count for kind, count in sorted(result.counts.items())})
    else:
        for kind, count in sorted(result.counts.items()):
            console.print(f"{count:8d}  {kind.value}")
        for path, why in (*result.trouble[:50], *result.passed_over[:50]):
            console.print(f"  {path.name}: {why.value}")
    if result.trouble:
        files_need = amount(len(result.trouble), "file was not taken and needs", "files were not taken and need")
        raise NodeError(f"{files_need} a look")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="import")(import_folder)
