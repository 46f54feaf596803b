"""Train the view check: `python -m training.image_checks.view_check_train --data DIR --out
model/checks/frontal_view.safetensors`.

DIR is the folder with `hannover/` and `nih/`. Trains on the split "train", measures on "dev", prints both as JSON.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from model.checks.frontal_view import FRONTAL_FLOOR, KINDS, ROTATIONS, SIDE, forward, view_input
from model.images.display import from_grey, load_picture
from training.image_checks.drawn_pictures import CANVAS, Grey
from training.image_checks.view_check_data import (
    ViewSample,
    chest_sample,
    expose_film,
    lateral_sample,
    move_film,
    other_sample,
)
from training.phantom.render import render_pair, sample_pair

HELD_OUT = ("skull", "slice")
"""Families of drawn negatives that training never sees: how the check takes what it does not know."""
TRAINED = ("limb", "hand", "pelvis", "spine", "breast", "page", "noise", "piece")
CHANNELS = (1, 16, 24, 32, 48)
LEARNING_RATE = 2e-3


class ViewNet(nn.Module):
    """Four convolutions of stride 2, one dense layer, three heads. `model.checks.frontal_view.forward` is the same
    in numpy."""

    def __init__(self) -> None:
        super().__init__()
        kernels = (5, 3, 3, 3)
        for index, (inner, outer) in enumerate(itertools.pairwise(CHANNELS)):
            kernel = kernels[index]
            self.add_module(f"conv{index}", nn.Conv2d(inner, outer, kernel, stride=2, padding=kernel // 2))
        side = SIDE // 2 ** len(kernels)
        self.dense = nn.Linear(CHANNELS[-1] * side * side, 96)
        self.kind = nn.Linear(96, len(KINDS))
        self.rotation = nn.Linear(96, len(ROTATIONS))
        self.inverted = nn.Linear(96, 2)

    def forward(self, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, 1, SIDE, SIDE] → logits of kind [N, 3], rotation [N, 4], inversion [N, 2]."""
        hidden = squares
        for index in range(len(CHANNELS) - 1):
            hidden = functional.relu(self.get_submodule(f"conv{index}")(hidden))
        hidden = functional.dropout(functional.relu(self.dense(hidden.flatten(1))), 0.3, self.training)
        return self.kind(hidden), self.rotation(hidden), self.inverted(hidden)


def frontals(data: Path, split: str) -> list[Grey]:
    """Every frontal of the two sets in `split`, cropped, its longer side reduced to CANVAS pixels."""
    hannover = {row["patient_id"] for row in _rows(data / "hannover" / "splits.csv") if row["split"] == split}
    paths = [
        data / "hannover" / "png" / f"{row['image_id']}.png"
        for row in _rows(data / "hannover" / "data.csv")
        if row["patient_id"] in hannover
    ]
    for row in _rows(data / "nih" / "metadata.csv"):
        if row["split"] == split:
            paths.append(data / "nih" / "images" / Path(row["Image Index"]).with_suffix(".jpg").name)
    return [reduce_picture(load_picture(path).pixels) for path in paths if path.is_file()]


def phantoms(count: int, seed: int) -> list[Grey]:
    """Synthetic chests: the demonstration and the tests send them, so they have to pass."""
    pairs = (sample_pair(seed + index) for index in range((count + 1) // 2))
    films = (film for pair in pairs for film in render_pair(pair, CANVAS * 2, CANVAS * 2))
    return [reduce_picture(from_grey(film.pixels).pixels) for film in itertools.islice(films, count)]


def reduce_picture(pixels: Grey) -> Grey:
    """The picture with its longer side of CANVAS pixels."""
    scale = CANVAS / max(pixels.shape)
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), dtype=np.float32).clip(0, 1)


def draw_pool(chests: Sequence[Grey], rng: np.random.Generator, count: int) -> list[ViewSample]:
    """Drawn laterals (a quarter) and other things, made once because drawing costs more than a training step."""
    laterals = [lateral_sample(rng) for _ in range(count // 4)]
    return laterals + [other_sample(chests[i % len(chests)], rng, TRAINED) for i in range(count - len(laterals))]


def batch_of(
    chests: Sequence[Grey], drawn: Sequence[ViewSample], rng: np.random.Generator, count: int
) -> list[ViewSample]:
    """Six parts of chests, four of drawn things, which are moved and exposed anew."""
    samples = []
    for _ in range(count):
        if rng.random() < 0.6:
            samples.append(chest_sample(chests[int(rng.integers(len(chests)))], rng))
        else:
            sample = drawn[int(rng.integers(len(drawn)))]
            samples.append(replace(sample, pixels=expose_film(move_film(sample.pixels, rng), rng)))
    return samples


def loss_of(net: ViewNet, samples: Sequence[ViewSample]) -> Tensor:
    """Sum of the three cross-entropies; rotation and inversion only where they are labelled."""
    squares = torch.from_numpy(np.stack([view_input(s.pixels) for s in samples]))[:, None]
    kind, rotation, inverted = net(squares)
    loss = functional.cross_entropy(kind, torch.tensor([s.kind for s in samples]))
    for logits, labels in ((rotation, [s.rotation for s in samples]), (inverted, [s.inverted for s in samples])):
        loss = loss + functional.cross_entropy(logits, torch.tensor(labels), ignore_index=-1)
    return loss


def train(
    net: ViewNet,
    chests: Sequence[Grey],
    *,
    rate: float,
    steps: int,
    batch: int,
    pool: int,
    seed: int,
    say: Callable[[str], None],
) -> ViewNet:
    """Adam with a cosine schedule; every batch is drawn anew."""
    rng = np.random.default_rng(seed)
    net.train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    started = time.monotonic()
    drawn = draw_pool(chests, rng, pool)
    for step in range(steps):
        loss = loss_of(net, batch_of(chests, drawn, rng, batch))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            say(f"step {step}: loss {loss.item():.3f}, {time.monotonic() - started:.0f} s")
    return net.eval()


def weights_of(net: ViewNet) -> dict[str, NDArray[Any]]:
    """The weights in half precision, as they are stored."""
    return {name: value.detach().numpy().astype(np.float16) for name, value in net.state_dict().items()}


def measure(weights: dict[str, NDArray[Any]], chests: Sequence[Grey], *, drawn: int, seed: int) -> dict[str, Any]:
    """Counts on held-out chests as they are, in all positions, and on drawn things of known and unknown families."""
    full = {name: value.astype(np.float32) for name, value in weights.items()}
    rng = np.random.default_rng(seed)
    upright = [forward(view_input(chest), full) for chest in chests]
    result: dict[str, Any] = {
        "chests": len(chests),
        "taken for frontal": sum(_is_frontal(kind) for kind, _, _ in upright),
        "taken for upright": sum(int(np.argmax(rotation)) == 0 for _, rotation, _ in upright),
        "taken for not inverted": sum(bool(inverted[0] >= 0.5) for _, _, inverted in upright),
    }
    turned = [(chest, turn) for chest in chests for turn in (1, 2, 3)]
    views = [forward(view_input(np.rot90(chest, -turn).copy()), full) for chest, turn in turned]
    result["turned chests"] = len(turned)
    result["rotation right"] = sum(int(np.argmax(v[1])) == turn for v, (_, turn) in zip(views, turned, strict=True))
    inverse = [forward(view_input(1 - chest), full) for chest in chests]
    result["inverted recognised"] = sum(bool(view[2][1] > 0.5) for view in inverse)
    for name in (*TRAINED, *HELD_OUT):
        samples = [other_sample(chests[i % len(chests)], rng, (name,)) for i in range(drawn)]
        refused = sum(not _is_frontal(forward(view_input(s.pixels), full)[0]) for s in samples)
        result[f"refused: {name}{' (never seen)' if name in HELD_OUT else ''}"] = f"{refused}/{drawn}"
    laterals = [lateral_sample(rng) for _ in range(drawn)]
    refused = sum(not _is_frontal(forward(view_input(s.pixels), full)[0]) for s in laterals)
    result["refused: drawn laterals"] = f"{refused}/{drawn}"
    return result


def _is_frontal(kind: NDArray[np.float32]) -> bool:
    return bool(kind[0] >= FRONTAL_FLOOR)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--drawn", type=int, default=4000, help="drawn laterals and other things")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phantoms", type=int, default=400, help="synthetic chests beside the real ones")
    parser.add_argument("--start", type=Path, help="weights to continue from")
    parser.add_argument("--rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--measure", action="store_true", help="only measure the weights at --out")
    options = parser.parse_args()
    if options.measure:
        weights = load_file(options.out)
    else:
        weights = _train(options)
        save_file(weights, options.out)
    print(json.dumps(measure(weights, frontals(options.data, "dev"), drawn=200, seed=99), indent=1))
    print(json.dumps({"phantoms": measure(weights, phantoms(200, seed=2_000_000), drawn=1, seed=99)}, indent=1))


def _train(options: argparse.Namespace) -> dict[str, NDArray[Any]]:
    chests = frontals(options.data, "train")
    print(f"{len(chests)} frontal chests to train on", flush=True)
    torch.manual_seed(options.seed)
    net = ViewNet()
    if options.start:
        net.load_state_dict(
            {name: torch.from_numpy(v.astype(np.float32)) for name, v in load_file(options.start).items()}
        )
    train(
        net,
        chests + phantoms(options.phantoms, seed=1_000_000),
        rate=options.rate,
        steps=options.steps,
        batch=options.batch,
        pool=options.drawn,
        seed=options.seed,
        say=lambda text: print(text, flush=True),
    )
    return weights_of(net)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    main()
