"""From a training run on real data to a checkpoint for `dicom-node models promote`: weights, calibration, figures.

The demonstration model has `training.release.finish`; here nothing is claimed but what the run's own data taught.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoints.manifest import Manifest, read_manifest, rewrite_manifest, write_manifest
from model.errors import CheckpointError
from model.predict import load_predictor
from model.questions.battery import QuestionType
from model.schema import StudyPair
from training.calibration.checkpoint import calibrate
from training.data.data_log import REPORT
from training.data.datasets import load_records, open_records, parse_spec, record_count
from training.evaluation.evaluate import EvaluationOptions, evaluate
from training.instructions.coverage import FEWEST, findings_taught, types_taught
from training.readers.splits import keep_patients_apart
from training.recipe.public import public_recipe, start_identity
from training.recipe.recipe import Recipe
from training.records.drops import DataError, DropReport
from training.records.record import Record, Split
from training.release.finish import figures
from training.release.weights import write_model


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFacts:
    """Description of a checkpoint. data: the training data in words, or the hash of a snapshot. licence: of the
    weights, which follow their base's. fewest: training answers below which nothing counts as taught."""

    name: str
    version: str
    licence: str
    data: str = ""
    fewest: int = FEWEST


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFigures:
    """One data set of `training.data.datasets` and the split of it to use, None for all. Where the run trained by
    patient, the split is the same patients' one: nobody who was trained on is measured on."""

    data: str
    split: Split | None
    limit: int | None = None


Item = tuple[Record, StudyPair]
Watch = Callable[[str, Iterable[Item], int | None], Iterable[Item]]
"""Gives pairs on and shows how far it is: (stage in words, pairs, how many, None where nobody knows)."""


def _watch_nothing(what: str, items: Iterable[Item], total: int | None) -> Iterable[Item]:
    return items


def publish(
    run: Path,
    folder: Path,
    about: ReleaseFacts,
    *,
    calibration: ReleaseFigures | None,
    tests: Sequence[ReleaseFigures],
    device: str = "cpu",
    watch: Watch = _watch_nothing,
) -> Manifest:
    """Write a checkpoint folder from a finished run; its manifest is written last.

    Findings and question types are those that the run's data taught often enough. Raises DataError or CheckpointError
    where the run is not finished or taught nothing that could be asked.
    """
    recipe, taught = _read_run(run)
    findings = recipe.data.findings or findings_taught(taught, fewest=about.fewest)
    if not findings:
        raise DataError(
            f"{run}: no finding's presence was asserted and denied {about.fewest} times in training: nothing to ask"
        )
    if folder.exists():
        raise CheckpointError(f"{folder} is there already; a checkpoint is never overwritten")
    salt = next((section.salt for section in recipe.data.sets if section.by_patient), "")
    draft = folder.with_name(f"{folder.name}.draft")
    types = types_taught(taught, fewest=about.fewest)
    _write_draft(run / "final", draft, about, recipe, findings, types)
    if calibration is not None:
        report = DropReport()
        pairs = watch("calibrating", _iterate_items(calibration, report, salt), _count(calibration, salt))
        fitted = calibrate(load_predictor(draft, device=device), pairs)
        rewrite_manifest(draft, **fitted.manifest_values())
    measured = {test.data: _measure_figures(draft, test, device, salt, watch) for test in tests}
    rewrite_manifest(draft, metrics=measured)
    # Only now, with figures and thresholds: a folder under its own name is always whole.
    draft.rename(folder)
    return read_manifest(folder)


def _read_run(run: Path) -> tuple[Recipe, dict[str, int]]:
    """The recipe of a finished run, and how often its data taught each question."""
    try:
        recipe = Recipe.model_validate_json((run / "recipe.json").read_text("utf-8"))
        taught: dict[str, int] = json.loads((run / REPORT).read_text("utf-8"))["taught"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{run} is no finished training run ({error})") from error
    return recipe, taught


def _write_draft(
    trained: Path, draft: Path, about: ReleaseFacts, recipe: Recipe, findings: Sequence[str], types: Sequence[str]
) -> None:
    """Write the model's files and a manifest that has no thresholds and figures yet."""
    kind, parameters = write_model(trained, draft)
    write_manifest(
        draft,
        name=about.name,
        version=about.version,
        kind=kind,
        findings=findings,
        question_types=tuple(type for type in types if type != QuestionType.PREDICTION),
        prognosis=QuestionType.PREDICTION.value in types,
        base="" if recipe.model.start == "new" else start_identity(recipe.model.start),
        recipe=public_recipe(recipe.model_dump(mode="json")),
        data_snapshot=about.data,
        tiling=recipe.model.tiling,
        expert=bool(recipe.data.expert),
        context=recipe.data.context,
        images=recipe.data.max_images,
        times=recipe.data.times,
        licence=about.licence,
        parameters=parameters,
    )


def _iterate_items(measured: ReleaseFigures, report: DropReport, salt: str) -> Iterator[Item]:
    records = open_records(parse_spec(measured.data), report)
    if salt and measured.split is not None:
        records = keep_patients_apart(records, salt=salt)
    return load_records(records, report, split=measured.split, limit=measured.limit)


def _count(measured: ReleaseFigures, salt: str) -> int | None:
    """The number of pairs; not known where patients are split by hash."""
    if salt and measured.split is not None:
        return measured.limit
    return record_count(parse_spec(measured.data), split=measured.split, limit=measured.limit)


def _measure_figures(folder: Path, test: ReleaseFigures, device: str, salt: str, watch: Watch) -> dict[str, Any]:
    report = DropReport()
    predictor = load_predictor(folder, device=device)
    pairs = watch(f"testing on {test.data}", _iterate_items(test, report, salt), _count(test, salt))
    result = evaluate(predictor, pairs, report, data=test.data, options=EvaluationOptions())
    return figures(result) | {"split": test.split.value if test.split else "all", "dropped": report.total_dropped}
