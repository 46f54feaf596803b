"""From trained weights to a checkpoint that serves: half precision, calibration on validation pairs, figures, manifest.

python -m training.release.finish TRAINED --to FOLDER --version 1 --calibration phantom:400@8000000 --test phantom:600
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file, save_file

from model.checkpoints.files import HEADS_FILE, MANIFEST_NAME
from model.checkpoints.manifest import CheckpointKind, Manifest, rewrite_manifest, write_manifest
from model.engine.vlm import open_vlm
from model.localise.relevance import Localiser, read_outline_head
from model.predict import load_predictor
from training.calibration.checkpoint import calibrate
from training.data.datasets import load_records, open_records, parse_spec
from training.evaluation.evaluate import Evaluation, EvaluationOptions, evaluate
from training.evaluation.pointing_game import FIRST_SEED, localisation_of, measure_pointing
from training.phantom.render import PHANTOM_FINDINGS
from training.recipe.public import public_recipe
from training.records.drops import DropReport
from training.release.weights import write_model

LICENCE = "Apache-2.0"
QUESTION_TYPES = ("presence", "prior_presence", "change", "side", "grade", "difference")
POINTING_PAIRS = 150
"""Phantom pairs of the pointing game: about 25 of each finding."""


def write_weights(trained: Path, folder: Path) -> int:
    """Copy a trained model into an empty checkpoint folder in half precision; returns the number of parameters.

    Of NVILA in float16 and not bfloat16: the weights are small, and its ten bits of mantissa change no answer.
    """
    _, parameters = write_model(trained, folder, nvila_dtype=torch.float16)
    if (trained / HEADS_FILE).is_file():  # of the heads, serving needs the outlines only
        heads = load_file(trained / HEADS_FILE)
        save_file({k: v.contiguous() for k, v in heads.items() if k.startswith("outline.")}, folder / HEADS_FILE)
    return parameters


def read_pointing(folder: Path, pairs: int = POINTING_PAIRS) -> dict[str, float]:
    """The value for `Manifest.localisation`: which findings the checkpoint may localise, by the pointing game."""
    vlm = open_vlm(folder)
    localiser = Localiser(vlm, head=read_outline_head(folder, PHANTOM_FINDINGS), measured={})
    if not localiser.is_possible:
        return {}
    config = vlm.model.config
    seeds = range(FIRST_SEED, FIRST_SEED + pairs)
    cells = config.tile_side // config.vision_config.patch_size
    return localisation_of(measure_pointing(localiser, vlm, PHANTOM_FINDINGS, seeds, cells=cells))


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """The metrics of the manifest: each figure with its interval and what the baselines have."""
    if evaluation.scores is None:
        return {}
    rounded: dict[str, dict[str, Any]] = {
        name: {"value": round(i.value, 4), "low": round(i.low, 4), "high": round(i.high, 4)}
        for name, i in evaluation.scores.figures.items()
        if i.value == i.value  # a figure of an empty set is not a number and says nothing
    }
    for name, figure in rounded.items():
        others = {key: scores.figures.get(name) for key, scores in evaluation.baselines.items()}
        known = {key: other.value for key, other in others.items() if other is not None}
        figure["baselines"] = {key: round(value, 4) for key, value in known.items() if value == value}
    changes = {score.label: round(score.f1, 4) for score in evaluation.scores.changes}
    auroc = {key: round(value, 4) for key, value in evaluation.scores.finding_auroc.items()}
    return {"pairs": evaluation.scores.pairs, "figures": rounded, "change_f1_by_change": changes, "auroc": auroc}


def finish(
    trained: Path,
    folder: Path,
    *,
    version: str,
    calibration: str,
    tests: Sequence[str],
    recipe: Mapping[str, Any],
    snapshot: str,
    consistency: bool = True,
) -> Manifest:
    """Write the checkpoint with its manifest; `tests` are data sets of `training.data.datasets`, measured one by
    one."""
    parameters = write_weights(trained, folder)
    write_manifest(
        folder,
        name="lumen-demonstration",
        version=version,
        kind=CheckpointKind.NVILA,
        findings=tuple(PHANTOM_FINDINGS),
        question_types=QUESTION_TYPES,
        recipe=public_recipe(recipe),
        data_snapshot=snapshot,
        tiling="never",
        licence=LICENCE,
        demonstration=True,
        parameters=parameters,
    )
    report = DropReport()
    fitted = calibrate(load_predictor(folder), load_records(open_records(parse_spec(calibration), report), report))
    rewrite_manifest(folder, **fitted.manifest_values(), localisation=read_pointing(folder))
    measured = {name: figures(measure(folder, name, consistency=consistency)) for name in tests}
    return rewrite_manifest(folder, metrics=measured)


def measure(folder: Path, data: str, *, consistency: bool = True) -> Evaluation:
    """Evaluate a checkpoint on a data set named as in `training.data.datasets`."""
    report = DropReport()
    predictor = load_predictor(folder)
    items = load_records(open_records(parse_spec(data), report), report)
    return evaluate(predictor, items, report, data=data, options=EvaluationOptions(consistency=consistency))


def main(
    trained: Annotated[Path, typer.Argument(help="the final folder of a training run")],
    to: Annotated[Path, typer.Option(help="checkpoint folder; what is there is replaced")],
    version: Annotated[str, typer.Option(help="version of the checkpoint")] = "1",
    calibration: Annotated[str, typer.Option(help="data set for calibration")] = "phantom:400@8000000",
    test: Annotated[list[str] | None, typer.Option(help="data sets to measure on; may be repeated")] = None,
    snapshot: Annotated[str, typer.Option(help="what the training data were, in words")] = "",
    consistency: Annotated[bool, typer.Option(help="also ask pairs in both orders and images twice")] = True,
) -> None:
    """Make TRAINED a checkpoint that serves."""
    torch.set_num_threads(2)
    recipe_file = trained.parent / "recipe.json"
    recipe = json.loads(recipe_file.read_text("utf-8")) if recipe_file.exists() else {}
    manifest = finish(
        trained,
        to,
        version=version,
        calibration=calibration,
        tests=test or ["phantom:600"],
        recipe=recipe,
        snapshot=snapshot,
        consistency=consistency,
    )
    print(json.dumps(dict(manifest.metrics), indent=2))
    print(f"{to / MANIFEST_NAME}: {manifest.label}, {manifest.size / 1e6:.1f} MB, Device UID {manifest.device_uid}")


if __name__ == "__main__":
    typer.run(main)
