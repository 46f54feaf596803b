"""How large a picture the model of a recipe wants, read from its configuration before any weight is loaded."""

from __future__ import annotations

from typing import Any

from model.engine.vlm import AutoVlm, local_folder
from model.nvila.checkpoint import ORIGINAL_TYPE, read_json
from model.nvila.configuration import NvilaConfig
from model.nvila.tiling import Tiling
from training.recipe.recipe import Recipe


def picture_side(recipe: Recipe) -> int:
    """Side of the pictures in pixels, as `model.engine.vlm` makes them for the same checkpoint. Raises
    CheckpointError."""
    if recipe.model.start == "new":
        return recipe.architecture.image_size
    folder = local_folder(recipe.model.start, revision=recipe.model.revision)
    top = read_json(folder / "config.json")
    kind = top.get("model_type")
    if kind == ORIGINAL_TYPE:
        side = int(read_json(folder / "vision_tower" / "config.json")["image_size"])
        mode = "dynamic_s2" if top.get("dynamic_s2") else top.get("image_aspect_ratio") or "resize"
        scales = [int(scale) for scale in str(top.get("s2_scales") or "").split(",") if scale.strip()]
        return _nvila_side(side, mode, scales, recipe)
    if kind == NvilaConfig.model_type:
        scales = [int(scale) for scale in top.get("s2_scales") or []]
        return _nvila_side(int(top["vision_config"]["image_size"]), str(top.get("image_aspect_ratio")), scales, recipe)
    vision: Any = top.get("vision_config") or {}
    declared = vision.get("image_size")
    return declared if isinstance(declared, int) else AutoVlm.image_size


def _nvila_side(side: int, mode: str, scales: list[int], recipe: Recipe) -> int:
    if mode == "dynamic_s2" and scales:
        side = min(scales)
    if Tiling(recipe.model.tiling) is Tiling.NEVER or mode == "resize":
        return side
    return max(scales) if scales else side * 3
