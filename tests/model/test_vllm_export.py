"""A copy for vLLM has the names of the published checkpoints, the same numbers, and opens here as the original does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoints.vllm_export import export_for_vllm
from model.errors import CheckpointError
from tests.support import tiny_auto

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "gemma3": tiny_auto.gemma3,
    "idefics3": tiny_auto.idefics3,
    "llava_next": tiny_auto.llava_next,
    "qwen2_5_vl": tiny_auto.qwen2_5_vl,
}
PUBLISHED = {
    "gemma3": "vision_tower.vision_model.embeddings.patch_embedding.weight",
    "llava_next": "vision_tower.vision_model.embeddings.patch_embedding.weight",
    "qwen2_5_vl": "visual.patch_embed.proj.weight",
    "idefics3": "model.vision_model.embeddings.patch_embedding.weight",
}
"""A name of the vision tower in google/gemma-3-4b-it, llava-v1.6, Qwen2.5-VL-3B-Instruct, Idefics3-8B-Llama3."""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_has_the_published_names_and_the_same_numbers(family: str, tmp_path: Path) -> None:
    source = FAMILIES[family](tmp_path / family)
    changed = export_for_vllm(source, tmp_path / "copy")
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "copy" / "model.safetensors")
    assert PUBLISHED[family] in after
    assert len(after) == len(before)
    for name, weight in before.items():
        assert torch.equal(after[changed.get(name, name)], weight)
    assert json.loads((tmp_path / "copy" / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )
    if family.startswith("qwen"):
        described = json.loads((tmp_path / "copy" / "video_preprocessor_config.json").read_text())
        assert described["video_processor_type"] == "Qwen2VLVideoProcessor"


def test_what_vllm_cannot_serve_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "nvila"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "nvila"}')
    with pytest.raises(CheckpointError, match="vLLM has no NVILA"):
        export_for_vllm(folder, tmp_path / "copy")
    with pytest.raises(CheckpointError, match="cannot be read"):
        export_for_vllm(tmp_path, tmp_path / "copy")
    (folder / "config.json").write_text('{"model_type": "gemma3"}')
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors"):
        export_for_vllm(folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
