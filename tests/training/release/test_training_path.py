"""The commands from files to a checkpoint: prepare, expert, run, finish; and what each refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dicom_node.cli.training.train_run import expert_command, finish_command, prepare_command, run_command
from dicom_node.errors import NodeError
from model.checkpoints.manifest import read_manifest
from model.experts.expert import Expert
from model.predict import load_predictor
from model.questions.prompts import PromptLayout
from model.schema import StudyPair
from tests.model.test_predict import image
from tests.support.records import image_of, recipe_of, write_mimic_with_questions
from tests.support.tiny_nvila import save_tiny
from training.data.data_log import REPORT
from training.data.datasets import open_records, parse_spec
from training.data.expert_table import ExpertTable, write_expert_table
from training.data.mixed_source import MixedSource
from training.data.prepared import FILE, Prepared, read_prepared
from training.data.sources import Place, source_of
from training.recipe.public import public_recipe
from training.records.drops import DataError, DropReport


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mimic")
    write_mimic_with_questions(folder)
    return folder


def prepared(root: Path, out: Path) -> Path:
    prepare_command(f"diff-vqa:{root},{root}", out, streams="diagnostic,difference")
    return out


def test_prepared_conversations_train_and_the_result_is_finished_and_answers(root: Path, tmp_path: Path) -> None:
    folder = prepared(root, tmp_path / "prepared")
    start = save_tiny(tmp_path / "secret-place" / "start")
    more = f'[model]\nstart = "{start}"\n[heads]\nweight = 0.0\n'
    data = f'kind = "instructions"\ninstructions = "{folder}"\nturns = 4'
    recipe_of(tmp_path, data, steps=3, more=more)
    run_command(tmp_path / "recipe.toml", tmp_path / "out")
    taught = json.loads((tmp_path / "out" / REPORT).read_text("utf-8"))["taught"]
    assert any(key.startswith("presence/") for key in taught)

    spec = f"diff-vqa:{root},{root}@@validate"
    to = tmp_path / "models" / "lumen-1"
    to.parent.mkdir()
    finish_command(
        tmp_path / "out", to, "lumen", "1", "none", calibration=spec, test=[spec], limit=3, fewest=1, data="made up"
    )
    manifest = read_manifest(to)
    assert manifest.findings
    assert {"presence", "difference"} <= set(manifest.question_types)
    assert manifest.base == f"tiny 1 {read_manifest(start).device_uid}"
    assert manifest.metrics[spec.partition("@@")[0]]["split"] == "validate"
    assert str(tmp_path) not in (to / "manifest.json").read_text("utf-8")
    prediction = load_predictor(to).predict(StudyPair(current=image(1), prior=image(2)))
    assert {finding.key for finding in prediction.findings} == set(manifest.findings)
    with pytest.raises(NodeError, match="never overwritten"):
        finish_command(tmp_path / "out", to, "lumen", "1", "none", fewest=1)
    with pytest.raises(NodeError, match="asserted and denied 1000000 times"):
        finish_command(tmp_path / "out", tmp_path / "models" / "b", "lumen", "1", "none", fewest=1_000_000)
    with pytest.raises(NodeError, match="no finished training run"):
        finish_command(root, tmp_path / "models" / "c", "lumen", "1", "none")


def test_what_was_prepared_is_what_trains(root: Path, tmp_path: Path) -> None:
    folder = prepared(root, tmp_path / "prepared")
    lines = {line.id: line for line in read_prepared(folder, DropReport())}
    recipe = recipe_of(tmp_path, f'kind = "instructions"\ninstructions = "{folder}"\nturns = 100')
    source = source_of(recipe, Place(work=tmp_path / "work", size=32))
    assert isinstance(source, MixedSource)
    assert source.size == len(lines)
    known = {tuple((t.question, t.answer) for t in line.turns) for line in lines.values()}
    for number in range(30):
        sample = source.sample(number)
        assert tuple((turn.question, turn.answer) for turn in sample.turns) in known
        assert sample.layout == PromptLayout(priors=len(sample.images) - 1)
    with pytest.raises(NodeError, match="is there already"):
        prepared(root, folder)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "a", "images": [], "turns": [{"question": "is there edema?", "answer": "no"}]}', "images"),
        ('{"id": "a", "images": ["a.png"], "turns": []}', "turns"),
        ('{"id": "a", "images": ["a.png"], "turns": [{"question": "is it?", "answer": ""}]}', "answer"),
        ('{"id": "a", "images": ["a.png"], "turns": [{"question": "?", "answer": "no"}]}', "starts with a letter"),
        ('{"id": "good", "images": ["b.png"], "turns": [{"question": "is it?", "answer": "no"}]}', "duplicate"),
        ("no JSON", "JSON"),
    ],
)
def test_a_bad_line_is_dropped_and_counted(tmp_path: Path, line: str, reason: str) -> None:
    good = '{"id": "good", "images": ["a.png"], "turns": [{"question": "is there edema?", "answer": "no"}]}'
    header = '{"format": "dicom-node-conversations", "version": 1}'
    (tmp_path / FILE).write_text(f"{header}\n{good}\n{line}\n")
    report = DropReport()
    assert [found.id for found in read_prepared(tmp_path, report)] == ["good"]
    ((said, count),) = report.dropped.items()
    assert reason in said
    assert count == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"format": "other"}\n', "holds no dicom-node-conversations"),
        ('{"format": "dicom-node-conversations", "version": 2}\n', "has version 2"),
        ('{"format": "dicom-node-conversations", "version": 1}\n{"id": "a"', "cut off in line 2"),
        ("nothing\n", "header line"),
    ],
)
def test_a_foreign_or_cut_off_file_stops_the_reading(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(DataError, match=reason):
        list(read_prepared(tmp_path, DropReport()))
    with pytest.raises(DataError, match="holds no"):
        list(read_prepared(tmp_path / "none", DropReport()))


def test_prepared_keeps_what_the_layout_shows() -> None:
    line = Prepared(id="a", images=("x", "y"), turns=({"question": "is it?", "answer": "no"},), context="patient: F")  # type: ignore[arg-type]
    assert Prepared.model_validate_json(line.model_dump_json(exclude_none=True)) == line


class _Bright(nn.Module):
    """An expert that says its first label of bright images."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([images.mean((1, 2, 3)), -images.mean((1, 2, 3))], dim=1) + self.bias


def test_the_expert_is_asked_once_and_its_words_reach_the_prompt(root: Path, tmp_path: Path) -> None:
    spec = f"diff-vqa:{root},{root}"
    report = DropReport()
    table = tmp_path / "expert.csv"
    count = write_expert_table(
        open_records(parse_spec(spec), DropReport()), Expert(_Bright(), ("Edema", "Hernia")), table, report
    )
    assert count == report.kept == len(ExpertTable.read(table).rows)
    data = f"""
    kind = "records"
    sets = ["{spec}"]
    streams = {{ diagnostic = 1, difference = 1 }}
    expert = "{table}"
    expert_dropout = 0.5
    """
    source = source_of(recipe_of(tmp_path, data), Place(work=tmp_path / "work", size=32))
    shown = [source.sample(number) for number in range(60)]
    with_expert = [sample for sample in shown if sample.layout.expert]
    assert 15 <= len(with_expert) <= 45
    for sample in with_expert:
        text = sample.layout.expert or ""
        assert ("prior image" in text) == (len(sample.images) > 1)
        assert "edema" in text
    table.write_text(table.read_text().replace(",0.", ",x.", 1))
    with pytest.raises(DataError, match=r"expert\.csv"):
        ExpertTable.read(table)


def test_the_expert_command_reads_a_folder_and_counts_what_cannot_be_decoded(tmp_path: Path) -> None:
    own = tmp_path / "mimic"
    studies = write_mimic_with_questions(own, subjects=3)
    image_of(own, studies[0]).write_bytes(b"\xff\xd8 no picture")
    expert = tmp_path / "expert"
    expert.mkdir()
    (expert / "expert.json").write_text(json.dumps({"architecture": "none of ours", "labels": ["Edema"]}))
    save_file({"bias": torch.zeros(1)}, expert / "expert.safetensors")
    with pytest.raises(NodeError, match="none of ours"):
        expert_command(f"mimic-jpg:{own}", expert, tmp_path / "expert.csv")
    report = DropReport()
    records = open_records(parse_spec(f"mimic-jpg:{own}"), DropReport())
    write_expert_table(records, Expert(_Bright(), ("Edema", "Hernia")), tmp_path / "expert.csv", report)
    assert list(report.examples.values()) == [[studies[0].dicom]]


def test_context_reaches_the_prompt_only_where_the_recipe_says_so(tmp_path: Path) -> None:
    from tests.support.common import shared

    folder = shared("data", "nih")
    shown = {}
    for context in ("true", "false"):
        data = f"""
        kind = "records"
        sets = [{{ data = "nih:{folder}", split = "all", limit = 40 }}]
        streams = {{ diagnostic = 1 }}
        context = {context}
        context_dropout = 0.0
        """
        source = source_of(recipe_of(tmp_path, data), Place(work=tmp_path / "work", size=32))
        shown[context] = [source.sample(number).layout.context for number in range(4)]
    assert all(text is not None and "years" in text for text in shown["true"])
    assert shown["false"] == [None] * 4


def test_a_cut_off_table_stops_the_command_with_a_sentence(tmp_path: Path) -> None:
    own = tmp_path / "mimic"
    write_mimic_with_questions(own, subjects=4)
    table = own / "mimic_pair_questions.csv"
    table.write_bytes(table.read_bytes()[:-30])
    recipe_of(tmp_path, f'kind = "records"\nsets = ["diff-vqa:{own},{own}"]')
    with pytest.raises(NodeError, match=r"mimic_pair_questions\.csv is cut off"):
        run_command(tmp_path / "recipe.toml", tmp_path / "out")


def test_a_public_recipe_holds_no_path(tmp_path: Path) -> None:
    start = save_tiny(tmp_path / "start")
    recipe = {
        "run": {"steps": 3},
        "model": {"start": str(start), "heads": f"{tmp_path}/heads.safetensors"},
        "data": {
            "cache": f"{tmp_path}/cache",
            "expert": "",
            "sets": [{"data": f"diff-vqa:{tmp_path}/vqa,{tmp_path}/mimic", "long_answers": f"{tmp_path}/long.json"}],
        },
    }
    public = public_recipe(recipe)
    assert str(tmp_path) not in json.dumps(public)
    assert public["data"]["sets"][0] == {"data": "diff-vqa:vqa,mimic", "long_answers": "long.json"}
    assert public["model"] == {
        "start": f"tiny 1 {read_manifest(start).device_uid}",
        "heads": "heads.safetensors",
    }
    (start / "manifest.json").unlink()
    first = public_recipe(recipe)["model"]["start"]
    assert first.startswith("start sha256:")
    (start / "extra.json").write_text("{}")
    assert public_recipe(recipe)["model"]["start"] != first
    assert public_recipe({"model": {"start": f"{tmp_path}/gone"}})["model"]["start"] == "gone"
    assert public_recipe({"model": {"start": "new"}})["model"]["start"] == "new"
