"""Commands of the ML engineer: `evaluate`, and `train preview | rewrite | leakage | export | compare`."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.cli.common import ConfigOption, ProcessesOption, RayOption, console, errors, open_node
from dicom_node.cli.progress import Progress
from dicom_node.cli.training.options import (
    DataOption,
    ServerOption,
    SplitOption,
    TextModelOption,
    no_bars_in_files,
    our_errors,
    split_of,
    text_model_of,
)
from dicom_node.cli.training.rewrite import rewrite_command
from dicom_node.errors import NodeError, UsageError
from training.records.drops import DropReport

if TYPE_CHECKING:  # torch is imported by the commands that need it, not by the command line
    from dicom_node.cli.training.evaluate_run import EvaluationRun
    from training.evaluation.choices import ChoiceScores
    from training.evaluation.evaluate import Evaluation
    from training.evaluation.judge import JudgeScores
    from training.metrics.baselines import MajorityFindings

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


def evaluate_command(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder for evaluation.html and evaluation.json.")],
    model: Annotated[str, typer.Option(help='Checkpoint: "demo", a folder, or a Hub id.')] = "demo",
    split: SplitOption = "all",
    by_patient: Annotated[bool, typer.Option(help="Split by patient as training did, not as published.")] = False,
    seen_patients: Annotated[bool, typer.Option(help="Measure on patients that it was trained on, too.")] = False,
    limit: Annotated[int | None, typer.Option(help="Greatest number of pairs.")] = None,
    findings: Annotated[str, typer.Option(help="Findings for a checkpoint without a manifest, comma-separated.")] = "",
    consistency: Annotated[bool, typer.Option(help="Ask in both orders and each image twice as well.")] = True,
    prognosis: Annotated[bool, typer.Option(help="Predict the next image and compare with what came.")] = False,
    choices: Annotated[
        str, typer.Option(help='Five-visit multiple choice too: "phantom:COURSES" or "mi-cxr:FOLDER,IMAGES".')
    ] = "",
    lumen: Annotated[bool, typer.Option(help="Ask LUMEN's questions on one image where the set has none.")] = False,
    majority: Annotated[str, typer.Option(help="Data set whose train split the majority baseline learns from.")] = "",
    zero_shot: Annotated[
        str, typer.Option(help="Baseline: a model that was not tuned to the task, a folder or a Hub id.")
    ] = "",
    device: Annotated[str, typer.Option(help='"cpu" or "cuda".')] = "cpu",
    judge_server: ServerOption = "",
    judge_model: TextModelOption = "",
    processes: ProcessesOption = 0,
    ray: RayOption = "",
) -> None:
    """Evaluate a checkpoint on a data set; writes an HTML page and a JSON file."""
    from dicom_node.cli.training.evaluate_run import EvaluationRun, ask_all, with_zero_shot
    from training.data.datasets import open_records, parse_spec, require_choices, select_records
    from training.evaluation.evaluate import EvaluationOptions
    from training.evaluation.held_out import require_held_out, salt_of
    from training.evaluation.report import write_report
    from training.readers.splits import keep_patients_apart

    with our_errors():
        no_bars_in_files()
        report = DropReport()
        spec = parse_spec(data)
        if choices:
            require_choices(choices)  # now, and not after hours of asking
        recipe = recipe_of(model)
        require_held_out(
            lambda: open_records(spec, DropReport()),
            recipe,
            report,
            kind=spec.kind,
            split=split_of(split),
            by_patient=by_patient,
            seen_patients=seen_patients,
        )
        records = open_records(spec, report)
        if by_patient:
            records = keep_patients_apart(records, salt=salt_of(recipe, spec.kind))
        run = EvaluationRun(
            model=model,
            device=device,
            findings=tuple(f for f in findings.split(",") if f),
            options=EvaluationOptions(consistency=consistency, prognosis=prognosis),
            lumen=lumen,
            data=f"{spec}, split {split}{' by patient' if by_patient else ''}",
        )
        chosen = list(islice(select_records(records, report, split=split_of(split)), limit))
        with Progress() as progress:
            result = ask_all(
                run,
                chosen,
                out / "_answers",
                report,
                baseline=_learnt_majority(majority),
                ray=ray,
                processes=processes,
                progress=lambda done, total: progress.step("evaluating", done, total),
            )
        if result is None:
            raise NodeError(f"{data} gives no image in split {split}:\n" + "\n".join(report.lines()))
        if zero_shot:
            with Progress() as progress:
                result = with_zero_shot(
                    result,
                    run,
                    zero_shot,
                    chosen,
                    out / "_zero_shot",
                    ray=ray,
                    processes=processes,
                    progress=lambda done, total: progress.step("zero-shot baseline", done, total),
                )
        if choices:
            result = replace(result, choices=_choose(run, choices, report))
        verdicts = _judge_sentences(result, judge_server, judge_model)
        page, values = write_report(
            result, out, produced_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), judge=verdicts
        )
        for folder in ("_answers", "_zero_shot"):
            shutil.rmtree(out / folder, ignore_errors=True)
    for line in report.lines():
        console.print(line)
    console.print(f"{page}\n{values}")


def recipe_of(model: str) -> Mapping[str, Any] | str:
    """The recipe that a checkpoint's manifest keeps; "" of one without a manifest."""
    from model.checkpoints.files import MANIFEST_NAME
    from model.checkpoints.registry import read_manifest, resolve_source

    folder = Path(resolve_source(model))
    return read_manifest(folder, verify=False).recipe if (folder / MANIFEST_NAME).is_file() else ""


def _choose(run: EvaluationRun, choices: str, report: DropReport) -> ChoiceScores | None:
    """The multiple-choice test of a set named as `--choices` has it. Raises DataError."""
    from model.predict import load_predictor
    from training.data.datasets import load_choices
    from training.evaluation.choices import answer_choices

    predictor = load_predictor(run.model, device=run.device, findings=run.findings)
    with Progress() as progress:
        progress.begin("multiple choice")
        return answer_choices(
            predictor,
            load_choices(choices, report),
            progress=lambda done: progress.step("multiple choice", done, None),
        )


def preview(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="The page to write, an .html file.")],
    split: SplitOption = "train",
    streams: Annotated[str, typer.Option(help="Streams, comma-separated.")] = "diagnostic,difference,prediction",
    samples: Annotated[int, typer.Option(min=1, help="How many samples to show.")] = 24,
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
    console.print(f"{shown} samples in {out}")


def leakage_command(
    data: DataOption,
    by_patient: Annotated[
        bool, typer.Option(help="Check the patient-disjoint split instead of the official one.")
    ] = False,
    salt: Annotated[str, typer.Option(help="Salt of the hash that splits by patient.")] = "dicom-node",
) -> None:
    """Say what a data set holds, what was dropped and why, and what stands in more than one split."""
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
    everything: Annotated[bool, typer.Option("--all", help="Also images that nobody has said anything of.")] = False,
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
    """Say whether two systems differ on the same questions: runs averaged first, then a paired Wilcoxon test."""
    from training.evaluation.compare import compare_reports

    with our_errors():
        for comparison in compare_reports(first, second):
            console.print(comparison.line())


def _learnt_majority(data: str) -> MajorityFindings | None:
    """The baseline of a data set's train split; None where none was named (the evaluated set itself then)."""
    from training.data.datasets import open_records, parse_spec
    from training.metrics.baselines import majority_findings
    from training.records.record import Split

    if not data:
        return None
    spec = parse_spec(data)
    records = [r for r in open_records(spec, DropReport()) if spec.kind == "phantom" or r.split is Split.TRAIN]
    if not records:
        raise NodeError(f"{data} has no record in its train split for the majority baseline")
    return majority_findings(record.truth for record in records)


def _judge_sentences(result: Evaluation, server: str, name: str) -> JudgeScores | None:
    """The judge's scores of the difference sentences; None where no judge was named."""
    from model.questions.battery import DIFFERENCE_TEXT
    from training.evaluation.judge import JudgeItem, judge
    from training.evaluation.texts import reference_sentence

    model = text_model_of(server, name)
    if model is None:
        return None
    judged = [
        JudgeItem(key=record.record_id, question=DIFFERENCE_TEXT, reference=reference, candidate=sentence)
        for record, sentence in zip(result.records, result.sentences, strict=True)
        if sentence is not None and (reference := reference_sentence(record)) is not None
    ]
    return judge(judged, model)
