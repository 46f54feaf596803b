"""Commands of the ML engineer: `evaluate`, and `train preview | rewrite | leakage | export | compare`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.admin.formats import amount
from dicom_node.cli.common import ConfigOption, console, errors, open_node
from dicom_node.cli.progress import Progress
from dicom_node.cli.training.evaluate import evaluate_command
from dicom_node.cli.training.options import (
    DataOption,
    SplitOption,
    our_errors,
    split_of,
)
from dicom_node.cli.training.rewrite import rewrite_command
from dicom_node.errors import UsageError
from training.records.drops import DropReport

group = typer.Typer(
    name="train",
    help="Make a checkpoint from data sets: preview, prepare, train, finish (docs/training.md).",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("evaluate")(evaluate_command)
    group.command("preview")(preview)
    group.command("rewrite")(rewrite_command)
    group.command("leakage")(leakage_command)
    group.command("export")(export_command)
    group.command("compare")(compare_command)
    app.add_typer(group)


def preview(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="The page to write, an .html file.")],
    split: SplitOption = "train",
    streams: Annotated[str, typer.Option(help="Streams, comma-separated.")] = "diagnostic,difference,prediction",
    samples: Annotated[int, typer.Option(min=1, help="Number of samples to show.")] = 24,
    limit: Annotated[int, typer.Option(min=1, help="Greatest number of records to read.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the choice of samples.")] = 0,
    long_answers: Annotated[Path | None, typer.Option(help="Long answers made by `train rewrite`.")] = None,
) -> None:
    """Write a page with training samples: images, questions, answers, and what the loss sees."""
    from training.data.datasets import open_records, parse_spec
    from training.data.preview import write_preview
    from training.instructions.rewrite import load_answers
    from training.instructions.streams import InstructionOptions, Stream

    with our_errors():
        try:
            chosen_streams = frozenset(Stream(name.strip()) for name in streams.split(","))
        except ValueError as error:
            raise UsageError(f"--streams: {error}; there are {', '.join(Stream)}") from error
        report, chosen = DropReport(), split_of(split)
        records = open_records(parse_spec(data), DropReport())
        if chosen is not None and not data.startswith("phantom:"):
            records = (record for record in records if record.split is chosen)
        with Progress() as progress:
            shown = write_preview(
                progress.watch("reading", islice(records, limit)),
                InstructionOptions(streams=chosen_streams),
                out,
                report,
                data=data,
                samples=samples,
                seed=seed,
                long_answers=load_answers(long_answers) if long_answers is not None else None,
            )
    console.print(f"{amount(shown, 'sample')} in {out}")


def leakage_command(
    data: DataOption,
    by_patient: Annotated[
        bool, typer.Option(help="Check the patient-disjoint split instead of the official one.")
    ] = False,
    salt: Annotated[str, typer.Option(help="Salt of the hash that splits by patient.")] = "dicom-node",
) -> None:
    """Show what a data set holds, what was dropped and why, and what is in more than one split."""
    from training.data.datasets import open_records, parse_spec
    from training.readers.splits import find_leakage, keep_patients_apart

    with our_errors():
        report = DropReport()
        with Progress() as progress:
            records = progress.watch("reading", open_records(parse_spec(data), report))
            leaks = find_leakage(keep_patients_apart(records, salt=salt) if by_patient else records)
    for line in (*report.lines(), *leaks.lines()):
        console.print(line)
    if not leaks.clean:
        errors.print("the splits leak")
        raise typer.Exit(1)


def export_command(
    out: Annotated[Path, typer.Option(help="The .jsonl file to write; films are named relative to it.")],
    everything: Annotated[bool, typer.Option("--all", help="Also images without feedback.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write the node's own studies with feedback, pseudonymised, for training (docs/site-export.md)."""
    from dicom_node.retrain.site_export import export_site

    report = DropReport()
    with open_node(config) as node:
        export_site(node, out, report, everything=everything)
    for line in report.lines():
        console.print(line)


def compare_command(
    first: Annotated[list[Path], typer.Option(help="evaluation.json of the first system; once for each run (seed).")],
    second: Annotated[list[Path], typer.Option(help="The same of the second system.")],
) -> None:
    """Test whether two systems differ on the same questions: runs averaged, then a paired Wilcoxon test."""
    from training.evaluation.compare import compare_reports

    with our_errors():
        for comparison in compare_reports(first, second):
            console.print(comparison.line())
