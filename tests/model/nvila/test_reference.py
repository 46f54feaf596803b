"""NVILA against tensors of the original implementation (three random checkpoints, every case)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from model.nvila import NvilaForConditionalGeneration, NvilaProcessor, Tiling, load_nvila
from model.nvila.checkpoint import stop_token_ids
from model.nvila.tiling import ImageGeometry, candidate_grids, choose_grid, tile_image
from tests.support.common import shared

CHECKPOINTS = ("A", "B", "C")
CASES = [
    (name, case)
    for name in CHECKPOINTS
    for case in ("pair", "single0", "single1", "pair_tiled", "text")
    if (name, case) != ("C", "pair_tiled")
]
GREY_LEVEL = 2 / 255


@cache
def load(name: str) -> tuple[NvilaForConditionalGeneration, NvilaProcessor, dict[str, Any], dict[str, Tensor]]:
    folder = shared("nvila_reference", name)
    model, processor = load_nvila(folder, dtype=torch.float32)
    reference = json.loads((folder / "reference.json").read_text())
    return model, processor, reference, load_file(folder / "reference.safetensors")


def pictures(tensors: dict[str, Tensor], case: str) -> list[Image.Image]:
    chosen = {"pair": (0, 1), "pair_tiled": (0, 1), "single0": (0,), "single1": (1,), "text": ()}[case]
    return [Image.fromarray(tensors[f"images.{index}"].numpy()) for index in chosen]


def tiling(case: str) -> Tiling:
    return Tiling.ALWAYS if case == "pair_tiled" else Tiling.ORIGINAL


def inputs(name: str, case: str) -> Any:
    _, processor, reference, tensors = load(name)
    return processor(
        text=reference["cases"][case]["prompt_text"],
        images=pictures(tensors, case) or None,
        tiling=str(tiling(case)),
    )


@pytest.mark.parametrize(("name", "case"), CASES)
def test_tokens_and_counts(name: str, case: str) -> None:
    _, processor, reference, tensors = load(name)
    entry = reference["cases"][case]
    tiles = processor.tile(pictures(tensors, case), tiling(case))
    assert processor.prompt_ids(entry["prompt_text"], tiles) == tensors[f"{case}.input_ids"].tolist()
    counts = [tokens + 1 for image in tiles for tokens in image.sequence_tokens]
    assert counts == (entry.get("tokens_per_image_placeholder") or [])
    batch = inputs(name, case)
    assert batch["input_ids"].shape[1] == entry["num_prompt_positions"]
    assert batch["attention_mask"][0].tolist() == tensors[f"{case}.attention_mask"].tolist()
    if case == "text":
        assert "pixel_values" not in batch
    if name == "A" and entry.get("block_sizes_rows_cols"):
        assert batch["image_grids"].tolist() == entry["block_sizes_rows_cols"]


@pytest.mark.parametrize(("name", "case"), [pair for pair in CASES if pair[1] != "text"])
def test_pixels_and_features(name: str, case: str) -> None:
    model, _, _, tensors = load(name)
    batch = inputs(name, case)
    single = [tensors[f"single{index}.pixel_values_1ch"] for index in (0, 1)]
    expected = torch.cat(single) if case == "pair_tiled" else tensors[f"{case}.pixel_values_1ch"]
    assert torch.equal(batch["pixel_values"], expected.expand(-1, 3, -1, -1))
    with torch.no_grad():
        found = model.encode_images(batch["pixel_values"], batch["image_grids"])
    for key, value in (
        ("vision_features", found.vision),
        ("projector_input", found.projector_input),
        ("projector_output", found.projected),
    ):
        if f"{case}.{key}" in tensors:
            torch.testing.assert_close(value, tensors[f"{case}.{key}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_embeddings_logits_and_greedy_tokens(name: str, case: str) -> None:
    model, _, _, tensors = load(name)
    batch = inputs(name, case)
    with torch.no_grad():
        embedded = model.embed(**{key: value for key, value in batch.items() if key != "attention_mask"})
        torch.testing.assert_close(embedded[0], tensors[f"{case}.inputs_embeds"], atol=1e-4, rtol=0)
        logits = model(**batch).logits[0, -8:]
    torch.testing.assert_close(logits, tensors[f"{case}.logits_last8"], atol=1e-3, rtol=0)
    written = model.generate(**batch, max_new_tokens=16)[0, batch["input_ids"].shape[1] :]
    assert written.tolist() == tensors[f"{case}.generated_ids"].tolist()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_image_embeddings_with_their_newline(name: str) -> None:
    model, processor, _, tensors = load(name)
    for case in ("pair", "single0", "single1"):
        batch = inputs(name, case)
        with torch.no_grad():
            embedded = model.embed(**{key: value for key, value in batch.items() if key != "attention_mask"})[0]
        places = (batch["input_ids"][0] == processor.image_token_id).nonzero()[:, 0].tolist()
        runs: list[list[int]] = []
        for place in places:
            if runs and place == runs[-1][-1] + 1:
                runs[-1].append(place)
            else:
                runs.append([place])
        for number, run in enumerate(runs):
            expected = tensors[f"{case}.image_embeds.{number}"]
            torch.testing.assert_close(embedded[run[0] : run[-1] + 2], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["A", "B"])
def test_every_tiling_vector(name: str) -> None:
    _, _, reference, _ = load(name)
    checked = 0
    for key, rows in reference["tiling_table_width_height_cols_rows"].items():
        side = int(key.split(".")[0].removeprefix("tile"))
        low, high = key.split(".")[1].split("_")[-2:]
        grids = candidate_grids(int(low.removeprefix("min")), int(high.removeprefix("max")))
        expected_set = {tuple(pair) for pair in reference["candidate_order_cols_rows"][key.split(".")[1]]}
        assert set(grids) == expected_set
        for width, height, columns, rows_ in rows:
            assert choose_grid(width, height, side, grids) == (columns, rows_), (key, width, height)
            checked += 1
    assert checked == 176


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_tokenisation_vector(name: str) -> None:
    _, processor, reference, _ = load(name)
    assert reference["tokenization"]
    roles = {"human": "user", "gpt": "assistant"}
    for vector in reference["tokenization"]:
        talk = [{"role": roles[turn["from"]], "content": turn["value"].strip()} for turn in vector["conversation"]]
        if vector["kwargs"].get("no_system_prompt"):
            talk.insert(0, {"role": "system", "content": ""})
        text = processor.tokenizer.apply_chat_template(
            talk, add_generation_prompt=vector["add_generation_prompt"], tokenize=False
        )
        assert processor.tokenizer(text, add_special_tokens=False).input_ids == vector["input_ids"], vector["name"]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_special_tokens_and_prompt_parts(name: str) -> None:
    _, processor, reference, tensors = load(name)
    wanted = reference["tokenizer"]
    assert processor.image_token_id == wanted["media_token_ids"]["image"]
    assert processor.tokenizer.convert_tokens_to_ids("<vila/video>") == wanted["media_token_ids"]["video"]
    assert processor.tokenizer.convert_tokens_to_ids("<vila/sentinel>") == wanted["sentinel_token_id"]
    assert stop_token_ids(processor.tokenizer) == wanted["stop_token_ids"]
    assert [processor.newline_token_id] == wanted["newline_token_ids"]
    images = pictures(tensors, "pair")
    question = reference["question"]
    assert processor.prompt([images[0], "\n", images[1], "\n", question]) == (reference["cases"]["pair"]["prompt_text"])
    assert processor.prompt([f" <image> {question}"]) == reference["cases"]["text"]["prompt_text"]


@pytest.mark.parametrize("side", [112, 224])
def test_pillow_probe(side: int) -> None:
    """A portrait resize that Pillow 13 changed: the pinned Pillow gives the original's pixels."""
    probe = load_file(shared("nvila_reference") / "pillow_probe.safetensors")
    picture = Image.fromarray(probe["image"].numpy())
    geometry = ImageGeometry(mode="resize", tile_side=side, patch_side=side // 14, merge_side=2)
    found = tile_image(picture, geometry, tiled=False).pixels[0, 0]
    grey = torch.from_numpy((found * 0.5 + 0.5) * 255).round().int()
    assert int((grey - probe[f"resized_{side}x{side}.pillow_le_12"].int()).abs().max()) == 0


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_batch_of_unequal_prompts_equals_one_by_one(name: str) -> None:
    model, processor, reference, tensors = load(name)
    cases = ("single0", "pair", "text")
    texts = [reference["cases"][case]["prompt_text"] for case in cases]
    batch = processor(text=texts, images=[pictures(tensors, case) for case in cases], tiling="original")
    with torch.no_grad():
        logits = model(**batch).logits
    for row, case in enumerate(cases):
        length = int(batch["attention_mask"][row].sum())
        expected = tensors[f"{case}.logits_last8"]
        torch.testing.assert_close(logits[row, length - 8 : length], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_left_padded_batch_generates_what_each_does_alone(name: str) -> None:
    model, processor, reference, tensors = load(name)
    cases = ("text", "pair")
    batch = processor(
        text=[reference["cases"][case]["prompt_text"] for case in cases],
        images=[pictures(tensors, case) for case in cases],
        padding_side="left",
        tiling="original",
    )
    written = model.generate(**batch, max_new_tokens=16)[:, batch["input_ids"].shape[1] :]
    for row, case in enumerate(cases):
        assert written[row].tolist() == tensors[f"{case}.generated_ids"].tolist()


def test_sharded_folder(tmp_path: Path) -> None:
    """The language model in two shards with an index, as the released 8B has it."""
    from shutil import copytree

    from safetensors.torch import save_file

    source = shared("nvila_reference", "A")
    for part in ("llm", "mm_projector", "vision_tower"):
        copytree(source / part, tmp_path / part)
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    weights = load_file(source / "llm" / "model.safetensors")
    part_folder = tmp_path / "llm"
    part_folder.chmod(0o755)
    (part_folder / "model.safetensors").unlink()
    names = sorted(weights)
    index: dict[str, str] = {}
    for number, keys in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({key: weights[key] for key in keys}, part_folder / file)
        index |= dict.fromkeys(keys, file)
    (part_folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    model, _ = load_nvila(tmp_path)
    _, _, _, tensors = load("A")
    with torch.no_grad():
        logits = model(**inputs("A", "pair")).logits[0, -8:]
    torch.testing.assert_close(logits, tensors["pair.logits_last8"], atol=1e-3, rtol=0)
