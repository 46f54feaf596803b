"""Every recipe of the repository runs: the same settings on tiny models and data sets in the published formats."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image

from model.experts.expert import LABELS
from model.nvila.checkpoint import save_nvila
from model.predict import load_predictor
from tests.support.common import REPOSITORY
from tests.support.published import write_csv
from tests.support.records import image_of, write_mimic_with_questions
from tests.support.tiny_auto import gemma3
from tests.support.tiny_nvila import save_tiny, tiny_nvila
from tests.training.readers.test_other import NIH_HEADER, nih_row, site_export, site_line, word
from training.evaluation.texts import reference_sentence
from training.instructions.rewrite import RuleWriter, rewrite, save_answers
from training.loop.train import train
from training.phantom.cache import fill
from training.readers.diffvqa import read_medical_diff_vqa
from training.readers.mimic import jpg_path
from training.recipe.recipe import Recipe, load_recipe
from training.records.drops import DropReport

RECIPES = sorted((REPOSITORY / "training" / "recipes").glob("*.toml"))
SMALL = {
    "image_size": 32,
    "patch_size": 8,
    "vision_width": 24,
    "vision_layers": 2,
    "vision_heads": 2,
    "vision_feed": 32,
    "text_width": 24,
    "text_layers": 2,
    "text_heads": 2,
    "text_kv_heads": 1,
    "text_feed": 32,
    "difference_tokens": 4,
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Values in place of each name in capitals."""
    folder = tmp_path_factory.mktemp("places")
    root = folder / "mimic"
    studies = write_mimic_with_questions(root)
    records = list(read_medical_diff_vqa(root, partial(jpg_path, root), DropReport()))
    sentences = [(r.record_id, s) for r in records if (s := reference_sentence(r)) is not None]
    report = DropReport()
    answers = rewrite(sentences, RuleWriter(), report)
    save_answers(folder / "long.json", answers, writer="rules", report=report)
    with (folder / "expert.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image_id", *LABELS))
        rng = np.random.default_rng(0)
        writer.writerows((study.dicom, *rng.random(len(LABELS)).round(4)) for study in studies)
    nvila, processor = tiny_nvila()
    save_nvila(folder / "nvila", nvila, processor)
    said = word("edema", "presence", "agree", "present"), word("edema", "change", "agree", "new")
    lines = [
        site_line(
            f"1.{number}",
            *said,
            path=str(image_of(root, study)),
            prior_path=str(image_of(root, studies[number + 1])),
        )
        for number, study in enumerate(studies[:4])
    ]
    (folder / "site").mkdir()
    site_export(folder / "site", *lines).rename(folder / "site" / "train.jsonl")
    rows = [nih_row(f"{n}.png", "Effusion" if n % 2 else "No Finding", n, str(n // 3)) for n in range(9)]
    write_csv(folder / "nih" / "Data_Entry_2017_v2020.csv", NIH_HEADER, rows)
    for row in rows:
        picture = folder / "nih" / "images" / str(row[0])
        picture.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (48, 48), dtype=np.uint8)).save(picture)
    fill(folder / "cache", pairs=6, first_seed=500, size=32)
    return {
        "VQA": str(root),
        "MIMIC": str(root),
        "LONG": str(folder / "long.json"),
        "EXPERT_TABLE": str(folder / "expert.csv"),
        "NVILA-8B": str(folder / "nvila"),
        "MEDGEMMA": str(gemma3(folder / "medgemma")),
        "SNAPSHOT": str(folder / "site"),
        "CHAMPION": str(save_tiny(folder / "champion")),
        "CACHE": str(folder / "cache"),
        "NIH": str(folder / "nih"),
        "PICTURES": str(folder / "pictures"),
    }


def tiny(recipe: Recipe, places: dict[str, str]) -> Recipe:
    """The recipe with its names filled in, two steps of two samples, and no more workers than the machine has cores."""
    values: dict[str, Any] = recipe.model_dump(mode="json")
    values["run"] |= {"steps": 2}
    values["optimiser"] |= {"batch": 2, "accumulation": min(2, recipe.optimiser.accumulation)}
    values["architecture"] |= SMALL
    values["data"] |= {"workers": 0, "cache": places["CACHE"]}
    for key in ("long_answers", "expert"):
        if values["data"].get(key):
            values["data"][key] = places[values["data"][key]]
    for item in values["data"]["sets"]:
        kind, _, where = item["data"].partition(":")
        if kind in ("phantom", "phantom-cache", "nih"):
            source = {"phantom": "3@3000000", "phantom-cache": places["CACHE"], "nih": places["NIH"]}[kind]
        else:
            source = ",".join(_filled(part, places) for part in where.split(","))
        item["data"] = f"{kind}:{source}"
        item["long_answers"] = places[item["long_answers"]] if item["long_answers"] else ""
    if values["data"]["image_cache"]:
        values["data"]["image_cache"] = places["PICTURES"]
    values["data"]["features"] = ""  # a saving of time that `training.data.features` must have made before
    start = values["model"]["start"]
    values["model"]["start"] = places.get(start, start)
    return Recipe.model_validate(values)


def _filled(part: str, places: dict[str, str]) -> str:
    """A path whose first word stands for a place."""
    word, slash, rest = part.partition("/")
    return f"{places[word]}{slash}{rest}"


@pytest.fixture(autouse=True)
def own_accelerator() -> Iterator[None]:
    """Recipes differ in their precision, which accelerate keeps for a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_trains_and_its_result_answers(path: Path, places: dict[str, str], tmp_path: Path) -> None:
    if "[run]" not in path.read_text("utf-8"):
        pytest.skip("no recipe of the training loop")
    recipe = tiny(load_recipe(path), places)
    if "--start CHAMPION" in path.read_text("utf-8"):
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"start": places["CHAMPION"]})})
    final = train(recipe, tmp_path / "out", quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert np.isfinite([line["loss"] for line in lines]).all()
    assert load_predictor(final, findings=("edema",)).findings == ("edema",)
