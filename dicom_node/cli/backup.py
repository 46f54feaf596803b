"""`dicom-node backup DIR` and `dicom-node restore DIR`."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, JsonOption, console, print_json, settings_from
from dicom_node.cli.progress import Progress


def backup(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder of the backup; a later backup into it copies only what is new."),
    ],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy new or changed index, instances, documents and models while the node runs."""
    from dicom_node.admin.backup import back_up

    with Progress() as progress:
        done = back_up(settings_from(config), folder, watch=progress.watch)
    if as_json:
        print_json({"copied": done.copied, "there": done.there, "bytes": done.bytes})
    else:
        size = f"{done.bytes / 1e6:.1f} MB"
        console.print(f"index copied; {done.copied} files copied ({size}), {done.there} were there already")
        console.print("the configuration file and TLS keys are not in it: keep them with the backup")


def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the backup.")],
    config: ConfigOption = None,
) -> None:
    """Restore a backup; the node must be stopped. Existing files stay, an existing index is set aside."""
    from dicom_node.admin.backup import restore as bring_back
    from dicom_node.runtime.supervisor import sole_owner

    settings = settings_from(config)
    settings.node.data_dir.mkdir(parents=True, exist_ok=True)
    with sole_owner(settings), Progress() as progress:
        done = bring_back(settings, folder, now=dt.datetime.now(dt.UTC), watch=progress.watch)
    console.print(f"index restored; {done.copied} files copied back, {done.there} were there")
    console.print("start the node: it indexes what is newer than the backup, and analyses what has no result")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(backup)
    app.command()(restore)
