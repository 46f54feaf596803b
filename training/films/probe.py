"""The start of the film classifier's heads: logistic regression on what the ImageNet backbone gives for films."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.experts.film_network import MARKED, SIDE, FilmNetwork
from training.films.batches import squares
from training.films.film_set import UNKNOWN, FilmSet
from training.films.losses import AREA_SCALE
from training.films.outputs import BATCH

PROBE_STEPS, PROBE_RATE, PROBE_DECAY, PROBE_SCALE = 250, 3e-3, 0.3, 0.1


def probe_heads(network: FilmNetwork, films: FilmSet) -> None:
    """Fit the heads on the frozen features of the larger training films: logistic regression, in place."""
    rows = np.flatnonzero(films.is_training & (films.pixels >= SIDE))
    features = _head_inputs(network, films, rows)
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
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
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
def _head_inputs(network: FilmNetwork, films: FilmSet, rows: NDArray[np.int64]) -> Tensor:
    network.eval()
    return torch.cat(
        [network(squares(films, rows[start : start + BATCH])).joined for start in range(0, len(rows), BATCH)]
    )
