"""`dicom-node store migrate`: from a folder of instances into a bucket."""

from __future__ import annotations

import typer

from dicom_node.cli.common import ConfigOption, JsonOption, console, open_node, print_json
from dicom_node.cli.progress import Progress
from dicom_node.errors import NodeError

store_app = typer.Typer(help="Move instances and documents into an object store.", no_args_is_help=True)


@store_app.command()
def migrate(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Copy new instances and documents into the configured bucket while the node runs."""
    from dicom_node.admin.store_migration import Migrated, MigratedInstances, files_to_copy
    from dicom_node.admin.store_migration import migrate as copy_all

    result = Migrated()
    with open_node(config) as node, Progress() as progress:
        names = files_to_copy(node)
        copying = copy_all(node, names, result)
        for _name in progress.watch("copying", copying, len(names)):
            pass
        is_folder = node.settings.storage.kind == "folder"
    if as_json:
        counts = {kind.name.lower(): count for kind, count in result.counts.items()}
        print_json({**counts, "bytes": result.bytes, "removed": result.removed, "damaged_names": result.damaged})
    else:
        for kind, count in result.counts.items():
            if count:
                console.print(f"{count:8d}  {kind.value}")
        console.print(f"{result.bytes / 1e6:.1f} MB copied; {result.removed} objects removed whose file is gone")
        for name in result.damaged[:50]:
            console.print(f"  damaged: {name}")
        if is_folder:
            console.print('next: set storage.kind = "s3", restart the node, and run this once more')
    if result.counts[MigratedInstances.DAMAGED]:
        raise NodeError(f"{result.counts[MigratedInstances.DAMAGED]} files were not copied and need a look")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.add_typer(store_app, name="store")
