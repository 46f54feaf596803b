"""`dicom-node predict`: a model over folders, tables or S3 prefixes of DICOM files; results as Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, ProcessesOption, RayOption, console, optional_settings
from dicom_node.cli.progress import Progress
from dicom_node.errors import UsageError


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUTS", help="Folders, DICOM files, tables (.csv, .parquet), s3://BUCKET/PREFIX."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the Parquet files; a run found there is continued.")],
    model: Annotated[str, typer.Option("--model", help="Checkpoint instead of the configured one.")] = "",
    processes: ProcessesOption = 0,
    batch: Annotated[int, typer.Option(min=1, help="Studies read and answered together.")] = 4,
    shard: Annotated[int, typer.Option(min=1, help="Studies of one Parquet file.")] = 64,
    ray: RayOption = "",
    answerers: Annotated[int, typer.Option(min=0, help="With --ray: actors with a model; 0: by the cluster.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Run the model over many studies without a network; the rows hold what the node would report."""
    from dicom_node.predict.run import PredictOptions
    from dicom_node.predict.run import predict as run
    from dicom_node.serving.promotion import require_source

    if answerers and not ray:
        raise UsageError("--answerers is for --ray; on this machine say --processes")
    settings = optional_settings(config)
    if model:
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"source": model})})
        require_source(settings.model)  # now, and not after the headers of a million files were read
    with Progress() as progress:
        summary = run(
            inputs,
            out,
            settings=settings,
            options=PredictOptions(processes=processes, batch=batch, shard=shard, ray=ray, answerers=answerers),
            progress=progress.step,
        )
    counts = ", ".join(f"{count} {outcome}" for outcome, count in summary.images.most_common())
    console.print(
        f"{summary.studies} studies by {summary.identity.name} {summary.identity.version}: {counts or 'none'}"
    )
    kept = f", {summary.kept} of them from an earlier start" if summary.kept else ""
    console.print(f"{summary.out}: {summary.shards} Parquet files{kept}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(predict)
