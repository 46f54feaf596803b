"""`train expert` and `evaluate` over processes say what one process says, and leave nothing behind."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from dicom_node.bulk.mappers import Placement
from dicom_node.cli.training import train_run
from dicom_node.cli.training.evaluate_run import EvaluationRun, forget_answers, shards_of
from model.checkpoints.files import MANIFEST_NAME
from model.experts.densenet import DenseNet121
from model.experts.expert import LABELS, load_expert
from model.experts.export import write_expert
from model.predict import load_predictor
from tests.support.tiny_nvila import save_tiny
from training.data.datasets import load_records, open_records, parse_spec
from training.data.expert_table import write_expert_table
from training.evaluation.evaluate import EvaluationOptions, evaluate
from training.evaluation.report import as_json
from training.evaluation.texts import make_published_asker
from training.records.drops import DropReport

DATA = "phantom:3"
app = Typer()
train_run.register(app)


def _run(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_expert_says_over_processes_what_it_says_alone(tmp_path: Path) -> None:
    folder, alone, out = tmp_path / "expert", tmp_path / "alone.csv", tmp_path / "expert.csv"
    write_expert(folder, DenseNet121(len(LABELS)).state_dict(), LABELS, None)
    report = DropReport()
    count = write_expert_table(open_records(parse_spec(DATA), DropReport()), load_expert(folder), alone, report)
    said = _run("train", "expert", "--data", DATA, "--expert", str(folder), "--out", str(out), "--processes", "2")
    assert f"{count} images in" in said
    rows, expected = ([*csv.reader(path.read_text().splitlines())] for path in (out, alone))
    assert [row[0] for row in rows] == [row[0] for row in expected]
    assert rows[0] == expected[0]
    for row, other in zip(rows[1:], expected[1:], strict=True):
        assert [float(value) for value in row[1:]] == pytest.approx([float(value) for value in other[1:]], abs=1.01e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.csv", "expert", "expert.csv"]


def test_an_evaluation_over_processes_gives_the_figures_of_one(tmp_path: Path) -> None:
    folder, out = save_tiny(tmp_path / "tiny", layers=2, brief=True), tmp_path / "out"
    predictor = load_predictor(folder)
    report = DropReport()
    items = load_records(open_records(parse_spec(DATA), report), report)
    ask = make_published_asker(predictor)
    alone = evaluate(predictor, items, report, data=f"{DATA}, split all", options=EvaluationOptions(), ask=ask)
    _run("evaluate", "--data", DATA, "--model", str(folder), "--out", str(out), "--processes", "1")
    values = json.loads((out / "evaluation.json").read_text())
    expected = json.loads(json.dumps(as_json(alone)))
    for name in ("seconds_per_pair", "produced_at"):
        del values[name], expected[name]
    _assert_alike(values, expected)
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.html", "evaluation.json"]


def test_answers_of_an_unfinished_run_neither_block_another_one_nor_go_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "_answers"
    first = EvaluationRun(
        model="demo",
        device="cpu",
        findings=(),
        options=EvaluationOptions(),
        lumen=False,
        data=DATA,
        placement=Placement(ray="", processes=1),
    )
    second = replace(first, lumen=True)
    for run in (first, second):
        shards = shards_of(run, [], folder)
        with shards.lock():
            shards.write(0, b"an answer")
    forget_answers(second, [], folder)
    assert shards_of(first, [], folder).is_finished(0), "the next start of the first run goes on from it"
    forget_answers(first, [], folder)
    assert not folder.exists()


def test_a_zero_shot_model_stands_beside_the_other_baselines_on_the_same_pairs(tmp_path: Path) -> None:
    folder, out = save_tiny(tmp_path / "tuned", layers=2, brief=True), tmp_path / "out"
    base = save_tiny(tmp_path / "base", layers=1, brief=True)
    (base / MANIFEST_NAME).unlink()  # as a base model of the Hub: nobody says what it was taught
    models = ("--model", str(folder), "--zero-shot", str(base))
    _run("evaluate", "--data", DATA, *models, "--out", str(out), "--processes", "1")
    values, page = json.loads((out / "evaluation.json").read_text()), (out / "evaluation.html").read_text()
    names = list(values["baselines"])
    assert names[:2] == ["majority", "nothing has changed"]
    assert names[2].startswith("zero-shot: ")
    assert values["baselines"][names[2]]["pairs"] == values["scores"]["pairs"]
    assert names[2] in page
    assert "none was asked for" not in page
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.html", "evaluation.json"]


def _assert_alike(value: Any, expected: Any, path: str = "") -> None:
    """Equal, floats up to what another number of threads may round."""
    if isinstance(expected, dict):
        assert value.keys() == expected.keys(), path
        for key in expected:
            _assert_alike(value[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list):
        assert len(value) == len(expected), path
        for number, item in enumerate(expected):
            _assert_alike(value[number], item, f"{path}/{number}")
    elif isinstance(expected, float):
        assert value == pytest.approx(expected, abs=1e-3), path
    else:
        assert value == expected, path
