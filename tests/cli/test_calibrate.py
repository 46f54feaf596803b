"""`models calibrate`: a foreign checkpoint says "uncalibrated model" first, and after the command it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from dicom_node.cli.training import models
from dicom_node.errors import NodeError
from dicom_node.report.wording.sections import impressions
from model.checkpoints.files import MANIFEST_NAME
from model.checkpoints.manifest import read_manifest
from model.predict import load_predictor
from tests.support.report_cases import request
from tests.support.tiny_nvila import FINDINGS, save_tiny
from training.data.datasets import load_pair
from training.readers.phantom import HELD_OUT_SEED, read_phantom_pairs
from training.records.drops import DropReport

DATA = "phantom:14"
UNCALIBRATED = "Uncalibrated model: only what is seen is stated, without any certainty."
app = Typer()
models.register(app)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A tiny checkpoint as somebody else would have left it: without a manifest of this project."""
    folder = save_tiny(tmp_path / "foreign")
    (folder / MANIFEST_NAME).unlink()
    return folder


def _opening(folder: Path) -> tuple[str, ...]:
    """The sentences that a report of this checkpoint opens with."""
    record = next(iter(read_phantom_pairs(1, DropReport(), first_seed=HELD_OUT_SEED)))
    predictor = load_predictor(folder, findings=FINDINGS)
    return impressions(request(predictor.predict(load_pair(record)), model=predictor.identity))


def _calibrate(folder: Path, *options: str) -> dict[str, object]:
    arguments = ["models", "calibrate", str(folder), "--findings", ",".join(FINDINGS), "--json", *options]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    values: dict[str, object] = json.loads(done.stdout)
    return values


def test_a_foreign_checkpoint_is_calibrated_once_and_for_all(foreign: Path) -> None:
    assert _opening(foreign)[0] == UNCALIBRATED
    values = _calibrate(foreign, "--data", DATA)
    manifest = read_manifest(foreign)
    assert values["device_uid"] == manifest.device_uid
    assert values["pairs"] == 14
    assert manifest.calibrated_on == values["answers"]
    assert manifest.calibrated_on >= 200
    assert {"presence", "change"} <= set(manifest.calibration)
    assert manifest.data_snapshot == f"calibrated on {DATA}"
    assert not manifest.demonstration
    assert UNCALIBRATED not in _opening(foreign)


def test_too_little_data_writes_nothing(foreign: Path) -> None:
    with pytest.raises(NodeError, match="answers have a known truth, at least 200 are needed"):
        _calibrate(foreign, "--data", DATA, "--limit", "2")
    assert not (foreign / MANIFEST_NAME).exists()


def test_pickles_are_refused_before_anything_is_asked(foreign: Path) -> None:
    (foreign / "optimizer.pt").write_bytes(b"")
    with pytest.raises(NodeError, match=r"optimizer\.pt may hold pickled objects"):
        _calibrate(foreign, "--data", DATA)
