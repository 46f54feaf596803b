"""Check that an original checkpoint asks nothing of images and prompts that this code does not do: refused otherwise.

Each of these would give tokens, and answers, like any others: other grey values, another prompt, other end tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import CheckpointError

_PREPROCESSOR: Mapping[str, Any] = {
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "do_rescale": True,
    "do_normalize": True,
    "do_resize": True,
}
"""The settings that `model.nvila.tiling` follows (reference README 4.2); a key that is missing means the same."""
_RESCALE = 1 / 255


def refuse_other_processing(folder: Path, top: Mapping[str, Any], preprocessor: Mapping[str, Any], side: int) -> None:
    """Raise CheckpointError naming the key. top: config.json; preprocessor: that of the vision tower, {} where it has
    none; side: of one tile in pixels, unless scales are merged (then the smallest scale counts, as in the original)."""
    where = folder / "vision_tower" / "preprocessor_config.json"
    for key, done in _PREPROCESSOR.items():
        # Other means or a crop would run without an error, and answer about pictures that the model never saw.
        if preprocessor.get(key, done) != done:
            raise CheckpointError(f"{where}: {key} = {preprocessor[key]}; only {done} is supported")
    if abs(preprocessor.get("rescale_factor", _RESCALE) - _RESCALE) > 1e-9:
        raise CheckpointError(f"{where}: rescale_factor = {preprocessor['rescale_factor']}; only 1/255 is supported")
    size = preprocessor.get("size", {"height": side, "width": side})
    if not top.get("dynamic_s2") and size != {"height": side, "width": side}:
        raise CheckpointError(f"{where}: size = {size}; the vision tower's images have {side} pixels on each side")
    if top.get("chat_template"):
        raise CheckpointError(
            f"{folder}: chat_template {top['chat_template']!r} is not supported, only the tokenizer's"
        )
    if not _is_basic(top.get("image_encoder")):
        raise CheckpointError(
            f"{folder}: image_encoder {top['image_encoder']!r} is not supported, only a plain basic one"
        )


def _is_basic(encoder: Any) -> bool:
    """The encoder without settings of its own: no start token, a line feed as end token."""
    if isinstance(encoder, str):
        try:
            encoder = json.loads(encoder)
        except ValueError:
            return False
    if encoder is None:
        return True
    named = str(encoder.get("_target_", "")) if isinstance(encoder, dict) else ""
    return named.rpartition(".")[2] == "BasicImageEncoder" and set(encoder) == {"_target_"}
