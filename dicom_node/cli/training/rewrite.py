"""Command `train rewrite`: difference answers into report-style sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.common import console
from dicom_node.cli.progress import Progress
from dicom_node.cli.training.options import (
    DataOption,
    ServerOption,
    SplitOption,
    TextModelOption,
    our_errors,
    split_of,
    text_model_of,
)
from training.records.drops import DropReport


def rewrite_command(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="JSON file for the accepted answers; OUT.journal keeps a stopped run.")],
    split: SplitOption = "train",
    by_patient: Annotated[bool, typer.Option(help="Patient-disjoint split instead of the official one.")] = False,
    server: ServerOption = "",
    text_model: TextModelOption = "",
    limit: Annotated[int | None, typer.Option(help="Greatest number of answers.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the rule-based writer.")] = 0,
) -> None:
    """Rewrite difference answers by a text model or by rules; keep those that stay true. Continues a stopped run."""
    from itertools import islice

    from training.data.datasets import open_records, parse_spec
    from training.evaluation.texts import reference_sentence
    from training.instructions.rewrite import ModelWriter, RuleWriter
    from training.instructions.rewrite_journal import rewrite_into
    from training.readers.splits import keep_patients_apart

    with our_errors():
        report, chosen = DropReport(), split_of(split)
        spec = parse_spec(data)
        records = open_records(spec, DropReport())
        if by_patient:
            records = keep_patients_apart(records, salt="dicom-node")
        sources = (
            (record.record_id, sentence)
            for record in records
            if (chosen is None or record.split is chosen or spec.kind.startswith("phantom"))
            and (sentence := reference_sentence(record)) is not None
        )
        model = text_model_of(server, text_model)
        writer = ModelWriter(model) if model is not None else RuleWriter(seed)
        with Progress() as progress:
            progress.begin("rewriting", limit)
            taken = islice(sources, limit)
            rewrite_into(out, taken, writer, report, progress=lambda done: progress.step("rewriting", done, limit))
    for line in report.lines():
        console.print(line)
