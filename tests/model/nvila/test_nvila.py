"""NVILA as a citizen of Transformers and PEFT: saving, loading, adapters, checkpointing, precision, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from model.errors import CheckpointError
from model.nvila import (
    NvilaConfig,
    NvilaForConditionalGeneration,
    NvilaProcessor,
    Tiling,
    load_nvila,
    modeling,
    save_nvila,
)
from model.nvila.projector import Downsample, cut_mosaic, merge_scales, mosaic
from model.questions.prompts import PromptLayout, render_prefix, render_question
from tests.support.tiny_nvila import picture, save_tiny, tiny_nvila

PAIR = render_prefix(PromptLayout(priors=1)) + render_question("how did edema change?")
SINGLE = render_prefix(PromptLayout()) + render_question("is there edema?")


@pytest.fixture(scope="module")
def tiny() -> tuple[NvilaForConditionalGeneration, NvilaProcessor]:
    return tiny_nvila()


def batch_of(processor: NvilaProcessor) -> Any:
    """Two samples of different length with labels on their last tokens."""
    batch = processor(text=[PAIR, SINGLE], images=[[picture(1), picture(2)], [picture(3)]])
    labels = torch.full_like(batch["input_ids"], -100)
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        labels[row, length - 4 : length] = batch["input_ids"][row, length - 4 : length]
    return batch | {"labels": labels}


def tile_of(processor: NvilaProcessor, seed: int) -> Tensor:
    pixels: Tensor = processor.image_inputs([processor.tile([picture(seed)], Tiling.NEVER)])["pixel_values"]
    return pixels


@torch.inference_mode()
def test_kept_features_run_the_tower_once_for_each_tile(
    tiny: tuple[NvilaForConditionalGeneration, NvilaProcessor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = tiny
    one, two, three = (tile_of(processor, seed) for seed in (1, 2, 3))
    plain = model.vision_features(torch.cat([one, two, three]))
    ran: list[int] = []
    tower = model.vision_tower.encoder.layers[0].register_forward_hook(
        lambda _layer, given, _out: ran.append(len(given[0]))
    )
    with model.keep_features():
        for tiles, expected in (([one, two], [0, 1]), ([two, three, two], [1, 2, 1]), ([three, one], [2, 0])):
            assert torch.allclose(model.vision_features(torch.cat(tiles)), plain[expected], atol=1e-5)
    assert ran == [2, 1]
    monkeypatch.setattr(modeling, "MAX_KEPT_TILES", 1)
    with model.keep_features():
        for _ in range(2):
            assert torch.allclose(model.vision_features(torch.cat([one, two])), plain[:2], atol=1e-5)
    assert ran == [2, 1, 2, 1], "beyond the limit a tile is computed anew"
    model.vision_features(one)
    assert ran[-1] == 1, "and nothing is kept afterwards"
    assert len(ran) == 5
    tower.remove()


def test_features_are_not_kept_where_gradients_are_wanted(
    tiny: tuple[NvilaForConditionalGeneration, NvilaProcessor],
) -> None:
    model, processor = tiny
    tile = tile_of(processor, 1)
    with model.keep_features():
        with torch.inference_mode():
            model.vision_features(tile)
        assert model.vision_features(tile).requires_grad


@pytest.mark.parametrize(
    ("mode", "projector"),
    [
        ("resize", "mlp_downsample"),
        ("dynamic", "mlp_downsample_3x3_fix"),
        ("dynamic_s2", "mlp_downsample_2x2_fix"),
    ],
)
def test_round_trips_through_both_layouts(tmp_path: Path, mode: str, projector: str) -> None:
    model, processor = tiny_nvila(mode=mode, projector=projector)
    batch = processor(text=SINGLE, images=[picture(1, 168)], tiling="always")
    with torch.no_grad():
        wanted = model(**batch).logits
    model.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    save_nvila(tmp_path / "original", model, processor)
    for folder in ("ours", "original"):
        loaded, again = load_nvila(tmp_path / folder)
        repeated = again(text=SINGLE, images=[picture(1, 168)], tiling="always")
        assert torch.equal(repeated["input_ids"], batch["input_ids"])
        with torch.no_grad():
            assert torch.equal(loaded(**repeated).logits, wanted)
        assert loaded.llm.lm_head.weight is loaded.llm.model.embed_tokens.weight


def test_auto_classes(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    assert isinstance(AutoConfig.from_pretrained(folder), NvilaConfig)
    assert isinstance(AutoModelForImageTextToText.from_pretrained(folder), NvilaForConditionalGeneration)
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, NvilaProcessor)
    assert processor.tiling == "never"


def test_custom_mask_and_positions_reach_the_language_model(tiny: Any) -> None:
    model, processor = tiny
    batch = processor(text=PAIR, images=[picture(1), picture(2)])
    length = batch["input_ids"].shape[1]
    causal = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    positions = torch.arange(length)[None]
    with torch.no_grad():
        plain = model(**batch).logits
        given = model(**(batch | {"attention_mask": causal}), position_ids=positions).logits
        torch.testing.assert_close(given, plain, atol=1e-4, rtol=0)
        blind = causal.clone()
        blind[..., -1, :-1] = False  # the last token sees nothing but itself
        blinded = model(**(batch | {"attention_mask": blind}), position_ids=positions).logits
        torch.testing.assert_close(blinded[:, :-1], plain[:, :-1], atol=1e-4, rtol=0)
        assert not torch.allclose(blinded[:, -1], plain[:, -1], atol=1e-2)
        moved = model(**batch, position_ids=positions * 3).logits
        assert not torch.allclose(moved, plain, atol=1e-2)


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model, processor = tiny_nvila()
    batch = batch_of(processor)
    model.train()
    model(**batch).loss.backward()
    plain = gradients(model)
    model.zero_grad()
    model.activation_checkpointing_enable()
    passes: dict[str, int] = {"vision": 0, "text": 0}
    for name, part in (("vision", model.vision_tower.encoder.layers[0].mlp), ("text", model.llm.model.layers[0].mlp)):
        part.register_forward_pre_hook(lambda *_, name=name: passes.update({name: passes[name] + 1}))
    loss = model(**batch).loss
    loss.backward()
    assert passes == {"vision": 2, "text": 2}, "each layer runs again on the way back"
    again = gradients(model)
    assert plain.keys() == again.keys()
    assert any(name.startswith("vision_tower.encoder.layers.0") for name in plain)
    assert any(name.startswith("mm_projector") for name in plain)
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, atol=1e-5, rtol=1e-4)


def test_a_training_step_lowers_the_loss() -> None:
    model, processor = tiny_nvila()
    batch = batch_of(processor)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_bfloat16_agrees_roughly_with_float32(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    full, processor = load_nvila(folder)
    half, _ = load_nvila(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    batch = processor(text=PAIR, images=[picture(1), picture(2)])
    with torch.no_grad():
        left, right = full(**batch).logits, half(**batch).logits.float()
    assert half(**batch).logits.dtype == torch.bfloat16
    correlation = torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1]
    assert correlation > 0.99


def test_sdpa_and_eager_agree() -> None:
    batch = tiny_nvila()[1](text=PAIR, images=[picture(1), picture(2)])
    results = []
    for attention in ("sdpa", "eager"):
        model, _ = tiny_nvila(attention=attention)
        assert model.vision_tower.config._attn_implementation == attention
        with torch.no_grad():
            results.append(model(**batch).logits)
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("wide", [False, True])
def test_lora_attaches_where_it_is_wanted(tmp_path: Path, wide: bool) -> None:
    """The language model alone, or by setting the vision tower and projector too."""
    model, processor = tiny_nvila()
    batch = batch_of(processor)
    with torch.no_grad():
        before = model(**batch).logits
    names = r"(q|k|v|o|gate|up|down)_proj"
    target = rf"llm\..*\.{names}" + (
        r"|vision_tower\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)|mm_projector\.layers\.[24]" if wide else ""
    )
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=target))
    learned = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert all("lora_" in name for name in learned)
    assert any("vision_tower" in name for name in learned) == wide
    assert any("mm_projector" in name for name in learned) == wide
    wrapped.train()
    optimiser = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        wrapped(**batch).loss.backward()
        optimiser.step()
    wrapped.eval()
    with torch.no_grad():
        after = wrapped(**batch).logits
    assert not torch.allclose(before, after, atol=1e-3)
    wrapped.save_pretrained(tmp_path)
    fresh = PeftModel.from_pretrained(tiny_nvila()[0], tmp_path).merge_and_unload().eval()
    with torch.no_grad():
        torch.testing.assert_close(fresh(**batch).logits, after, atol=1e-3, rtol=1e-3)


def test_plain_configuration_is_untouched_by_the_extras(tmp_path: Path) -> None:
    """Without `longitudinal` there are no further weights and no further tokens; with it there are both."""
    plain, plain_processor = tiny_nvila()
    extended, processor = tiny_nvila(longitudinal={"difference_tokens": 4, "no_prior_tokens": 2})
    extended.load_state_dict(plain.state_dict(), strict=False)
    images = [picture(1), picture(2)]
    usual = plain_processor(text=PAIR, images=images)
    longer = processor(text=PAIR, images=images)
    assert longer["input_ids"].shape[1] == usual["input_ids"].shape[1] + 4
    alone = processor(text=SINGLE, images=images[:1])["input_ids"].shape[1]
    assert alone == plain_processor(text=SINGLE, images=images[:1])["input_ids"].shape[1] + 2
    own = render_prefix(PromptLayout(priors=1, difference=True)) + render_question("how did edema change?")
    batch = processor(text=[own, SINGLE], images=[images, images[:1]])
    with torch.no_grad():
        assert extended(**batch).logits.isfinite().all()
    assert not [name for name in plain.state_dict() if "longitudinal" in name]
    extended.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, _ = load_nvila(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, extended(**batch).logits)
    with pytest.raises(CheckpointError, match="longitudinal"):
        save_nvila(tmp_path / "original", extended, processor)


@pytest.mark.parametrize("side", [4, 5, 8])
@pytest.mark.parametrize("k", [2, 3])
def test_downsample_joins_blocks_row_major(side: int, k: int) -> None:
    grid = torch.arange(side * side, dtype=torch.float32).view(1, side * side, 1) + 1
    merged = Downsample(k)(grid)
    blocks = -(-side // k)
    assert merged.shape == (1, blocks * blocks, k * k)
    expected = [grid[0, row * side + column, 0].item() for row in range(k) for column in range(k)]
    assert merged[0, 0].tolist() == expected
    last = [
        float(row * side + column + 1) if row < side and column < side else 0.0
        for row in range((blocks - 1) * k, blocks * k)
        for column in range((blocks - 1) * k, blocks * k)
    ]
    assert merged[0, -1].tolist() == last


def test_mosaic_is_undone() -> None:
    tiles = torch.rand(6, 9, 5)
    assert torch.equal(cut_mosaic(mosaic(tiles, 2, 3), 2, 3), tiles)


def test_scales_are_averaged_not_picked() -> None:
    """One 2x2-patch tile and a 2x2-tile scale onto a 3x3-tile scale: the ratio is not whole."""
    tiles = torch.rand(1 + 4 + 9, 4, 3)
    merged = merge_scales(tiles, (1, 2, 3), 3, 3, 2)
    assert merged.shape == (9, 4, 9)
    whole = mosaic(merged, 3, 3)
    middle = mosaic(tiles[1:5], 2, 2)  # 4 x 4 -> 6 x 6: cell 1 covers patches 0 and 1
    torch.testing.assert_close(whole[1, 0, 3:6], (middle[0, 0] + middle[1, 0]) / 2)


def test_wrong_folders_are_refused_by_name(tmp_path: Path) -> None:
    model, processor = tiny_nvila()
    save_nvila(tmp_path / "x", model, processor)
    weights = tmp_path / "x" / "mm_projector" / "model.safetensors"
    good = load_file(weights)
    save_file({key: value for key, value in good.items() if key != "layers.2.bias"}, weights)
    with pytest.raises(CheckpointError, match=r"mm_projector: 1 tensors are missing, first 'layers\.2\.bias'"):
        load_nvila(tmp_path / "x")
    save_file({**good, "layers.9.bias": torch.zeros(1)}, weights)
    with pytest.raises(CheckpointError, match=r"unexpected or repeated tensor 'layers\.9\.bias'"):
        load_nvila(tmp_path / "x")
    save_file({**good, "layers.2.bias": torch.zeros(3)}, weights)
    with pytest.raises(CheckpointError, match=r"shape \[3\]"):
        load_nvila(tmp_path / "x")
    weights.write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_nvila(tmp_path / "x")
    config = tmp_path / "x" / "config.json"
    config.write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(CheckpointError, match="'llava' is no NVILA"):
        load_nvila(tmp_path / "x")
    with pytest.raises(CheckpointError, match="not readable"):
        load_nvila(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("file", "key", "value", "words"),
    [
        ("vision_tower/preprocessor_config.json", "image_mean", [0.48, 0.46, 0.41], "image_mean"),
        ("vision_tower/preprocessor_config.json", "image_std", [0.27, 0.26, 0.28], "image_std"),
        ("vision_tower/preprocessor_config.json", "rescale_factor", 1.0, "1/255"),
        ("vision_tower/preprocessor_config.json", "resample", 2, "resample"),
        ("vision_tower/preprocessor_config.json", "do_normalize", False, "do_normalize"),
        ("vision_tower/preprocessor_config.json", "size", {"height": 112, "width": 112}, "56 pixels"),
        ("config.json", "chat_template", "vicuna", "vicuna"),
        ("config.json", "image_encoder", '{"_target_": "llava.model.encoders.TSPVideoEncoder"}', "TSPVideoEncoder"),
        (
            "config.json",
            "image_encoder",
            {"_target_": "llava.model.encoders.BasicImageEncoder", "end_tokens": ""},
            "end_tokens",
        ),
        ("config.json", "image_aspect_ratio", "pad", "pad"),
        ("config.json", "s2", True, "s2"),
        ("config.json", "mm_vision_select_feature", "patch", "cls_patch"),
    ],
)
def test_what_this_code_does_not_do_is_refused(tmp_path: Path, file: str, key: str, value: Any, words: str) -> None:
    """Other grey values or another prompt would give answers like any others."""
    save_nvila(tmp_path, *tiny_nvila())
    path = tmp_path / file
    load_nvila(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=words):
        load_nvila(tmp_path)


def test_missing_weights_of_our_own_layout_are_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    weights = load_file(folder / "model.safetensors")
    weights.pop("mm_projector.layers.2.bias")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="missing keys"):
        load_nvila(folder)


def test_text_and_images_must_agree(tiny: Any) -> None:
    model, processor = tiny
    with pytest.raises(ValueError, match="2 <image> in the text for 1"):
        processor(text=PAIR, images=[picture(1)])
    with pytest.raises(ValueError, match="batch of 2 texts"):
        processor(text=[PAIR, PAIR], images=[picture(1), picture(2)])
    batch = processor(text=PAIR, images=[picture(1), picture(2)])
    with pytest.raises(ValueError, match="image placeholders"):
        model(**(batch | {"pixel_values": batch["pixel_values"][:1], "image_grids": batch["image_grids"][:1]}))


_MEASURE = """
import sys, torch
from pathlib import Path
from model.nvila import load_nvila

def kilobytes(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if name in line)

load_nvila(sys.argv[1])
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: it is inherited from whoever started this process
model, _ = load_nvila(sys.argv[2], dtype=getattr(torch, sys.argv[3]))
print((kilobytes("VmHWM") - before) * 1024, sum(p.numel() * p.element_size() for p in model.parameters()))
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loading_holds_one_copy(tmp_path: Path, dtype: str) -> None:
    """Reading four shards, converted or not, takes the memory of the result, not of the result and the files."""
    save_nvila(tmp_path / "small", *tiny_nvila())
    folder = tmp_path / "large"
    save_nvila(folder, *tiny_nvila(hidden=512, layers=10))
    single = folder / "llm" / "model.safetensors"
    weights = load_file(single)
    index: dict[str, str] = {}
    for number in range(4):
        part = {key: weights[key] for key in sorted(weights)[number::4]}
        save_file(part, folder / "llm" / f"model-{number}.safetensors")
        index |= dict.fromkeys(part, f"model-{number}.safetensors")
    single.unlink()
    (folder / "llm" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    command = [sys.executable, "-c", _MEASURE, str(tmp_path / "small"), str(folder), dtype]
    measured = subprocess.run(command, check=True, capture_output=True, text=True)
    taken, weights_bytes = (int(word) for word in measured.stdout.split()[-2:])
    assert weights_bytes > 9e7
    assert 0.9 * weights_bytes < taken < 1.15 * weights_bytes
