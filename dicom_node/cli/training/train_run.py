"""Commands that train: `train run | prepare | expert | merge | finish`; docs/training.md shows their path."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.admin.formats import amount
from dicom_node.cli.common import ProcessesOption, RayOption, console
from dicom_node.cli.progress import Progress
from dicom_node.cli.training import train
from dicom_node.cli.training.options import DataOption, SplitOption, no_bars_in_files, our_errors, split_of
from dicom_node.cli.training.train import group
from dicom_node.errors import UsageError
from training.records.drops import DropReport

if TYPE_CHECKING:  # torch is imported by the commands that need it, not by the command line
    from dicom_node.bulk.mappers import Placement
    from dicom_node.bulk.shards import ShardFolder
    from training.instructions.streams import Stream
    from training.records.record import ImageRef, Record
    from training.release.publish import ReleaseFigures


def register(app: typer.Typer) -> None:
    """Add the group `train` with all its commands."""
    train.register(app)
    group.command("run")(run_command)
    group.command("prepare")(prepare_command)
    group.command("expert")(expert_command)
    group.command("merge")(merge_command)
    group.command("finish")(finish_command)


def run_command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, see training/recipes.")],
    out: Annotated[Path, typer.Option(help="Checkpoints, log and the final model; a run found there is continued.")],
    cache: Annotated[Path | None, typer.Option(help="Phantom cache that replaces the recipe's.")] = None,
    start: Annotated[str | None, typer.Option(help="Checkpoint folder that replaces the recipe's start.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of torch; 0: torch decides.")] = 0,
) -> None:
    """Train by RECIPE in this process. Several processes: accelerate launch -m training.train RECIPE --out OUT."""
    with our_errors():
        from training.loop.train import run_recipe

        no_bars_in_files()
        final = run_recipe(recipe, out, cache=cache, start=start, threads=threads)
    console.print(f"done: {final}")


def prepare_command(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder for conversations.jsonl.")],
    split: SplitOption = "train",
    by_patient: Annotated[bool, typer.Option(help="Patient-disjoint split instead of the official one.")] = False,
    streams: Annotated[str, typer.Option(help="Streams, comma-separated.")] = "diagnostic,difference,prediction",
    long_answers: Annotated[Path | None, typer.Option(help="Long answers made by `train rewrite`.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Greatest number of records to read.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order of the turns.")] = 0,
) -> None:
    """Write conversations to a folder, to inspect, change, and train on with kind = "instructions"."""
    from itertools import islice

    import numpy as np

    from training.data.prepared import write_prepared
    from training.instructions.rewrite import load_answers
    from training.instructions.streams import Conversation, InstructionOptions, conversations

    with our_errors():
        report, not_asked = DropReport(), DropReport()
        options = InstructionOptions(streams=_streams(streams))
        answers = load_answers(long_answers) if long_answers is not None else None
        rng = np.random.default_rng(seed)

        def all_of_them() -> Iterator[Conversation]:
            for record in progress.watch("reading", islice(_records(data, split, by_patient, report), limit), limit):
                yield from conversations(record, options, rng, not_asked, long_answers=answers)

        with Progress() as progress:
            written = write_prepared(out, all_of_them())
    for line in (*report.lines(), *not_asked.lines()):
        console.print(line)
    console.print(f"{amount(written, 'conversation')} in {out}")


def expert_command(
    data: DataOption,
    expert: Annotated[Path, typer.Option(help="Folder with expert.json and expert.safetensors.")],
    out: Annotated[Path, typer.Option(help="The CSV file to write.")],
    split: SplitOption = "all",
    processes: ProcessesOption = 0,
    ray: RayOption = "",
) -> None:
    """Ask the expert about every image once, on all cores; a stopped run continues. For training (stream E)."""
    from dicom_node.bulk.mappers import Placement
    from dicom_node.bulk.shards import ShardFolder, digest_of
    from dicom_node.cli.training.bulk_work import read_lines
    from model.experts.expert import load_expert
    from training.data.expert_table import ExpertRow, images_of, write_rows

    with our_errors():
        report, not_read = DropReport(), DropReport()
        loaded = load_expert(expert)
        with Progress() as progress:
            images = list(images_of(progress.watch("reading", _records(data, split, False, report))))
            facts = {
                "images": digest_of(f"{image.image_id} {image.key}" for image in images),
                "expert": loaded.fingerprint,
            }
            shards = ShardFolder(folder=out.with_name(f"{out.name}.shards"), suffix=".jsonl", facts=facts)
            paths = _ask_expert(expert, images, shards, Placement(ray=ray, processes=processes), progress)
        rows = (ExpertRow(**{**line, "shares": tuple(line["shares"])}) for line in read_lines(paths))
        count = write_rows(rows, loaded.labels, out, not_read)
        shutil.rmtree(shards.folder)
    for line in (*report.lines(), *not_read.lines()):
        console.print(line)
    console.print(f"{amount(count, 'image')} in {out}")


def _ask_expert(
    expert: Path, images: list[ImageRef], shards: ShardFolder, placement: Placement, progress: Progress
) -> list[Path]:
    """Ask the expert of every image whose shard is missing; return the files of all shards."""
    from dicom_node.bulk.mappers import open_mapper
    from dicom_node.bulk.run import run_shards
    from dicom_node.cli.training.bulk_work import EXPERT_CUT, ITEM_SECONDS, ExpertWork, encode_lines

    batches = EXPERT_CUT.count_batches(len(images))
    with open_mapper(placement, batches=batches, item_seconds=ITEM_SECONDS, weights=expert) as mapper:
        paths, _ = run_shards(
            ExpertWork(expert=expert),
            images,
            shards,
            mapper,
            cut=EXPERT_CUT,
            encode=encode_lines,
            progress=lambda done, total: progress.step("asking the expert", done, total),
        )
    return paths


def merge_command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="RUN/step-N, which FSDP saved in parts.")],
    to: Annotated[Path, typer.Option(help='Folder to write; "RUN/final" is what `train finish` takes.')],
) -> None:
    """Merge the parts of a sharded checkpoint into a whole model, without the machines that trained it."""
    with our_errors():
        from training.loop.merge import merge_run

        no_bars_in_files()
        count = merge_run(checkpoint, to)
    console.print(f"{to}: {amount(count, 'weight')} of {checkpoint}")


def finish_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The --out folder of a finished run.")],
    to: Annotated[Path, typer.Option(help="Checkpoint folder to write, for example MODELS/lumen-1.")],
    name: Annotated[str, typer.Option(help="Name of the checkpoint.")],
    version: Annotated[str, typer.Option(help="Version of the checkpoint.")],
    licence: Annotated[str, typer.Option(help="Licence of the weights; NVILA's are non-commercial (CC BY-NC).")],
    calibration: Annotated[
        str, typer.Option(help='Validation data, "KIND:…@@SPLIT", for example "diff-vqa:VQA,MIMIC@@validate".')
    ] = "",
    test: Annotated[list[str] | None, typer.Option(help="Test data, in the same form; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Greatest number of pairs of each.")] = None,
    fewest: Annotated[
        int, typer.Option(min=1, help="Least number of training answers for a question to count as taught.")
    ] = 50,
    data: Annotated[str, typer.Option(help="A description of the training data, or the hash of a snapshot.")] = "",
    device: Annotated[str, typer.Option(help='"cpu" or "cuda".')] = "cpu",
) -> None:
    """Make a finished run a checkpoint with a manifest: calibrated, measured, ready for `models promote`."""
    from training.release.publish import ReleaseFacts, publish

    with our_errors():
        no_bars_in_files()
        with Progress() as progress:
            manifest = publish(
                run,
                to,
                ReleaseFacts(name=name, version=version, licence=licence, data=data, fewest=fewest),
                calibration=_judge_text(calibration, limit) if calibration else None,
                tests=[_judge_text(item, limit) for item in test or []],
                device=device,
                watch=progress.watch,
            )
    console.print(
        f"{to}: {manifest.label}, {amount(len(manifest.findings), 'finding')}, Device UID {manifest.device_uid}"
    )


def _judge_text(text: str, limit: int | None) -> ReleaseFigures:
    from training.release.publish import ReleaseFigures

    data, _, split = text.partition("@@")
    return ReleaseFigures(data=data, split=split_of(split) if split else None, limit=limit)


def _records(data: str, split: str, by_patient: bool, report: DropReport) -> Iterator[Record]:
    from training.data.datasets import open_records, parse_spec
    from training.readers.splits import keep_patients_apart

    chosen_split, spec = split_of(split), parse_spec(data)
    records = open_records(spec, report)
    if by_patient:
        records = keep_patients_apart(records, salt="dicom-node")
    return (
        record for record in records if chosen_split is None or record.split is chosen_split or spec.kind == "phantom"
    )


def _streams(text: str) -> frozenset[Stream]:
    from training.instructions.streams import Stream

    try:
        return frozenset(Stream(name.strip()) for name in text.split(","))
    except ValueError as error:
        raise UsageError(f"--streams: {error}; there are {', '.join(Stream)}") from error
