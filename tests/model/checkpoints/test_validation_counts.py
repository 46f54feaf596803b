"""Validation counts of a checkpoint: checked when read, added afterwards, removed where they no longer fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ValidationError

from model.checkpoints.files import MANIFEST_NAME
from model.checkpoints.manifest import read_manifest, rewrite_manifest
from model.checkpoints.validation_counts import ValidationSet
from model.errors import CheckpointError
from model.predict import load_predictor
from tests.support.tiny_nvila import FINDINGS, save_tiny
from training.calibration.validation import add_validation, main
from training.data.datasets import load_records, open_records, parse_spec
from training.records.drops import DataError, DropReport

DATA = "phantom:4@8000000"
GOOD: dict[str, Any] = {
    "pairs": 10,
    "with_prior": 6,
    "present": {"edema": 3},
    "abstained": 1,
    "changes": {"new": 2, "not comparable": 1},
    "pair_changes": {"worse": 2, "nothing stated": 4},
    "certainty_edges": [0.3, 0.6],
    "certainty": [3, 3, 4],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", layers=2)


def _as_an_earlier_release(folder: Path) -> dict[str, Any]:
    """The manifest as it stood before there was such a field."""
    stored: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_text())
    del stored["validation"]
    (folder / MANIFEST_NAME).write_text(json.dumps(stored))
    return stored


def test_it_is_added_afterwards_and_nothing_else_changes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _as_an_earlier_release(folder)
    assert read_manifest(folder).validation is None
    main(folder, data=DATA, split=None, limit=None, threads=1)
    assert before["device_uid"] in capsys.readouterr().out
    after = json.loads((folder / MANIFEST_NAME).read_text())
    found = after.pop("validation")
    assert list(after.items()) == list(before.items())
    predictor, report = load_predictor(folder), DropReport()
    said = [
        predictor.predict(pair).findings for _, pair in load_records(open_records(parse_spec(DATA), report), report)
    ]
    assert found["pairs"] == len(said)
    assert found["present"] == {
        key: sum(f.presence == "present" for findings in said for f in findings if f.key == key)
        for key in sorted(FINDINGS)
    }
    # A new metric is another device as before, and the counts still hold; another threshold reads otherwise.
    assert rewrite_manifest(folder, metrics={"a": 1}).validation == ValidationSet.model_validate(found)
    assert rewrite_manifest(folder, thresholds={"edema": 0.2}).validation is None


def test_a_checkpoint_that_was_tampered_with_gets_none(folder: Path, tmp_path: Path) -> None:
    broken = save_tiny(tmp_path / "broken", layers=2)
    with (broken / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    text = (broken / MANIFEST_NAME).read_text()
    with pytest.raises(typer.Exit):
        main(broken, data=DATA, split=None, limit=1, threads=1)
    assert (broken / MANIFEST_NAME).read_text() == text
    with pytest.raises(DataError, match="findings"):
        add_validation(folder, ValidationSet.model_validate(GOOD))
    with pytest.raises(CheckpointError, match="not the findings that are asked"):
        rewrite_manifest(folder, validation=GOOD)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"pairs": 0}, "greater than or equal to 1"),
        ({"pairs": "10"}, "valid integer"),
        ({"present": {"edema": 11}}, "more than all of 10 pairs"),
        ({"present": {"edema": -1}}, "greater than or equal to 0"),
        ({"present": {"hunger": 1}}, "not in the ontology"),
        ({"present": {}}, "at least 1 item"),
        ({"changes": {"better": 1}}, "no changes"),
        ({"pair_changes": {"improving": 6}}, "not among"),
        ({"pair_changes": {"worse": 2}}, "do not add up"),
        ({"certainty": [3, 7]}, "hold each pair once"),
        ({"certainty": [3, 3, 3]}, "hold each pair once"),
        ({"certainty_edges": [0.6, 0.3]}, "ascending"),
        ({"certainty_edges": [0.3, 1.6]}, "between 0 and 1"),
        ({"accuracy": 1.0}, "not permitted"),
    ],
)
def test_counts_that_cannot_be_are_refused(change: dict[str, Any], wrong: str) -> None:
    assert ValidationSet.model_validate(GOOD).with_prior == 6
    with pytest.raises(ValidationError, match=wrong):
        ValidationSet.model_validate(GOOD | change)
