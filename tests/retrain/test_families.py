"""Retraining of a champion of another family than NVILA, from labels to a decision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dicom_node.index.tables.retrain import Promote
from dicom_node.retrain.run import RetrainOptions, RunOutcome, run_retrain
from dicom_node.retrain.types import folders_of
from model.checkpoints.manifest import CheckpointKind, read_manifest
from model.predict import load_predictor
from tests.retrain.test_story import write_recipe
from tests.support.champions import manifest_of
from tests.support.retrain_site import Heard, fork_stages, open_hospital
from tests.support.tiny_auto import gemma4

FINDINGS = ("pleural_effusion", "pneumothorax")


def test_champion_of_another_family_is_retrained_to_a_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork_stages(monkeypatch)
    torch.set_num_threads(1)
    champion = gemma4(tmp_path / "champion")
    manifest_of(champion, kind="auto", findings=FINDINGS, question_types=("presence",))
    hospital = open_hospital(
        tmp_path / "node",
        champion,
        recipe=write_recipe(tmp_path / "retrain.toml", 2, replay="phantom:2@3000000"),
        min_patients=4,
        frozen_patients=2,
        frozen_share=0.4,
        known_pairs=1,
    )
    studies = hospital.receive(range(6))
    hospital.answered_before(load_predictor(champion))
    hospital.report(studies)
    hospital.clock.forward(hours=12)
    heard = Heard()
    options = RetrainOptions(who="engineer", promote=Promote.NEVER, estimate=False)
    outcome = run_retrain(hospital.node, options, heard)
    assert outcome in (RunOutcome.REFUSED, RunOutcome.KEPT), "\n".join(heard.lines)
    (made,) = hospital.node.models_dir.glob("*/manifest.json")
    challenger = read_manifest(made.parent)
    assert challenger.kind is CheckpointKind.AUTO
    assert challenger.device_uid != read_manifest(champion).device_uid
    (run,) = folders_of(hospital.node).runs.iterdir()
    assert (run / "decision.html").is_file()
    hospital.node.database.close()
