"""Logistic heads on the vision tower of the checkpoint's own language model (`model.experts.tower_heads`).

Only the heads are fitted, on the larger training films; how much each counts beside the networks is chosen on
validation films by AUROC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.experts.film_classifier import TowerFeatures
from model.experts.film_network import MINED
from model.experts.tower_heads import OUTPUTS, TowerHeads
from training.films.film_set import UNKNOWN, FilmSet
from training.films.outputs import FilmOutputTable
from training.metrics.classification import auroc

BATCH = 32
PENALTIES = (0.03, 0.1, 0.3, 1.0)
"""Of the squared weights on features of unit variance; the one with the least loss on validation films is taken."""
ROUNDS = 60
SHARES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
FEWEST = 12
"""With fewer positives on validation films a label's own share is not sought."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TowerTable:
    """Features [N, F] of the films in `rows` of a `FilmSet`."""

    rows: NDArray[np.int64]
    features: NDArray[np.float32]

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features of these rows. Raises KeyError for one that is not there."""
        places = {int(row): index for index, row in enumerate(self.rows)}
        return self.features[[places[int(row)] for row in rows]]

    def save(self, path: Path) -> None:
        """Keep it; features are computed once for a tower."""
        np.savez(path, rows=self.rows, features=self.features.astype(np.float16))

    @classmethod
    def load(cls, path: Path) -> TowerTable:
        """Load what `save` kept."""
        with np.load(path) as kept:
            return cls(rows=kept["rows"], features=kept["features"].astype(np.float32))


def tower_table(films: FilmSet, rows: NDArray[np.int64], tower: TowerFeatures) -> TowerTable:
    """Ask the tower about these films."""
    parts = [tower(list(films.squares[rows[start : start + BATCH]])) for start in range(0, len(rows), BATCH)]
    return TowerTable(rows=rows, features=torch.cat(parts).numpy())


def fit_tower_heads(films: FilmSet, table: TowerTable, networks: FilmOutputTable) -> TowerHeads:
    """Heads fitted on the table's training films; shares by the networks' outputs for the validation films."""
    learned = table.rows[films.is_training[table.rows]]
    held = np.flatnonzero(films.is_validation)
    features, seen = torch.from_numpy(table.of(learned)), torch.from_numpy(table.of(held))
    mean, spread = features.mean(0), features.std(0) + 1e-3
    inside, outside = (features - mean) / spread, (seen - mean) / spread
    truth, truth_held = _labels(films, learned), _labels(films, held)
    fitted = [_logistic(inside, truth, penalty) for penalty in PENALTIES]
    # The penalty is chosen on films that the fit has not seen.
    weight, bias = min(fitted, key=lambda found: float(_loss(outside @ found[0].T + found[1], truth_held)))
    # The standardisation is folded into the weights: serving needs no means and spreads.
    weight = weight / spread
    bias = bias - weight @ mean
    share = _shares(seen @ weight.T + bias, networks, truth_held)
    return TowerHeads(weight=weight, bias=bias, share=share)


def blend_outputs(networks: FilmOutputTable, heads: TowerHeads, features: NDArray[np.float32]) -> FilmOutputTable:
    """The networks' outputs with the heads' opinion in both kinds of logits, as serving blends them."""
    mined, marked = heads.blend(
        torch.from_numpy(networks.mined), torch.from_numpy(networks.marked), torch.from_numpy(features)
    )
    return FilmOutputTable(
        mined=mined.numpy(),
        marked=marked.numpy(),
        amounts=networks.amounts,
        maps=networks.maps,
        features=networks.features,
    )


def _labels(films: FilmSet, rows: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.concatenate([films.mined[rows], films.marked[rows]], axis=1))


def _loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean over the labels of each one's mean log-loss where it is known."""
    known = (truth != UNKNOWN).float()
    losses = functional.binary_cross_entropy_with_logits(logits, truth.clamp(min=0.0), reduction="none")
    return ((losses * known).sum(0) / known.sum(0).clamp(min=1.0)).mean()


def _logistic(features: Tensor, truth: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weight [OUTPUTS, F] and bias of least loss with a penalty on the squared weights."""
    weight = torch.zeros(OUTPUTS, features.shape[1], requires_grad=True)
    bias = torch.full((OUTPUTS,), -2.0, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = _loss(features @ weight.T + bias, truth) + penalty * weight.square().sum() / OUTPUTS
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        return float(loss)

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch has no types here
    return weight.detach(), bias.detach()


def _shares(tower: Tensor, networks: FilmOutputTable, truth: Tensor) -> Tensor:
    """By label the share of the tower's logits. Half way between what ranks the validation films best for the label and
    what does so for all labels of its kind: few of them show it. A label of too few takes the common share."""
    own = torch.from_numpy(np.concatenate([networks.mined, networks.marked], axis=1))
    shares = []
    for places in (range(len(MINED)), range(len(MINED), OUTPUTS)):
        curves = {column: _curve(own[:, column], tower[:, column], truth[:, column]) for column in places}
        known = [curve for curve in curves.values() if curve is not None]
        common = SHARES[int(np.mean(known, axis=0).argmax())] if known else 0.0
        for curve in curves.values():
            best = SHARES[int(np.argmax(curve))] if curve is not None else common
            shares.append((best + common) / 2.0)
    return torch.tensor(shares)


def _curve(own: Tensor, other: Tensor, truth: Tensor) -> list[float] | None:
    """AUROC at each of SHARES; None with too few positives or negatives."""
    known = truth != UNKNOWN
    labels: Sequence[bool] = (truth[known] > 0).tolist()
    if min(sum(labels), len(labels) - sum(labels)) < FEWEST:
        return None
    return [auroc(labels, torch.lerp(own[known], other[known], share).tolist()) for share in SHARES]
