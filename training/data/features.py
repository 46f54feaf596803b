"""Features of a vision tower that does not learn, computed once: a training step then costs only what learns.

    python -m training.data.features RECIPE --out FOLDER [--start CHECKPOINT] [--cache PHANTOMS]

A part is `NAME.npy` (float16 [images, patches, C]) beside `NAME.json` (keys of the images, hash of the tower), written
last. A recipe names the folder as [data] features; the images are then shown as they are, without small shifts.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from model.errors import ModelError, PixelError
from model.nvila import load_nvila
from model.nvila.modeling import NvilaForConditionalGeneration
from model.nvila.processing import NvilaProcessor
from model.nvila.tiling import Tiling
from training.data.pictures import Pictures
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef, Record

PART_IMAGES = 512
BATCH = 16


@dataclass(slots=True, kw_only=True)
class Features:
    """The features of a folder by the key of their image. Raises DataError where there are none or of two towers."""

    folder: Path
    tower: str = field(init=False)
    _places: dict[str, tuple[Path, int]] = field(default_factory=dict)
    _mapped: dict[Path, NDArray[np.float16]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        towers = set()
        for path in sorted(self.folder.glob("*.json")):
            about = json.loads(path.read_text("utf-8"))
            towers.add(about["tower"])
            self._places |= {key: (path.with_suffix(".npy"), row) for row, key in enumerate(about["keys"])}
        # Features of two towers look alike and mean other things.
        if len(towers) != 1:
            what = (
                "features of several towers" if towers else "no features; python -m training.data.features makes them"
            )
            raise DataError(f"{self.folder} holds {what}")
        self.tower = towers.pop()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def get(self, image: ImageRef) -> NDArray[np.float16]:
        """float16 [patches, C] of an image. Raises PixelError where nobody computed it."""
        try:
            path, row = self._places[image.key]
        except KeyError as error:
            raise PixelError("its features were not computed") from error
        if path not in self._mapped:
            self._mapped[path] = np.load(path, mmap_mode="r")
        return np.asarray(self._mapped[path][row])


def tower_hash(model: NvilaForConditionalGeneration) -> str:
    """Names the weights of a vision tower."""
    digest = hashlib.sha256()
    for name, value in sorted(model.vision_tower.state_dict().items()):
        digest.update(name.encode() + value.float().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def compute_features(
    model: NvilaForConditionalGeneration, processor: NvilaProcessor, pictures: Sequence[NDArray[np.uint8]]
) -> NDArray[np.float16]:
    """float16 [images, patches, C] of untiled pictures."""
    parts = []
    for start in range(0, len(pictures), BATCH):
        tiled = processor.tile(list(pictures[start : start + BATCH]), Tiling.NEVER)
        parts.append(model.vision_features(processor.image_inputs([tiled])["pixel_values"]).half().numpy())
    return np.concatenate(parts)


def write_features(
    images: Sequence[ImageRef], pictures: Pictures, start: Path, folder: Path, report: DropReport
) -> int:
    """Compute what the folder lacks; returns how many images were added. Unreadable images are counted."""
    model, processor = load_nvila(start)
    model.eval()
    tower = tower_hash(model)
    folder.mkdir(parents=True, exist_ok=True)
    # Features of another tower have the same shape and mean something else, so a folder belongs to one tower by its
    # hash.
    known = Features(folder=folder) if any(folder.glob("*.json")) else None
    if known is not None and known.tower != tower:
        raise DataError(f"{folder} holds features of another tower; choose an empty folder")
    # What is there is kept: a run that was stopped goes on where it was.
    missing = [image for image in images if known is None or image.key not in known]
    for begin in range(0, len(missing), PART_IMAGES):
        keys, shown = [], []
        for image in missing[begin : begin + PART_IMAGES]:
            try:
                shown.append(pictures.get(image))
            except PixelError as error:
                report.drop(f"image cannot be decoded: {error}", image.image_id)
                continue
            keys.append(image.key)
            report.keep()
        if keys:
            _write_part(folder, tower, keys, compute_features(model, processor, shown))
    return report.kept


def _write_part(folder: Path, tower: str, keys: Sequence[str], values: NDArray[np.float16]) -> None:
    name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
    with (folder / f"{name}.npy").open("wb") as file:
        np.save(file, values)
    partial = folder / f"{name}.partial"
    partial.write_text(json.dumps({"tower": tower, "keys": list(keys)}) + "\n", "utf-8")
    partial.replace(folder / f"{name}.json")


def images_of(records: Iterator[Record], most: int) -> list[ImageRef]:
    """The images that records may show, each once, in order."""
    images: dict[str, ImageRef] = {}
    for record in records:
        for image in record.images[-most:]:
            images.setdefault(image.key, image)
    return list(images.values())


def main(
    recipe: Annotated[Path, typer.Argument(help="a recipe, see training/recipes")],
    out: Annotated[Path, typer.Option(help="folder of the features; what is there already stays")],
    start: Annotated[Path | None, typer.Option(help="checkpoint folder instead of the recipe's start")] = None,
    cache: Annotated[Path | None, typer.Option(help="folder of phantoms instead of the recipe's sets")] = None,
) -> None:
    """Compute the tower's features of every image of RECIPE's sets."""
    from training.data.datasets import open_records, parse_spec
    from training.data.pictures import picture_side
    from training.data.sources import sets_of
    from training.recipe.recipe import load_recipe

    report = DropReport()
    try:
        loaded = load_recipe(recipe)
        if start is not None:
            loaded = loaded.model_copy(update={"model": loaded.model.model_copy(update={"start": str(start)})})
        records = (r for section in sets_of(loaded.data, cache) for r in open_records(parse_spec(section.data), report))
        images = images_of(records, loaded.data.max_images)
        pictures = Pictures(size=picture_side(loaded))
        drops = DropReport()
        write_features(images, pictures, Path(loaded.model.start), out, drops)
    except (ModelError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print("\n".join(drops.lines()))


if __name__ == "__main__":
    typer.run(main)
