"""The network of the film classifier: findings, how much of each, and where, from one radiograph of a person.

It has separate outputs for what reports mention (labels mined from text) and what radiologists marked, because the two
disagree; a shared backbone lets each profit from the other (docs/demonstration-model.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.experts.efficientnet import LAST_CHANNELS, LATERAL_CHANNELS, EfficientNetLite0

SIDE = 128
"""Pixels of the square that the network is shown."""
GRID = SIDE // 8
"""Cells of a side of the spatial maps."""
MINED = (
    "Effusion",
    "Pneumothorax",
    "Atelectasis",
    "Consolidation",
    "Edema",
    "Cardiomegaly",
    "Nodule",
    "Infiltration",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Mass",
    "Pneumonia",
    "Hernia",
)
"""ChestX-ray14's labels, in the order of the outputs."""
MARKED = (
    "pleural_effusion",
    "pneumothorax",
    "atelectasis",
    "consolidation",
    "lung_nodule",
    "fracture",
    "emphysema",
    "fibrosis",
    "calcification",
    "mass",
)
"""The findings that radiologists marked (ChestX-Det), in the order of the outputs and the maps."""
GRADED = (*MARKED, "edema", "cardiomegaly")
"""The findings with an output of their amount."""
OUTPUT_KINDS = ("mined", "marked", "amounts", "maps")
"""The kinds of output in which members may have shares of their own."""
MemberShares = Mapping[str, Sequence[float]]
"""Kind of output → share of each member in it, together 1. A kind that is missing is averaged evenly."""
_WIDTH = 128
FEATURES = sum(LATERAL_CHANNELS[:2]) + _WIDTH
JOINED = _WIDTH + LAST_CHANNELS
"""Values that the heads are given: maxima of the fine map, for what is small, and means of the last one, for the
heart and what is spread."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilmOutputs:
    """mined [N, MINED], marked [N, MARKED]: logits. amount [N, GRADED]: about four times the root of the share of the
    film that radiologists outlined. maps [N, MARKED, GRID, GRID]: logits. features [N, FEATURES]: means and maxima
    of the maps inside, to tell kinds of film. joined [N, JOINED]: what the heads were given.
    """

    mined: Tensor
    marked: Tensor
    amount: Tensor
    maps: Tensor
    features: Tensor
    joined: Tensor

    def of(self, places: Sequence[int]) -> FilmOutputs:
        """The outputs of some of the images."""
        chosen = list(places)
        return FilmOutputs(**{part.name: getattr(self, part.name)[chosen] for part in fields(self)})


class FilmNetwork(nn.Module):
    """Grey images [N, 1, SIDE, SIDE] in 0..1 → `FilmOutputs`. dropout, dropped: only of training."""

    def __init__(self, *, dropout: float = 0.0, dropped: float = 0.0) -> None:
        super().__init__()
        self.body = EfficientNetLite0(dropped)
        self.lateral = nn.ModuleList(nn.Conv2d(channels, _WIDTH, 1) for channels in LATERAL_CHANNELS)
        self.smooth = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, groups=_WIDTH, bias=False),
            nn.Conv2d(_WIDTH, _WIDTH, 1, bias=False),
            nn.BatchNorm2d(_WIDTH),
            nn.ReLU(),
        )
        self.map = nn.Conv2d(_WIDTH, len(MARKED), 1)
        self.dropout = nn.Dropout(dropout)
        self.mined = nn.Linear(JOINED, len(MINED))
        self.marked = nn.Linear(JOINED, len(MARKED))
        self.amount = nn.Linear(JOINED, len(GRADED))
        self.map_weight = nn.Parameter(torch.zeros(len(MARKED)))

    def forward(self, images: Tensor) -> FilmOutputs:
        pyramid = self.body(images)
        eighth, sixteenth, thirty_second = self.lateral
        coarse = _double(thirty_second(pyramid.thirty_second)) + sixteenth(pyramid.sixteenth)
        fine = self.smooth(_double(coarse) + eighth(pyramid.eighth))
        maps = self.map(fine)
        highest_inside = fine.amax(dim=(2, 3))
        means = [level.mean(dim=(2, 3)) for level in (pyramid.eighth, pyramid.sixteenth)]
        whole = torch.cat([highest_inside, pyramid.last.mean(dim=(2, 3))], dim=1)
        joined = self.dropout(whole)
        # A soft maximum: a finding is there where any cell shows it (Pinheiro and Collobert 2015).
        highest = torch.logsumexp(maps.flatten(2) * 2.0, dim=-1) / 2.0 - math.log(4.0)
        return FilmOutputs(
            mined=self.mined(joined),
            marked=self.marked(joined) + self.map_weight * highest,
            amount=self.amount(joined),
            maps=maps,
            features=torch.cat([*means, highest_inside], dim=1),
            joined=whole,
        )


def check_shares(shares: MemberShares, members: int) -> None:
    """Raise ValueError where a kind of output is none, or its shares are not one for each member, together 1."""
    for kind, some in shares.items():
        if kind not in OUTPUT_KINDS:
            raise ValueError(f"shares in {kind!r}; known: {', '.join(OUTPUT_KINDS)}")
        if len(some) != members or min(some) < 0.0 or not math.isclose(sum(some), 1.0, abs_tol=1e-6):
            raise ValueError(f"shares {some} in {kind!r} are not {members} that add up to 1")


def grow_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a network from before the heads saw the last map's means: these get no weight."""
    if "body.last.weight" in state or "mined.weight" not in state:
        return dict(state)
    grown = dict(state)
    grown["body.last.weight"] = torch.zeros(LAST_CHANNELS, LATERAL_CHANNELS[-1], 1, 1)
    grown["body.last.bias"] = torch.zeros(LAST_CHANNELS)
    for name in ("mined.weight", "marked.weight", "amount.weight"):
        if name in state:
            grown[name] = functional.pad(state[name], (0, JOINED - state[name].shape[1]))
    return grown


def _double(maps: Tensor) -> Tensor:
    return functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


class FilmExpert(nn.Module):
    """The network as an expert of stream E: grey [N, 1, S, S] in -1024..1024 → logits [N, labels] of `MINED`."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.labels = labels
        self.network = FilmNetwork()

    def forward(self, images: Tensor) -> Tensor:
        grey = (images / 1024.0 + 1.0) / 2.0
        # Averaging while shrinking, as Pillow does: thin lines fade instead of breaking up.
        square = functional.interpolate(grey, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        logits: Tensor = self.network(square).mined[:, : self.labels]
        return logits
