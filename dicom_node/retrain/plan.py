"""The plan of a run as a file in its folder: all that its training process must know, also after a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dicom_node.index.tables.retrain import RetrainSplit
from dicom_node.retrain.types import SPLIT_FILES, RetrainError
from model.checkpoints.files import write_text_atomically

PLAN_FILE = "plan.json"
PLACEHOLDER = "SNAPSHOT"
"""Stands in a recipe's data sets for the folder of the snapshot."""


class Plan(BaseModel):
    """One run. Paths are absolute. recipe: of training.recipe.recipe, its data sets filled in, its start the base."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    folder: Path
    snapshot: Path
    snapshot_name: str
    manifest_sha256: str
    counts: dict[str, Any]
    base: Path
    champion: Path
    models: Path
    challenger: str
    """Folder name of the challenger below `models`."""
    version: str
    recipe: dict[str, Any]
    calibration: tuple[str, ...]
    experts: Path | None = None
    known_pairs: int
    pointing_pairs: int
    gate: dict[str, float]
    device: str
    threads: int
    nice: int

    @property
    def frozen(self) -> Path:
        """The evaluation set, a site export."""
        return self.snapshot / SPLIT_FILES[RetrainSplit.FROZEN]

    @property
    def training(self) -> Path:
        """Folder of the training loop."""
        return self.folder / "train"


def write_plan(plan: Plan) -> None:
    """Put the plan into its folder, whole or not at all."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(plan.folder / PLAN_FILE, plan.model_dump_json(indent=1) + "\n")


def read_plan(folder: Path) -> Plan:
    """The plan of a run's folder; raises RetrainError where it cannot be read."""
    try:
        return Plan.model_validate_json((folder / PLAN_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise RetrainError(f"{folder / PLAN_FILE} cannot be read: {error}") from error


def resolve_recipe(recipe: dict[str, Any], *, snapshot: Path, base: Path, pictures: Path) -> dict[str, Any]:
    """A recipe for this site: its start is the base, SNAPSHOT in its data sets is the snapshot's folder.

    pictures: where decoded pictures are kept, so that a film is decoded once and not at every step.
    Raises RetrainError where no data set names the snapshot: the site's own studies would take no part.
    """
    # Replaced in the JSON text, so the folder is put in as JSON spells it: a quote or backslash in its name stays one.
    filled = json.loads(json.dumps(recipe).replace(f":{PLACEHOLDER}/", f":{json.dumps(str(snapshot))[1:-1]}/"))
    data = filled.get("data", {})
    if filled == recipe:
        raise RetrainError(
            f'the recipe trains on nothing of this site: one of [data] sets must be "site:{PLACEHOLDER}/train.jsonl"'
        )
    data["image_cache"] = data.get("image_cache") or str(pictures)
    filled["model"] = {**filled.get("model", {}), "start": str(base), "heads": None}
    return dict(filled)
