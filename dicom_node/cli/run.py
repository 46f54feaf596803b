"""`init`, `serve`, `demo` and `analyze`: the main job, on the network and on files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, optional_settings, settings_from
from dicom_node.config import CONFIG_VARIABLE, DEFAULT_CONFIG, config_path
from dicom_node.errors import UsageError
from dicom_node.system.collection import hold_collection
from model.images.light_pydicom import import_pydicom


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")] = DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented configuration file with the defaults."""
    from dicom_node.config.template import template

    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the file to write, such as {path / DEFAULT_CONFIG}")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already; --force replaces it")
    path.write_text(template(), "utf-8")
    console.print(f"wrote {path}; set [[destinations]], then run: dicom-node serve --config {path}")


def serve(
    config: ConfigOption = None,
    role: Annotated[str, typer.Option("--role", help="What to run here: all, receive or work.")] = "all",
) -> None:
    """Run the node until SIGTERM."""
    hold_collection()  # until the node's parts have started
    import_pydicom()
    from dicom_node.logs import configure
    from dicom_node.runtime import supervisor as service

    try:
        process_role = service.ProcessRole(role)
    except ValueError as error:
        raise UsageError(f"--role {role!r}: allowed are {', '.join(service.ProcessRole)}") from error
    settings = settings_from(config)
    os.environ[CONFIG_VARIABLE] = str(config_path(config).absolute())  # a training that it starts reads the same file
    configure(settings.logging)
    service.serve(settings, process_role, reload=lambda: settings_from(config))


def demo(
    studies: Annotated[
        Path | None, typer.Option("--studies", help="Folder of DICOM files to send; default: synthetic studies.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the reports.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option("--seed", help="Seed of the synthetic patient.")] = 7,
    beside: Annotated[
        Path | None, typer.Option("--beside", help="Folder of DICOM files to send after these, such as a real pair.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave node, pages and PACS running until Ctrl-C, and print their links.")
    ] = False,
    viewer: Annotated[
        Path | None,
        typer.Option("--viewer", help="With --keep: folder package/dist of the npm package @ohif/app, shown too."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run a node and a receiving PACS on loopback, send a prior and a current study, print the report."""
    from dicom_node.demo.run import Keep, run_demo

    if viewer is not None and not keep:
        raise UsageError("--viewer shows the kept demonstration: give --keep too")
    run_demo(
        studies=studies,
        out=out,
        seed=seed,
        model=optional_settings(config).model,
        say=console.print,
        keep=Keep(viewer=viewer) if keep else None,
        beside=beside,
    )


def analyze(
    current: Annotated[
        Path, typer.Argument(metavar="CURRENT", help="Current study: a DICOM file or a folder of them.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the reports.")],
    prior: Annotated[Path | None, typer.Option("--prior", help="Prior study: a DICOM file or a folder.")] = None,
    config: ConfigOption = None,
) -> None:
    """Analyse files without a network: the same rules, model and documents as on the node."""
    hold_collection()  # until the model is loaded
    import_pydicom()
    from dicom_node.analysis.files import analyze_files

    text = analyze_files(current, prior, out, settings=optional_settings(config))
    console.print(text)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (init, serve, demo, analyze):
        app.command()(command)
