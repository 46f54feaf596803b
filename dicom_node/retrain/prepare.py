"""Preparation of a run: the serving checkpoint, the recipe, the limits, the unchanged films."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from dicom_node.config import RetrainSection
from dicom_node.context import NodeContext
from dicom_node.errors import UsageError
from dicom_node.index.tables.core import Instance
from dicom_node.index.tables.retrain import RetrainItem, RetrainRun, RunState
from dicom_node.retrain import runs, snapshots
from dicom_node.retrain.plan import Plan, resolve_recipe, write_plan
from dicom_node.retrain.types import Contents, Film, RetrainError, RetrainStopped, folders_of
from dicom_node.serving import promotion as models
from model.checkpoints.manifest import Manifest, read_manifest
from model.errors import CheckpointError, ModelError

FEWEST = 10
"""Of training.gate.scores: frozen cases from which an answer is judged by itself."""
RECIPE = "retrain.toml"
POINTING_PAIRS = 100
"""Phantom pairs on which a retrained demonstration model's outlines are measured again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The champion that a run starts from. recipe: as written, SNAPSHOT not filled in."""

    folder: Path
    manifest: Manifest
    recipe: dict[str, Any]

    @property
    def device_uid(self) -> str:
        return self.manifest.device_uid

    @property
    def findings(self) -> tuple[str, ...]:
        return self.manifest.findings


def start_of(node: NodeContext, recipe: Path | None) -> Start:
    """The serving checkpoint and the recipe. Raises RetrainError or UsageError where either cannot be trained with."""
    folder = champion_folder(node)
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        raise RetrainError(f"the champion cannot be trained on: {error}") from error
    return Start(folder=folder, manifest=manifest, recipe=_recipe(recipe or node.settings.retrain.recipe))


def champion_folder(node: NodeContext) -> Path:
    """Folder of the checkpoint that serves. Raises RetrainError, UsageError."""
    from model.checkpoints.registry import resolve_source

    if node.settings.model.backend != "transformers":
        raise UsageError('model.backend is "openai": a model on a server is trained there, not by this node')
    source = models.candidates(node.settings, node.models_dir)[0].source
    try:
        resolved = resolve_source(source)
    except CheckpointError as error:
        raise RetrainError(str(error)) from error
    if not isinstance(resolved, Path):
        raise RetrainError(
            f"{source} is a Hub id without a manifest; download it into a folder and write its manifest "
            "(docs/models.md), then it can be trained on"
        )
    return resolved.resolve()


def _recipe(path: Path | None) -> dict[str, Any]:
    from importlib import resources

    from training.recipe.recipe import load_recipe

    if path is None:
        path = Path(str(resources.files("training").joinpath("recipes", RECIPE)))
    try:
        return load_recipe(path).model_dump(mode="json")
    except ModelError as error:
        raise UsageError(str(error)) from error


def plan_of(
    node: NodeContext,
    start: Start,
    *,
    name: str,
    folder: Path,
    snapshot: Path,
    contents: Contents,
    manifest_sha256: str = "",
) -> Plan:
    """The plan of a run with this snapshot. Raises RetrainError, UsageError for a recipe that does not fit."""
    section = node.settings.retrain
    pictures = folders_of(node).root / "pictures"
    return Plan(
        run=name,
        folder=folder,
        snapshot=snapshot,
        snapshot_name=name,
        manifest_sha256=manifest_sha256,
        counts=contents.counts(),
        base=start.folder,
        champion=start.folder,
        models=node.models_dir,
        challenger=f"{start.manifest.name}-{name}",
        version=name,
        recipe=resolve_recipe(start.recipe, snapshot=snapshot, base=start.folder, pictures=pictures),
        calibration=(f"site:{snapshot / 'validate.jsonl'}", *section.calibrate_with),
        experts=node.settings.model.experts,
        known_pairs=section.known_pairs,
        pointing_pairs=POINTING_PAIRS,
        gate=_gate_values(section),
        device=section.device,
        threads=section.threads,
        nice=section.nice,
    )


def _gate_values(section: RetrainSection) -> dict[str, Any]:
    return {
        "least_patients": section.frozen_patients,
        "margin": section.margin,
        "alpha": section.alpha,
        "calibration_margin": section.calibration_margin,
        "consistency_margin": section.consistency_margin,
        "consistency_floor": section.consistency_floor,
    }


def require_unchanged(node: NodeContext, snapshot_pk: int, plan: Plan) -> None:
    """Hash files and films of the snapshot once more before steps are taken. Raises RetrainError naming the first."""
    snapshots.verify_files(plan.snapshot, plan.manifest_sha256)
    with node.database.read() as session:
        rows = session.scalars(select(RetrainItem).where(RetrainItem.snapshot_pk == snapshot_pk)).all()
        sha256_of = {row.sop_instance_uid: row.sha256 for row in rows}
        sha256_of |= {row.prior_sop_instance_uid: row.prior_sha256 for row in rows if row.prior_sop_instance_uid}
        stored = {
            row.sop_instance_uid: row.path
            for row in session.execute(select(Instance.sop_instance_uid, Instance.path))
            if row.sop_instance_uid in sha256_of
        }
    # Both may happen between lock and training: retention removes a film, or a file is damaged.
    missing = sorted(set(sha256_of) - set(stored))
    films = (
        Film(sop_instance_uid=uid, study_instance_uid="", sha256=sha256, path=node.store.path(stored[uid]))
        for uid, sha256 in sha256_of.items()
        if uid in stored
    )
    wrong = dict.fromkeys(missing, "no longer in the index") | snapshots.find_damaged(films)
    if wrong:
        named = ", ".join(f"{uid}: {problem}" for uid, problem in list(wrong.items())[:5])
        raise RetrainError(f"{len(wrong)} images of the snapshot are not what was locked: {named}")


def against_champion(node: NodeContext, run_pk: int, plan: Plan) -> Plan:
    """The plan against whoever serves now: with a champion that changed since, everything is compared anew."""
    folder = champion_folder(node)
    device_uid = read_manifest(folder, verify=False).device_uid
    with node.database.read() as session:
        run = session.get_one(RetrainRun, run_pk)
    if folder == (plan.models / plan.challenger).resolve() or device_uid == run.champion_device_uid:
        return plan
    changed = plan.model_copy(update={"champion": folder})
    write_plan(changed)
    runs.move(node, run_pk, RunState.EVALUATING, champion_device_uid=device_uid)
    return changed


def reconcile(node: NodeContext) -> None:
    """A challenger that serves is promoted, whoever did it and wherever a process died in between."""
    champion = models.champion(node.models_dir)
    with node.database.read() as session:
        waiting = runs.waiting(session)
    for run in waiting:
        if run.challenger and run.challenger == champion:
            runs.move(node, run.id, RunState.PROMOTED)


def fail_for_good(node: NodeContext, run_pk: int, error: RetrainError) -> None:
    """A run that was only stopped goes on later; any other error is its end."""
    if not isinstance(error, RetrainStopped):
        runs.move(node, run_pk, RunState.FAILED, reason=str(error)[:2000])
