"""kill -9 in training and in evaluation: the next `dicom-node retrain` goes on, and the end is the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select

from dicom_node.config import load_settings
from dicom_node.index.database import Database
from dicom_node.index.tables.retrain import RetrainDecision, RetrainRun, RunState
from dicom_node.system.child_process import is_running
from model.predict import load_predictor
from tests.retrain.test_story import write_recipe
from tests.support.champions import untrained
from tests.support.common import wait_until
from tests.support.forked import ForkedProcess
from tests.support.retrain_site import open_hospital

STEPS = 40
CONFIG = """
[node]
data_dir = "data"
[database]
url = "sqlite:///index.db"
[model]
source = {champion}
[retrain]
recipe = {recipe}
promote = "never"
min_patients = 6
frozen_patients = 6
frozen_share = 0.45
calibrate_with = []
known_pairs = 1
threads = 1
nice = 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A hospital's folder with its configuration, ready for the command."""
    torch.set_num_threads(1)
    champion = untrained(tmp_path / "champion")
    hospital = open_hospital(tmp_path / "node", champion)
    studies = hospital.receive(range(14))
    hospital.answered_before(load_predictor(champion))
    hospital.report(studies)
    hospital.node.database.close()
    text = CONFIG.format(
        champion=json.dumps(str(champion)),
        recipe=json.dumps(str(write_recipe(tmp_path / "retrain.toml", STEPS, replay="phantom:2@3000000"))),
    )
    (tmp_path / "node" / "config.toml").write_text(text, "utf-8")
    return tmp_path / "node"


def start(folder: Path) -> ForkedProcess:
    command = ["retrain", "--no-estimate", "--config", str(folder / "config.toml")]
    return ForkedProcess("dicom_node", command, log=folder / "said")


def end(folder: Path) -> int:
    return start(folder).wait(1500)


def kill_when(folder: Path, condition: Callable[[], bool], what: str) -> None:
    """SIGKILL to the command as soon as the condition holds; its training process goes with it."""
    process = start(folder)
    wait_until(lambda: condition() or process.poll() is not None, seconds=1200, what=what, closely=True)
    assert process.poll() is None, (folder / "said").read_text("utf-8")
    children = _children(process.pid)
    assert children, "the training runs in a process of its own"
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(is_running, children)), seconds=60, what="the training process to end with it")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state_of(folder: Path) -> RunState:
    database = Database(load_settings(folder / "config.toml").database.url)
    try:
        with database.read() as session:
            return session.scalars(select(RetrainRun.state)).one()
    finally:
        database.close()


def figures_of(folder: Path) -> dict[str, Any]:
    database = Database(load_settings(folder / "config.toml").database.url)
    try:
        with database.read() as session:
            decision = session.scalars(select(RetrainDecision)).one()
            runs = session.scalars(select(RetrainRun)).all()
    finally:
        database.close()
    assert len(runs) == 1, "it was gone on with, not begun again"
    checks = {check["name"]: (check["passed"], check["challenger"]) for check in decision.figures["checks"]}
    return {"passed": decision.passed, "checks": checks}


@pytest.mark.timeout(1800)
def test_a_run_that_was_killed_twice_ends_as_one_that_was_not(folder: Path, tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(folder, undisturbed)
    assert end(undisturbed) == 0, (undisturbed / "said").read_text("utf-8")

    runs = folder / "data" / "retrain" / "runs"
    kill_when(folder, lambda: any(runs.glob("*/train/step-*")), "a checkpoint of the training")
    assert state_of(folder) is RunState.TRAINING
    assert not any((folder / "data" / "models").glob("*")), "nothing half-trained lies among the models"

    kill_when(folder, lambda: any(runs.glob("*/answers/champion.jsonl")), "answers of the evaluation")
    assert state_of(folder) is RunState.EVALUATING
    assert not any(runs.glob("*/decision.json"))

    assert end(folder) == 0, (folder / "said").read_text("utf-8")
    said = (folder / "said").read_text("utf-8")
    assert said.count("is unfinished") == 2
    expected, found = figures_of(undisturbed), figures_of(folder)
    assert found["passed"] == expected["passed"]
    assert found["checks"].keys() == expected["checks"].keys()
    for name, (passed, value) in expected["checks"].items():
        assert found["checks"][name][0] == passed, name
        assert found["checks"][name][1] == pytest.approx(value, abs=1e-3, nan_ok=True), name
