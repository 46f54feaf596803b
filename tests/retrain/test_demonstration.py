"""The demonstration model itself is biased, retrained by the recipe that comes with the node, and gets well again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from dicom_node.index.tables.retrain import Promote
from dicom_node.retrain.run import RetrainOptions, RunOutcome, run_retrain
from dicom_node.serving import promotion as models
from model.checkpoints.manifest import read_manifest, rewrite_manifest
from model.checkpoints.registry import resolve_source
from model.predict import load_predictor
from tests.support import retrain_site as site
from tests.support.common import REPOSITORY

PATIENTS, FROZEN = 90, 30


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_the_demonstration_model_recovers_from_a_bias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    bundled = resolve_source("demo")
    assert isinstance(bundled, Path)
    champion = Path(shutil.copytree(bundled, tmp_path / "biased"))
    findings = read_manifest(champion).findings
    # nearly everything is called present: what a site sees after its exposure settings have changed
    biased = rewrite_manifest(champion, thresholds=dict.fromkeys(findings, 0.01), version="biased")
    recipe = tmp_path / "retrain.toml"
    text = (REPOSITORY / "training" / "recipes" / "retrain.toml").read_text("utf-8")
    recipe.write_text(text.replace("steps = 400", "steps = 60").replace("phantom:1500@", "phantom:100@"), "utf-8")
    monkeypatch.setattr(site, "FILM_SIDE", 512)
    hospital = site.open_hospital(
        tmp_path / "node",
        champion,
        recipe=recipe,
        min_patients=40,
        frozen_patients=FROZEN,
        calibrate_with=["phantom:150@8000000"],
        known_pairs=10,
        # thirty patients: a finding's figure jumps by more than the usual margin
        margin=0.15,
        calibration_margin=0.1,
    )
    hospital = site.Hospital(node=hospital.node, clock=hospital.clock, films=hospital.films, findings=findings)
    studies = hospital.receive(range(PATIENTS))
    hospital.answered_before(load_predictor(champion))
    hospital.report(studies)
    heard = site.Heard()
    outcome = run_retrain(hospital.node, RetrainOptions(who="soak", promote=Promote.AUTO), heard)
    assert outcome is RunOutcome.PROMOTED, "\n".join(heard.lines)
    made = read_manifest(hospital.node.models_dir / models.champion(hospital.node.models_dir))
    assert made.device_uid != biased.device_uid
    assert made.findings == findings
    assert made.demonstration
    hospital.node.database.close()
