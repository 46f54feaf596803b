"""Train the film classifier: python -m training.films.train OUT --series ../shared/data/nih_series [--seed 1]

The heads learn first, on frozen features; then the network as a whole, with a running average of its weights, which is
kept where it was best on the validation films. Writes OUT/film-SEED.safetensors; started again when the file is there
it does nothing, and after an interruption it goes on from OUT/film-SEED.pt.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.experts.efficientnet import LAST_CHANNELS
from model.experts.film_network import MARKED, MINED, SIDE, FilmNetwork, grow_heads
from training.films.backbone import adapt_backbone, first_blocks, fold_norms, imagenet_state, set_training
from training.films.batches import READ_WEIGHT, FilmBatch, PairSet, draw, film_shares, pair_set
from training.films.film_set import UNKNOWN, FilmSet, film_pairs
from training.films.finish import open_film_set
from training.films.losses import ChangeLoss, film_loss
from training.films.outputs import outputs_of
from training.films.probe import probe_heads
from training.loop.allocator import keep_freed_memory
from training.metrics.classification import auroc
from training.readers.nih_series import read_nih_marks, read_nih_series
from training.records.drops import DropReport

STEPS, FILMS_A_STEP = 900, 32
RATE, HEAD_RATE, DECAY = 4e-4, 1e-3, 0.05
LATE_BLOCKS, LATE_SHARE = 11, 0.5
"""From this block on the rate is this share of the others': the deepest stages learn labels by heart first."""
WARM_UP = 40
LEAST_RATE = 0.03
"""Share of the rate that the cosine ends at."""
FROZEN_BLOCKS = 5
DROPOUT, DROPPED = 0.3, 0.15
AVERAGE = 0.99
"""Of the running average of the weights, for each step."""
MAX_NORM = 2.0
ADAPTING_BATCHES = 25
CHECK_EVERY = 100
"""Steps between two looks at the validation films; the best average of them is kept, as the last need not be it."""


class FilmTraining:
    """One network in training: what is needed to go on after an interruption, and the best average so far."""

    def __init__(
        self,
        films: FilmSet,
        pairs: PairSet,
        *,
        seed: int,
        trained: Mapping[str, Tensor] | None = None,
        read_weight: float = READ_WEIGHT,
    ) -> None:
        torch.manual_seed(seed)
        self._films, self._pairs = films, pairs
        self._rng = np.random.default_rng(seed)
        self._alone = film_shares(films, read_weight)
        self.network = FilmNetwork(dropout=DROPOUT, dropped=DROPPED)
        shown = (self._draw().grey for _ in range(ADAPTING_BATCHES))
        self._starts_trained = trained is not None
        kept = _early_stages(trained) if trained is not None else None
        self.network.body = adapt_backbone(imagenet_state(), shown, dropped=DROPPED, trained=kept)
        if trained is not None:
            _take_over(self.network, trained, self._draw().grey)
        self._frozen = first_blocks(self.network.body, FROZEN_BLOCKS)
        set_training(self.network, self._frozen)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it
        self._change = ChangeLoss()
        self._optimizer = _optimizer(self.network, self._change, goes_on=self._starts_trained)
        self.step = 0
        self._average: dict[str, Tensor] = {}
        self._best: dict[str, Tensor] = {}
        self._worth = -math.inf

    def start(self) -> None:
        """Fit the heads on frozen features, except those of a trained network."""
        if not self._starts_trained:
            probe_heads(self.network, self._films)
        set_training(self.network, self._frozen)
        self._average = {name: value.clone() for name, value in self.network.state_dict().items()}

    def advance(self, steps: int) -> float:
        """Take one of `steps` steps; the loss."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["full"] * _rate(self.step, steps)
        loss = _loss(self.network, self._change, self._films, self._draw())
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_NORM)
        self._optimizer.step()
        _mix(self._average, self.network, min(AVERAGE, (self.step + 2) / (self.step + 11)))  # short at first
        self.step += 1
        return float(loss.detach())

    def check(self) -> dict[str, float]:
        """Measure the average on the validation films, and keep it where it is the best so far."""
        figures = validation_figures(self.averaged(), self._films)
        if figures["worth"] > self._worth:
            self._worth = figures["worth"]
            self._best = {name: value.clone() for name, value in self._average.items()}
        return figures

    def averaged(self) -> FilmNetwork:
        """The running average, for serving."""
        return self._served(self._average)

    def best(self) -> FilmNetwork:
        """The average that was best on the validation films, for serving."""
        return self._served(self._best or self._average)

    def save(self, path: Path) -> None:
        """Keep everything that going on needs."""
        kept = {
            "network": self.network.state_dict(),
            "change": self._change.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average,
            "best": self._best,
            "worth": self._worth,
            "step": self.step,
            "torch": torch.get_rng_state(),
            "numpy": json.dumps(self._rng.bit_generator.state),
        }
        draft = path.with_suffix(".part")  # renamed when whole: a kill leaves the file before it
        torch.save(kept, draft)
        draft.replace(path)

    def load(self, path: Path) -> None:
        """Go on from what `save` kept."""
        kept = torch.load(path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(kept["network"])
        self._change.load_state_dict(kept["change"])
        self._optimizer.load_state_dict(kept["optimizer"])
        self._average, self._best, self._worth = kept["average"], kept["best"], kept["worth"]
        self.step = kept["step"]
        torch.set_rng_state(kept["torch"])
        self._rng.bit_generator.state = json.loads(kept["numpy"])

    def _draw(self) -> FilmBatch:
        return draw(self._films, self._alone, self._pairs, FILMS_A_STEP, self._rng)

    def _served(self, state: dict[str, Tensor]) -> FilmNetwork:
        network = copy.deepcopy(self.network)
        network.load_state_dict(state)
        fold_norms(network.eval().body)
        return network


def _early_stages(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stages of a trained network that go on learning; the deepest ones begin anew from ImageNet."""
    body = {name.removeprefix("body."): value for name, value in trained.items() if name.startswith("body.")}
    early = ("stem.", *(f"blocks.{number}." for number in range(LATE_BLOCKS)))
    return {name: value for name, value in body.items() if name.startswith(early)}


def _take_over(network: FilmNetwork, trained: Mapping[str, Tensor], grey: Tensor) -> None:
    """Give the network a trained one's heads and pyramid; the new deepest stages count for nothing yet, and the mean of
    what the old ones gave for some films stands in their place."""
    before = FilmNetwork().eval()
    before.load_state_dict(grow_heads(trained), strict=False)
    rest = {name: value for name, value in grow_heads(trained).items() if not name.startswith("body.")}
    network.load_state_dict(rest, strict=False)
    deepest = network.lateral[2]
    assert isinstance(deepest, nn.Conv2d)
    assert deepest.bias is not None
    with torch.no_grad():
        deepest.weight.zero_()
        deepest.bias.copy_(before.lateral[2](before.body(grey).thirty_second).mean(dim=(0, 2, 3)))
        for head in (network.mined, network.marked, network.amount):
            head.weight[:, -LAST_CHANNELS:].zero_()


def train_film_network(training: FilmTraining, kept: Path, *, steps: int) -> FilmNetwork:
    """The network after `steps` steps whose average was best on the validation films; kept: file to go on from."""
    if kept.is_file():
        training.load(kept)
    else:
        training.start()
    started, first = time.perf_counter(), training.step
    while training.step < steps:
        loss = training.advance(steps)
        if training.step % 10 == 0:
            a_step = (time.perf_counter() - started) / (training.step - first)
            print(f"step {training.step}: loss {loss:.3f}, {a_step:.2f} s a step", flush=True)
        if training.step % CHECK_EVERY == 0 or training.step == steps:
            figures = ", ".join(f"{name} {value:.3f}" for name, value in training.check().items())
            print(f"step {training.step}: validation {figures}", flush=True)
            training.save(kept)
    return training.best()


def validation_figures(network: FilmNetwork, films: FilmSet) -> dict[str, float]:
    """AUROC of each finding on the larger validation films by either kind of label; worth: what chooses."""
    rows = np.flatnonzero(films.is_validation & (films.pixels >= SIDE))
    table = outputs_of([network], films.squares[rows])
    aurocs = {}
    for names, tells, labels in (
        (MINED[:6], table.mined, films.mined[rows]),
        (MARKED[:4], table.marked, films.marked[rows]),
    ):
        for column, name in enumerate(names):
            known = labels[:, column] != UNKNOWN
            aurocs[name] = auroc((labels[known, column] > 0).tolist(), tells[known, column].tolist())
    mined = float(np.mean([aurocs[name] for name in MINED[:6]]))
    # Few validation films show a pneumothorax or an atelectasis that radiologists marked: they do not choose.
    marked = (aurocs["pleural_effusion"] + aurocs["consolidation"]) / 2.0
    return {"worth": mined + marked / 2.0, "mined": mined} | aurocs


def _loss(network: FilmNetwork, change: ChangeLoss, films: FilmSet, batch: FilmBatch) -> Tensor:
    outputs = network(batch.grey)
    mined, marked, areas = (torch.from_numpy(table[batch.rows]) for table in (films.mined, films.marked, films.areas))
    prior, current = outputs.amount[: batch.pairs], outputs.amount[batch.pairs : 2 * batch.pairs]
    changes: Tensor = change(prior, current, batch.directions, batch.weights)
    return film_loss(outputs, mined, marked, areas, batch.masks) + changes


def _optimizer(network: FilmNetwork, change: ChangeLoss, *, goes_on: bool) -> torch.optim.Optimizer:
    """Groups by rate, and without weight decay for norms and biases. goes_on: early stages and heads are trained."""
    early_rate, late_rate, head_rate = (
        (RATE / 2.0, RATE, HEAD_RATE / 2.0) if goes_on else (RATE, RATE * LATE_SHARE, HEAD_RATE)
    )
    late = {
        id(part) for block in (*network.body.blocks[LATE_BLOCKS:], network.body.last) for part in block.parameters()
    }
    body = {id(part) for part in network.body.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for part in chain(network.parameters(), change.parameters()):
        if part.requires_grad:
            rate = late_rate if id(part) in late else early_rate if id(part) in body else head_rate
            groups.setdefault((rate, DECAY if part.ndim > 1 else 0.0), []).append(part)
    return torch.optim.AdamW(
        # "full" is what the schedule scales: "lr" is overwritten at each step.
        [{"params": parts, "lr": rate, "full": rate, "weight_decay": decay} for (rate, decay), parts in groups.items()]
    )


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
    start: Annotated[
        Path | None, typer.Option(help="trained network to continue from; its deepest stages start from ImageNet")
    ] = None,
    read_weight: Annotated[
        float, typer.Option(min=0.0, help="how often a film that radiologists read is drawn, beside others")
    ] = READ_WEIGHT,
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
    trained = {name: value.float() for name, value in load_file(start).items()} if start is not None else None
    training = FilmTraining(films, pair_set(films, pairs), seed=seed, trained=trained, read_weight=read_weight)
    network = train_film_network(training, out / f"film-{seed}.pt", steps=steps)
    draft = target.with_suffix(".part")
    save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, draft)
    draft.replace(target)
    print(f"{target}: done")


if __name__ == "__main__":
    typer.run(main)
