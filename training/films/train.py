"""Train the film classifier: python -m training.films.train OUT --series ../shared/data/nih_series [--seed 1]

The heads learn first, on frozen features; then the network as a whole, with a running average of its weights, which is
what is kept. Writes OUT/film-SEED.safetensors; a run that is started again when the file is there does nothing.
"""

from __future__ import annotations

import math
import time
from itertools import chain
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from model.experts.film_network import MARKED, SIDE, FilmNetwork
from training.films.backbone import adapt_backbone, freeze_blocks, imagenet_state
from training.films.batches import FilmBatch, PairSet, draw, film_shares, pair_set, squares
from training.films.film_set import UNKNOWN, FilmSet, film_pairs
from training.films.finish import open_film_set
from training.films.losses import AREA_SCALE, ChangeLoss, film_loss
from training.loop.allocator import keep_freed_memory
from training.readers.nih_series import read_nih_marks, read_nih_series
from training.records.drops import DropReport

STEPS, FILMS_A_STEP = 950, 32
RATE, HEAD_RATE, DECAY = 4e-4, 1e-3, 0.05
WARM_UP = 40
LEAST_RATE = 0.03
"""Share of the rate that the cosine ends at."""
FROZEN_BLOCKS = 3
DROPOUT, DROPPED = 0.3, 0.15
AVERAGE = 0.99
"""Of the running average of the weights, for each step."""
MAX_NORM = 2.0
ADAPTING_BATCHES = 25
PROBE_STEPS, PROBE_RATE, PROBE_DECAY, PROBE_SCALE = 250, 3e-3, 0.3, 0.1


def train_film_network(films: FilmSet, pairs: PairSet, *, seed: int, steps: int = STEPS) -> FilmNetwork:
    """The averaged network after `steps` steps."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    alone = film_shares(films)
    network = FilmNetwork(dropout=DROPOUT, dropped=DROPPED)
    shown = (draw(films, alone, pairs, FILMS_A_STEP, rng).grey for _ in range(ADAPTING_BATCHES))
    network.body = adapt_backbone(imagenet_state(), shown, dropped=DROPPED)
    freeze_blocks(network.body, FROZEN_BLOCKS)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    probe_heads(network, films)
    change = ChangeLoss()
    optimizer = _optimizer(network, change)
    average = {name: value.clone() for name, value in network.state_dict().items()}
    started = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["full"] * _rate(step, steps)
        loss = _loss(network, change, films, draw(films, alone, pairs, FILMS_A_STEP, rng))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
        optimizer.step()
        _mix(average, network, min(AVERAGE, (step + 2) / (step + 11)))
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    network.load_state_dict(average)
    return network.eval()


def probe_heads(network: FilmNetwork, films: FilmSet) -> None:
    """Fit the heads on the frozen features of the larger training films: logistic regression, in place."""
    rows = np.flatnonzero(films.is_training & (films.pixels >= SIDE))
    features = _features(network, films, rows)[:, -network.mined.in_features :]
    mean, spread = features.mean(0), features.std(0) + 0.05
    normal = (features - mean) / spread
    heads = (network.mined, network.marked, network.amount)
    weights = [torch.zeros(head.out_features, features.shape[1], requires_grad=True) for head in heads]
    biases = [torch.zeros(head.out_features, requires_grad=True) for head in heads]
    optimizer = torch.optim.AdamW([*weights, *biases], lr=PROBE_RATE, weight_decay=PROBE_DECAY)
    mined, marked = torch.from_numpy(films.mined[rows]), torch.from_numpy(films.marked[rows])
    areas = torch.from_numpy(films.areas[rows])
    for _ in range(PROBE_STEPS):
        given = [normal @ weight.T * PROBE_SCALE + bias for weight, bias in zip(weights, biases, strict=True)]
        loss = _probe_loss(given, mined, marked, areas)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        for head, weight, bias in zip(heads, weights, biases, strict=True):
            scaled = weight * PROBE_SCALE / spread
            head.weight.copy_(scaled)
            head.bias.copy_(bias - scaled @ mean)
        assert network.map.bias is not None
        network.map.bias.fill_(-3.0)


def _probe_loss(given: list[Tensor], mined: Tensor, marked: Tensor, areas: Tensor) -> Tensor:
    read = (marked[:, :1] != UNKNOWN).float()
    present, readers = marked.clamp(min=0.0), read.sum()
    by_marks = functional.binary_cross_entropy_with_logits(given[1], present * 0.94 + 0.02, reduction="none")
    by_areas = functional.smooth_l1_loss(
        given[2][:, : len(MARKED)], areas.sqrt() * AREA_SCALE, reduction="none", beta=0.2
    )
    return (
        functional.binary_cross_entropy_with_logits(given[0], mined.clamp(min=0.0) * 0.9 + 0.01)
        + (by_marks * read).sum() / readers / len(MARKED)
        + (by_areas * read).sum() / readers / len(MARKED)
    )


@torch.no_grad()
def _features(network: FilmNetwork, films: FilmSet, rows: NDArray[np.int64]) -> Tensor:
    network.eval()
    found = [network(squares(films, rows[start : start + 64])).features for start in range(0, len(rows), 64)]
    network.train()
    return torch.cat(found)


def _loss(network: FilmNetwork, change: ChangeLoss, films: FilmSet, batch: FilmBatch) -> Tensor:
    outputs = network(batch.grey)
    mined, marked, areas = (torch.from_numpy(table[batch.rows]) for table in (films.mined, films.marked, films.areas))
    prior, current = outputs.amount[: batch.pairs], outputs.amount[batch.pairs : 2 * batch.pairs]
    changes: Tensor = change(prior, current, batch.directions, batch.weights)
    return film_loss(outputs, mined, marked, areas, batch.masks) + changes


def _optimizer(network: FilmNetwork, change: ChangeLoss) -> torch.optim.Optimizer:
    body = [parameter for parameter in network.body.parameters() if parameter.requires_grad]
    inside = {id(parameter) for parameter in network.body.parameters()}
    heads = [parameter for parameter in network.parameters() if id(parameter) not in inside]
    groups = [
        {"params": body, "lr": RATE, "full": RATE},
        {"params": [*heads, *change.parameters()], "lr": HEAD_RATE, "full": HEAD_RATE},
    ]
    return torch.optim.AdamW(groups, weight_decay=DECAY)


def _rate(step: int, steps: int) -> float:
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / WARM_UP) * (cosine * (1.0 - LEAST_RATE) + LEAST_RATE)


@torch.no_grad()
def _mix(average: dict[str, Tensor], network: FilmNetwork, kept: float) -> None:
    for name, value in network.state_dict().items():
        if value.dtype.is_floating_point:
            average[name].lerp_(value, 1.0 - kept)
        else:
            average[name].copy_(value)


def main(
    out: Annotated[Path, typer.Argument(help="folder for the trained network")],
    series: Annotated[Path, typer.Option(help="folder nih_series; the folder nih beside it is read too")],
    seed: Annotated[int, typer.Option(help="of the draws; networks of several seeds may be averaged")] = 0,
    steps: Annotated[int, typer.Option(help="training steps")] = STEPS,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 2,
) -> None:
    """Train one network."""
    target = out / f"film-{seed}.safetensors"
    if target.is_file():
        print(f"{target} is there")
        return
    keep_freed_memory()
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    films = open_film_set(series, out / "films.npz")
    report = DropReport()
    pairs = film_pairs(films, chain(read_nih_series(series, report), read_nih_marks(series, report)))
    network = train_film_network(films, pair_set(films, pairs), seed=seed, steps=steps)
    draft = target.with_suffix(".part")
    save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, draft)
    draft.replace(target)
    print(f"{target}: done")


if __name__ == "__main__":
    typer.run(main)
