"""A copy of a checkpoint that vLLM loads: names as in the family's published checkpoints, and a video processor.

Transformers 5 saves SigLIP and CLIP towers without the part "vision_model." of their names. The published checkpoints
of Gemma 3 and LLaVA have it, and vLLM 0.32 asks for it. It also asks the Qwen-VL families for a video processor, even
where no video is ever sent. Weights are copied byte by byte, shard by shard.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open
from safetensors.torch import save_file

from model.checkpoints.files import MANIFEST_NAME
from model.errors import CheckpointError

TOWERS: Final = frozenset({"siglip_vision_model", "clip_vision_model"})
TOWER_PREFIXES: Final = ("vision_tower.", "model.vision_tower.")
INNER: Final = "vision_model."
REFUSED: Final = {"nvila": "vLLM has no NVILA; serve it with SGLang, or by this node itself (docs/serving.md)"}
VIDEO_CLASSES: Final = {
    "qwen2_vl": "Qwen2VLVideoProcessor",
    "qwen2_5_vl": "Qwen2VLVideoProcessor",
    "qwen3_vl": "Qwen3VLVideoProcessor",
}
INDEX_NAME: Final = "model.safetensors.index.json"


def export_for_vllm(source: Path, target: Path) -> dict[str, str]:
    """Write a copy that vLLM loads into a folder that does not exist yet; return the changed names, old to new.

    Raises CheckpointError where the folder is no checkpoint, `target` exists, or vLLM has no such model.
    """
    config = _json(source / "config.json")
    kind = str(config.get("model_type", ""))
    for family, why in REFUSED.items():
        if kind.startswith(family):
            raise CheckpointError(f"{source}: {why}")
    if target.exists():
        raise CheckpointError(f"{target}: exists already; name a new folder")
    shards = sorted(source.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(f"{source}: no *.safetensors here")
    rename = _renaming(config)
    target.mkdir(parents=True)
    changed: dict[str, str] = {}
    for path in sorted(source.iterdir()):
        # Its hashes are of other files; vLLM does not look at it, and this node does not serve the copy itself.
        if path.is_file() and path.suffix != ".safetensors" and path.name not in (MANIFEST_NAME, INDEX_NAME):
            shutil.copyfile(path, target / path.name)
    for path in shards:
        changed |= _copy_shard(path, target / path.name, rename)
    _copy_index(source, target, changed)
    _add_video_processor(target, kind)
    return changed


def _renaming(config: dict[str, Any]) -> Callable[[str], str]:
    """The name of a weight in the family's published checkpoints."""
    vision = config.get("vision_config") or {}
    is_tower = vision.get("model_type") in TOWERS

    def rename(name: str) -> str:
        for prefix in TOWER_PREFIXES:
            if is_tower and name.startswith(prefix) and not name.startswith(prefix + INNER):
                return prefix + INNER + name.removeprefix(prefix)
        return name

    return rename


def _copy_shard(source: Path, target: Path, rename: Callable[[str], str]) -> dict[str, str]:
    changed = {}
    weights = {}
    with safe_open(source, framework="pt") as shard:
        metadata = shard.metadata() or {"format": "pt"}
        for name in shard.keys():  # noqa: SIM118 (safe_open is no mapping)
            new = rename(name)
            weights[new] = shard.get_tensor(name)
            if new != name:
                changed[name] = new
    save_file(weights, target, metadata=metadata)
    return changed


def _copy_index(source: Path, target: Path, changed: dict[str, str]) -> None:
    if not (source / INDEX_NAME).is_file():
        return
    index = _json(source / INDEX_NAME)
    index["weight_map"] = {changed.get(name, name): shard for name, shard in index["weight_map"].items()}
    (target / INDEX_NAME).write_text(json.dumps(index, indent=2), "utf-8")


def _add_video_processor(target: Path, kind: str) -> None:
    """A description of a video processor made from that of the images."""
    name = VIDEO_CLASSES.get(kind)
    path = target / "video_preprocessor_config.json"
    if name is None or path.exists():
        return
    images = target / "preprocessor_config.json"
    processor = target / "processor_config.json"
    values = _json(images) if images.is_file() else _json(processor).get("image_processor", {})
    kept = {key: value for key, value in values.items() if key not in ("processor_class", "image_processor_type")}
    path.write_text(json.dumps({**kept, "video_processor_type": name}, indent=2), "utf-8")


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); name the folder of a checkpoint") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return document
