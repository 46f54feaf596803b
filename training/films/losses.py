"""Losses of the film classifier: both kinds of label, outlines, outlined areas, and changes of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.experts.film_network import GRADED, MARKED, MINED, FilmOutputs
from training.films.film_set import UNKNOWN

SMOOTHING = 0.05
"""Of mined labels: a report that does not mention a finding, or mentions it, is wrong now and then."""
MARKED_SMOOTHING = 0.01
MINED_WEIGHTS = (1.0, 1.5, 1.2, 1.5, 2.0, 2.0, 1.0, 1.0, 1.5, 1.5, 1.0, 1.0, 1.0, 1.0)
"""Of a positive, in the order of `MINED`: the six findings that are asked, and the rare ones, weigh more."""
MARKED_WEIGHTS = (1.5, 2.0, 1.5, 1.5, 0.7, 0.5, 1.0, 1.0, 0.5, 0.7)
"""Of a finding, in the order of `MARKED`: what films of this size cannot show weighs less."""
AREA_SCALE = 4.0
"""The amount of a finding is this times the root of its area as a share of the film."""


class ChangeLoss(nn.Module):
    """Better, the same or worse from the difference of two amounts; antisymmetric, with a width of "the same" and a
    steepness of each finding that are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.full((len(GRADED),), 1.0))
        self.width = nn.Parameter(torch.full((len(GRADED),), 0.7))

    def forward(self, prior: Tensor, current: Tensor, directions: Tensor, weights: Tensor) -> Tensor:
        """prior, current: amounts [N, GRADED]. directions: 0 better, 1 the same, 2 worse. weights [N, GRADED]."""
        difference = (current - prior) * functional.softplus(self.steepness) * 2.0
        width = functional.softplus(self.width)
        # "The same" is the reference at 0 and wins while the amounts differ by less than the width. With prior and
        # current exchanged, better and worse are exchanged exactly, so no pair can be read two ways.
        scores = torch.stack([-difference - width, torch.zeros_like(difference), difference - width], dim=-1)
        losses = functional.cross_entropy(scores.flatten(0, 1), directions.flatten(), reduction="none")
        return (losses.view_as(weights) * weights).sum() / len(prior) / 3.0


def film_loss(outputs: FilmOutputs, mined: Tensor, marked: Tensor, areas: Tensor, masks: Tensor) -> Tensor:
    """Sum of the losses of one film's own labels. mined, marked: UNKNOWN where nobody says; masks as the maps."""
    read = (marked[:, :1] != UNKNOWN).float()
    readers = read.sum().clamp(min=1.0)  # losses of marks are means over the films that were read, not over the batch
    present = marked.clamp(min=0.0)
    return (
        2.0 * _mined_loss(outputs.mined, mined)
        + 2.0 * _marked_loss(outputs.marked, present, read, readers)
        + 4.0 * _map_loss(outputs.maps, masks, read, readers)
        + _area_loss(outputs.amount, areas, read, readers)
    )


def _mined_loss(logits: Tensor, mined: Tensor) -> Tensor:
    known = (mined != UNKNOWN).float()
    # 0.9 for a mention and 0.0125 for none.
    targets = mined.clamp(min=0.0) * (1.0 - 2.0 * SMOOTHING) + 0.25 * SMOOTHING * (1.0 - mined.clamp(min=0.0))
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weights = torch.where(mined > 0.0, _row(MINED_WEIGHTS, logits), torch.ones_like(mined)) * known
    return (losses * weights).sum() / len(logits) / len(MINED)


def _marked_loss(logits: Tensor, present: Tensor, read: Tensor, readers: Tensor) -> Tensor:
    targets = present * (1.0 - 6.0 * MARKED_SMOOTHING) + MARKED_SMOOTHING  # 0.95 for a mark and 0.01 for none
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (losses * read * _row(MARKED_WEIGHTS, logits)).sum() / readers / len(MARKED)


def _map_loss(maps: Tensor, masks: Tensor, read: Tensor, readers: Tensor) -> Tensor:
    # An outline covers a small part of a film: its cells weigh twice, or "nothing anywhere" would be a good map.
    twice = torch.full((len(MARKED), 1, 1), 2.0, device=maps.device)
    losses = functional.binary_cross_entropy_with_logits(maps, masks, reduction="none", pos_weight=twice)
    return (losses.mean(dim=(2, 3)) * read).sum() / readers / len(MARKED)


def _area_loss(amounts: Tensor, areas: Tensor, read: Tensor, readers: Tensor) -> Tensor:
    targets = areas.sqrt() * AREA_SCALE  # a length, else the largest findings alone would rule the loss
    losses = functional.smooth_l1_loss(amounts[:, : len(MARKED)], targets, reduction="none", beta=0.2)
    return (losses * read * (1.0 + 3.0 * (targets > 0.0))).sum() / readers / len(MARKED)


def _row(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device)
