"""Train the lung segmenter of `model.checks.lung_fields`: `--data DIR --out FILE`, some minutes on one core.

It learns from lung outlines that people drew on films of the Hannover set (CC BY 4.0, split "train" only) and from
phantoms, whose lungs are known. Prints Dice and the error of the midline on films and phantoms that it has not seen;
`--measure` only measures.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from model.checks.frontal_view import SIDE, view_input
from model.checks.lung_fields import find_lungs
from model.images.display import from_grey, load_picture
from model.images.square import fit_grey
from model.schema import DisplayImage
from training.image_checks.view_check_data import expose_film, move_film
from training.phantom.anatomy import SIDES, body_coordinates, lung_field
from training.phantom.findings import lost_volume
from training.phantom.render import render
from training.phantom.sampling import sample_pair

CANVAS = 128
"""Longer side of what augmentation works on, in pixels."""
WIDTHS = (12, 24, 32)
MIDDLE = 48
BATCH = 16
FILM_SHARE = 0.6
"""Of a batch; the rest are phantoms."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outlined:
    """A film whose lungs are known: pixels float32 [H, W], and right and left lung, float32 [H, W] of 0 and 1."""

    pixels: NDArray[np.float32]
    right: NDArray[np.float32]
    left: NDArray[np.float32]


class Segmenter(nn.Module):
    """The U-net that `model.checks.lung_fields.lung_shares` runs without torch; the names are those of its weights."""

    def __init__(self) -> None:
        super().__init__()
        before = 1
        for level, width in enumerate(WIDTHS):
            self.add_module(f"down{level}", nn.Conv2d(before, width, 3, padding=1))
            before = width
        self.middle0 = nn.Conv2d(before, MIDDLE, 3, padding=1)
        self.middle1 = nn.Conv2d(MIDDLE, MIDDLE, 3, padding=1)
        before = MIDDLE
        for level in reversed(range(len(WIDTHS))):
            self.add_module(f"up{level}", nn.Conv2d(before + WIDTHS[level], WIDTHS[level], 3, padding=1))
            before = WIDTHS[level]
        self.head = nn.Conv2d(before, 2, 1)

    def forward(self, squares: Tensor) -> Tensor:
        """[N, 1, SIDE, SIDE] → logits [N, 2, SIDE, SIDE]."""
        hidden, skipped = squares, []
        for level in range(len(WIDTHS)):
            hidden = functional.relu(self.get_submodule(f"down{level}")(hidden))
            skipped.append(hidden)
            hidden = functional.max_pool2d(hidden, 2)
        hidden = functional.relu(self.middle1(functional.relu(self.middle0(hidden))))
        for level in reversed(range(len(WIDTHS))):
            hidden = functional.interpolate(hidden, scale_factor=2)
            hidden = functional.relu(self.get_submodule(f"up{level}")(torch.cat([hidden, skipped[level]], dim=1)))
        logits: Tensor = self.head(hidden)
        return logits


def read_outlined_films(data: Path, splits: Sequence[str]) -> list[Outlined]:
    """The Hannover films with outlines of patients in these splits."""
    folder = data / "hannover"
    with (folder / "splits.csv").open(encoding="utf-8") as rows:
        patients = {row["patient_id"] for row in csv.DictReader(rows) if row["split"] in splits}
    with (folder / "data.csv").open(encoding="utf-8") as rows:
        images = [row["image_id"] for row in csv.DictReader(rows) if row["patient_id"] in patients]
    outlines = json.loads((folder / "lungs.json").read_text("utf-8"))["images"]
    return [_read_outlined(folder / "png" / f"{name}.png", outlines[name]) for name in images if name in outlines]


def draw_outlined_phantoms(count: int, seed: int) -> list[Outlined]:
    """Synthetic films with the lungs that they were drawn with."""
    result = []
    for number in range(count):
        pair = sample_pair(seed + number)
        states, film = pair.current, pair.current_film
        rows, columns = CANVAS, CANVAS
        rendered = from_grey(render(pair.patient, states, film, rows, columns).pixels, crop=False).pixels
        x, y, _ = body_coordinates(rows, columns, film, pair.patient)
        fields = [
            lung_field(side, x, y, pair.patient, film, lost_volume(states.get("atelectasis"), side)) for side in SIDES
        ]
        right, left = ((field.mask > 0.5).astype(np.float32) for field in fields)
        result.append(Outlined(pixels=rendered, right=right, left=left))
    return result


def _read_outlined(path: Path, entry: dict[str, Any]) -> Outlined:
    image = load_picture(path)
    box = image.geometry
    planes = []
    for polygon in entry["polygons"]:
        plane = Image.new("L", (entry["width"], entry["height"]))
        ImageDraw.Draw(plane).polygon([(float(x), float(y)) for x, y in polygon], fill=1)
        plane = plane.crop((box.left, box.top, box.left + box.width, box.top + box.height))
        planes.append(np.asarray(plane, dtype=np.float32))
    return Outlined(pixels=_reduce(image.pixels), right=_reduce(planes[0]), left=_reduce(planes[1]))


def _reduce(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    scale = CANVAS / max(plane.shape)
    size = (max(1, round(plane.shape[1] * scale)), max(1, round(plane.shape[0] * scale)))
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR), dtype=np.float32)


def _sample(film: Outlined, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Input [SIDE, SIDE] and target [2, SIDE, SIDE] of a film that is moved, mirrored and exposed at random."""
    seed = int(rng.integers(1 << 30))
    planes = [move_film(plane, np.random.default_rng(seed)) for plane in (film.pixels, film.right, film.left)]
    if rng.random() < 0.5:
        planes = [np.ascontiguousarray(plane[:, ::-1]) for plane in (planes[0], planes[2], planes[1])]
    pixels = expose_film(planes[0], rng)
    target = np.stack([fit_grey(plane, SIDE).astype(np.float32) / 255.0 for plane in planes[1:]])
    return view_input(pixels), target


def train(films: Sequence[Outlined], phantoms: Sequence[Outlined], *, steps: int, seed: int = 0) -> Segmenter:
    """Cross-entropy and soft Dice with AdamW, the rate falling to zero along a cosine."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = Segmenter()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        chosen = []
        for _ in range(BATCH):
            pool = films if rng.random() < FILM_SHARE else phantoms
            chosen.append(_sample(pool[int(rng.integers(len(pool)))], rng))
        squares = torch.from_numpy(np.stack([square for square, _ in chosen]))[:, None]
        targets = torch.from_numpy(np.stack([target for _, target in chosen]))
        logits = network(squares)
        shares = logits.sigmoid()
        overlap = (shares * targets).sum((2, 3))
        # Soft Dice (Milletari et al. 2016); + 1 on both sides keeps it defined where neither has a pixel.
        dice = 1 - (2 * overlap + 1) / (shares.sum((2, 3)) + targets.sum((2, 3)) + 1)
        loss = functional.binary_cross_entropy_with_logits(logits, targets) + dice.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    return network


def measure(films: Sequence[Outlined]) -> dict[str, float]:
    """Mean and least Dice of the two lungs, the mean error of the midline in percent of the film's width, and how many
    films were given up."""
    dice, errors, given_up = [], [], 0
    for film in films:
        image: DisplayImage = from_grey(film.pixels, crop=False)
        lungs = find_lungs(image)
        if lungs is None:
            given_up += 1
            continue
        true = [fit_grey(plane, SIDE) > 127 for plane in (film.right, film.left)]
        for outlined, drawn in zip((lungs.right, lungs.left), true, strict=True):
            dice.append(2.0 * float((outlined & drawn).sum()) / float(outlined.sum() + drawn.sum()))
        rows = [int(row) for row in np.flatnonzero(true[0].any(1) & true[1].any(1))]
        # The midline is half way between the inner borders of the two lungs, in rows where both are seen.
        gap = [(SIDE - int(np.argmax(true[0][row, ::-1])) + int(np.argmax(true[1][row]))) / 2 for row in rows]
        off = [abs(lungs.midline_at(row) - middle) for row, middle in zip(rows, gap, strict=True)]
        errors.append(float(np.mean(off)))
    return {
        "films": len(films),
        "given up": given_up,
        "mean Dice": round(float(np.mean(dice)), 4),
        "least Dice": round(float(np.min(dice)), 4),
        "midline, mean error in percent of the width": round(float(np.mean(errors)) / SIDE * 100, 2),
        "midline, largest": round(float(np.max(errors)) / SIDE * 100, 2),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--measure", action="store_true", help="only measure the committed weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.measure:
        films, phantoms = read_outlined_films(options.data, ["train"]), draw_outlined_phantoms(150, seed=3_000_000)
        print(f"{len(films)} films and {len(phantoms)} phantoms")
        network = train(films, phantoms, steps=options.steps)
        weights = {name: value.detach().numpy().astype(np.float16) for name, value in network.state_dict().items()}
        save_file(weights, options.out)
        print(f"{sum(value.size for value in load_file(options.out).values())} weights")
    print("films of dev and fixture:", json.dumps(measure(read_outlined_films(options.data, ["dev", "fixture"]))))
    print("phantoms:", json.dumps(measure(draw_outlined_phantoms(50, seed=4_000_000))))


if __name__ == "__main__":
    main()
