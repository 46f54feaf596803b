"""The square pictures of records' images: decoded by `model.images.display`, fitted, and kept on disk where that is
wanted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.engine.auto_classes import local_folder
from model.engine.vlm import AutoVlm
from model.images.square import fit
from model.nvila.checkpoint import ORIGINAL_TYPE, read_json
from model.nvila.configuration import NvilaConfig
from model.nvila.tiling import Tiling
from training.data.datasets import load_image
from training.phantom.scene import PHANTOM_FINDINGS
from training.readers.phantom import CACHED, read_marks, read_picture
from training.recipe.recipe import Recipe
from training.records.record import ImageRef

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """size: side in pixels. cache: folder for decoded pictures, size² bytes each, or None.

    A kept picture is found by its file's name, size and time of change: another file is decoded anew.
    """

    size: int
    cache: Path | None = None

    def get(self, image: ImageRef) -> NDArray[np.uint8]:
        """uint8 [size, size]. Raises PixelError where the image gives no picture."""
        if image.key.startswith(CACHED):
            rendered = read_picture(image.key)
            return rendered if rendered.shape[-1] == self.size else fit(load_image(image), self.size)
        if self.cache is None:
            return fit(load_image(image), self.size)
        kept = self.cache / self._name(image)
        try:
            picture: NDArray[np.uint8] = np.load(kept)
            if picture.shape == (self.size, self.size) and picture.dtype == np.uint8:
                return picture
        except (OSError, ValueError, EOFError):
            pass  # not there yet, or cut off by a full disc: it is made below either way
        picture = fit(load_image(image), self.size)
        self._keep(kept, picture)
        return picture

    def marks(self, image: ImageRef, findings: Sequence[str]) -> NDArray[np.uint8] | None:
        """Where the findings lie, uint8 [findings, side, side]; None where that is not known of each of them."""
        if not findings or not set(findings) <= set(PHANTOM_FINDINGS):
            return None
        marks = read_marks(image.key)
        return None if marks is None else marks[[PHANTOM_FINDINGS.index(key) for key in findings]]

    def _name(self, image: ImageRef) -> str:
        try:
            about = Path(image.key).stat()
            state = f"{about.st_size} {about.st_mtime_ns}"
        except OSError:
            state = ""
        digest = hashlib.sha256(f"{_FORMAT} {self.size} {image.key} {state}".encode()).hexdigest()
        return f"{digest[:2]}/{digest}.npy"

    def _keep(self, path: Path, picture: NDArray[np.uint8]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            np.save(file, picture)
        temporary.replace(path)


def picture_side(recipe: Recipe) -> int:
    """Side of the pictures in pixels, as `model.engine.vlm` makes them for the same checkpoint. Raises
    CheckpointError."""
    if recipe.model.start == "new":
        return recipe.architecture.image_size
    folder = local_folder(recipe.model.start, revision=recipe.model.revision)
    top = read_json(folder / "config.json")
    kind = top.get("model_type")
    # The original release: each part of the model has a folder and a configuration of its own.
    if kind == ORIGINAL_TYPE:
        side = int(read_json(folder / "vision_tower" / "config.json")["image_size"])
        mode = "dynamic_s2" if top.get("dynamic_s2") else top.get("image_aspect_ratio") or "resize"
        scales = [int(scale) for scale in str(top.get("s2_scales") or "").split(",") if scale.strip()]
        return _nvila_side(side, mode, scales, recipe)
    # The same model as `save_pretrained` writes it: one folder, one configuration.
    if kind == NvilaConfig.model_type:
        scales = [int(scale) for scale in top.get("s2_scales") or []]
        return _nvila_side(int(top["vision_config"]["image_size"]), str(top.get("image_aspect_ratio")), scales, recipe)
    # Other families: the tower's own size, or that to which `AutoVlm` scales where none is declared.
    vision: Any = top.get("vision_config") or {}
    declared = vision.get("image_size")
    return declared if isinstance(declared, int) else AutoVlm.image_size


def _nvila_side(side: int, mode: str, scales: list[int], recipe: Recipe) -> int:
    if mode == "dynamic_s2" and scales:
        side = min(scales)
    if Tiling(recipe.model.tiling) is Tiling.NEVER or mode == "resize":
        return side
    return max(scales) if scales else side * 3
