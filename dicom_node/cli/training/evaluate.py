"""`evaluate`: a checkpoint on a data set that it was not trained on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.cli.common import ProcessesOption, RayOption, console
from dicom_node.cli.progress import Progress
from dicom_node.cli.training.options import (
    DataOption,
    ModelOption,
    ServerOption,
    SplitOption,
    TextModelOption,
    ZeroShotOption,
    no_bars_in_files,
    our_errors,
    split_of,
    text_model_of,
)
from dicom_node.errors import NodeError
from training.records.drops import DropReport

if TYPE_CHECKING:  # torch is imported by the commands that need it, not by the command line
    from dicom_node.cli.training.evaluate_run import EvaluationRun
    from training.evaluation.choices import ChoiceScores
    from training.evaluation.evaluate import Evaluation
    from training.evaluation.judge import JudgeScores
    from training.metrics.baselines import MajorityFindings
    from training.records.record import Record


def evaluate_command(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Folder for evaluation.html and evaluation.json.")],
    model: ModelOption = "demo",
    split: SplitOption = "all",
    by_patient: Annotated[bool, typer.Option(help="Split by patient as training did, not as published.")] = False,
    seen_patients: Annotated[bool, typer.Option(help="Also measure on patients that it was trained on.")] = False,
    limit: Annotated[int | None, typer.Option(help="Greatest number of pairs.")] = None,
    findings: Annotated[str, typer.Option(help="Findings for a checkpoint without a manifest, comma-separated.")] = "",
    consistency: Annotated[bool, typer.Option(help="Ask in both orders and each image twice as well.")] = True,
    prognosis: Annotated[bool, typer.Option(help="Predict the next image and compare with the actual one.")] = False,
    choices: Annotated[
        str, typer.Option(help='Also the five-visit multiple choice: "phantom:COURSES" or "mi-cxr:FOLDER,IMAGES".')
    ] = "",
    lumen: Annotated[bool, typer.Option(help="Ask LUMEN's questions on one image where the set has none.")] = False,
    majority: Annotated[str, typer.Option(help="Data set whose train split the majority baseline learns from.")] = "",
    zero_shot: ZeroShotOption = "",
    device: Annotated[str, typer.Option(help='"cpu" or "cuda".')] = "cpu",
    judge_server: ServerOption = "",
    judge_model: TextModelOption = "",
    processes: ProcessesOption = 0,
    ray: RayOption = "",
) -> None:
    """Evaluate a checkpoint on a data set; writes an HTML page and a JSON file."""
    from dicom_node.bulk.mappers import Placement
    from dicom_node.cli.training.evaluate_run import EvaluationRun
    from training.data.datasets import parse_spec, require_choices
    from training.evaluation.evaluate import EvaluationOptions

    with our_errors():
        no_bars_in_files()
        if choices:
            require_choices(choices)  # now, and not after hours of asking
        report = DropReport()
        chosen = _held_out_records(
            data, model, report, split=split, by_patient=by_patient, seen_patients=seen_patients, limit=limit
        )
        run = EvaluationRun(
            model=model,
            device=device,
            findings=tuple(f for f in findings.split(",") if f),
            options=EvaluationOptions(consistency=consistency, prognosis=prognosis),
            lumen=lumen,
            data=f"{parse_spec(data)}, split {split}{' by patient' if by_patient else ''}",
            placement=Placement(ray=ray, processes=processes),
        )
        result = _ask_and_score(run, chosen, out, report, majority=majority, zero_shot=zero_shot)
        if result is None:
            raise NodeError(f"{data} gives no image in split {split}:\n" + "\n".join(report.lines()))
        if choices:
            result = replace(result, choices=_choose(run, choices, report))
        verdicts = _judge_sentences(result, judge_server, judge_model)
        _write_and_print(run, chosen, out, report, result, verdicts, zero_shot=zero_shot)


def _ask_and_score(
    run: EvaluationRun, chosen: list[Record], out: Path, report: DropReport, *, majority: str, zero_shot: str
) -> Evaluation | None:
    """Ask the checkpoint, and the zero-shot baseline where one is named. None where no record has an image."""
    from dicom_node.cli.training.evaluate_run import ask_all, with_zero_shot

    with Progress() as progress:
        step = partial(progress.step, "evaluating")
        result = ask_all(run, chosen, out / "_answers", report, baseline=_learnt_majority(majority), progress=step)
    if result is None or not zero_shot:
        return result
    with Progress() as progress:
        step = partial(progress.step, "zero-shot baseline")
        return with_zero_shot(result, run, zero_shot, chosen, out / "_zero_shot", progress=step)


def _write_and_print(
    run: EvaluationRun,
    chosen: list[Record],
    out: Path,
    report: DropReport,
    result: Evaluation,
    verdicts: JudgeScores | None,
    *,
    zero_shot: str,
) -> None:
    """Write page and values, then delete the answers that a run stopped earlier would have continued from."""
    from dicom_node.cli.training.evaluate_run import forget_answers, zero_shot_run
    from training.evaluation.report import write_report

    produced_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    page, values = write_report(result, out, produced_at=produced_at, judge=verdicts)
    forget_answers(run, chosen, out / "_answers")
    if zero_shot:
        forget_answers(zero_shot_run(run, zero_shot), chosen, out / "_zero_shot")
    for line in report.lines():
        console.print(line)
    console.print(f"{page}\n{values}")


def _held_out_records(
    data: str,
    model: str,
    report: DropReport,
    *,
    split: str,
    by_patient: bool,
    seen_patients: bool,
    limit: int | None,
) -> list[Record]:
    """The records to evaluate on. Raises DataError where the checkpoint was trained on their patients."""
    from training.data.datasets import open_records, parse_spec, select_records
    from training.evaluation.held_out import require_held_out, salt_of
    from training.readers.splits import keep_patients_apart

    spec, recipe, wanted_split = parse_spec(data), recipe_of(model), split_of(split)
    require_held_out(
        lambda: open_records(spec, DropReport()),
        recipe,
        report,
        kind=spec.kind,
        split=wanted_split,
        by_patient=by_patient,
        seen_patients=seen_patients,
    )
    records = open_records(spec, report)
    if by_patient:
        records = keep_patients_apart(records, salt=salt_of(recipe, spec.kind))
    return list(islice(select_records(records, report, split=wanted_split), limit))


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
