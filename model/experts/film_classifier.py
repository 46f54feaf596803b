"""The film classifier of a checkpoint folder: its outputs for films, and whether a film is like its training films.

Two files beside the checkpoint's weights: `films.json` (the outputs) and `films.safetensors` (half precision: the
weights of each member and the statistics of the features). Outputs are averaged over the members, by the shares in
`films.json` if given, and over the film and its mirror image; heads on the language model's vision tower, if any, are
blended in (`model.experts.tower_heads`). The manifest says how outputs become findings (`model.film_rules`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from model.errors import CheckpointError
from model.experts.film_network import (
    GRADED,
    MARKED,
    MINED,
    OUTPUT_KINDS,
    SIDE,
    FilmNetwork,
    FilmOutputs,
    MemberShares,
    check_shares,
    grow_heads,
)
from model.experts.tower_heads import TowerHeads
from model.film_rules import FilmScores
from model.images.square import fit
from model.ontology import ontology
from model.schema import DisplayImage

CONFIGURATION, WEIGHTS = "films.json", "films.safetensors"
ARCHITECTURE = "efficientnet-lite0 films"
STATISTICS = ("centres", "whitening", "limits")  # the names, below "domain.", of the fields of `Domains`
FAMILIAR = 1.0  # greatest unfamiliarity of a film that is like those of training
PHANTOM_REACH = 1.2
"""Distance from phantoms, as a share of their limit, within which a film is one: no validation film of a person came
nearer than 1.31, and few phantoms lie further."""
_BILATERAL_SHARE = 0.3  # of the map's weight on the lighter side, from which a finding is called bilateral
TowerFeatures = Callable[[Sequence[NDArray[np.uint8]]], Tensor]
"""Square pictures → what the language model's vision tower has for each [N, F] (`NvilaVlm.tower_features`)."""


class FilmKind(StrEnum):
    """The features of one kind of film."""

    PERSON = "person"
    PHANTOM = "phantom"


KINDS = (FilmKind.PERSON, FilmKind.PHANTOM)  # in the order of `Domains`' rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Domains:
    """Statistics of features, to tell the kinds of film apart and films that are like neither.

    centres [kinds, F]: mean features. whitening [kinds, F, F]: features less their mean, times this, have unit
    covariance. limits [kinds]: the distance that all but one in a hundred validation films of the kind stay below.
    """

    centres: Tensor
    whitening: Tensor
    limits: Tensor

    def distances(self, features: Tensor) -> Tensor:
        """Distances of features [N, F] from each kind [N, kinds] as shares of its limit (Lee et al. 2018)."""
        away = features.float()[:, None] - self.centres
        inside = torch.einsum("nkf,kfg->nkg", away, self.whitening)
        distances: Tensor = inside.norm(dim=-1) / self.limits
        return distances


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilmView:
    """The classifier's answer on one film. kind: by `kinds_of`. unfamiliarity: distance from it as a share of its
    limit, above 1 for a film that is like none that it learned on. maps: MARKED key → probability [GRID, GRID]. The
    other values are empty where the film was only recognised."""

    kind: FilmKind
    unfamiliarity: float
    mined: Mapping[str, float] = field(default_factory=dict)
    marked: Mapping[str, float] = field(default_factory=dict)
    amounts: Mapping[str, float] = field(default_factory=dict)
    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def scores(self, key: str) -> FilmScores:
        """The scores of one finding of the ontology."""
        concept = ontology().findings.get(key)
        label = concept.nih if concept is not None else None
        return FilmScores(
            mined=self.mined.get(label) if label is not None else None,
            marked=self.marked.get(key),
            amount=self.amounts.get(key),
            side=side_of(self.maps[key]) if concept is not None and concept.lateral and key in self.maps else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recognition:
    """A look of the first member at films. views: kind and unfamiliarity of each. outputs: all that the member gave."""

    views: tuple[FilmView, ...]
    outputs: FilmOutputs

    def of(self, indices: Sequence[int]) -> Recognition:
        """The same of some of the films."""
        return Recognition(views=tuple(self.views[index] for index in indices), outputs=self.outputs.of(indices))


def kinds_of(distances: Tensor) -> Tensor:
    """Distances [N, kinds] → index in `KINDS` [N]: a phantom where it is nearer to these, or within their reach."""
    people, phantoms = distances.unbind(dim=1)
    return (phantoms < people.clamp(min=PHANTOM_REACH)).long()


class FilmClassifier:
    """The loaded networks. Not for several threads at once. heads, tower: go together. shares: as `average_outputs`."""

    def __init__(
        self,
        members: Sequence[FilmNetwork],
        domains: Domains,
        heads: TowerHeads | None = None,
        tower: TowerFeatures | None = None,
        shares: MemberShares | None = None,
    ) -> None:
        self._members = [member.eval() for member in members]
        self._domains = domains
        self._heads, self._tower = heads, tower
        self._shares = shares

    @torch.inference_mode()
    def look(self, images: Sequence[DisplayImage]) -> list[FilmView]:
        """Classify each film."""
        return self.look_at_squares(squares_of(images)) if images else []

    @torch.inference_mode()
    def look_at_squares(self, squares: Tensor) -> list[FilmView]:
        """As `look`, of grey squares [N, 1, SIDE, SIDE] in 0..1."""
        return self.read(squares, self.recognise(squares))

    @torch.inference_mode()
    def recognise(self, squares: Tensor) -> Recognition:
        """Tell the kind of each film and how like those of training it is, by the first member alone."""
        outputs: FilmOutputs = self._members[0](_channels_last(squares))
        distances = self._domains.distances(outputs.features)
        views = [
            FilmView(kind=KINDS[kind], unfamiliarity=float(row[kind]))
            for kind, row in zip(kinds_of(distances).tolist(), distances, strict=True)
        ]
        return Recognition(views=tuple(views), outputs=outputs)

    @torch.inference_mode()
    def read(self, squares: Tensor, recognised: Recognition) -> list[FilmView]:
        """Add all outputs to the views of recognised films."""
        mined, marked, amounts, maps, _ = (
            value.float() for value in average_outputs(self._members, squares, recognised.outputs, self._shares)
        )
        if self._heads is not None and self._tower is not None:
            # The tower wants bytes as it was trained on; squares are 0..1.
            pictures = (squares[:, 0] * 255.0).round().byte().numpy()
            mined, marked = self._heads.blend(mined, marked, self._tower(list(pictures)))
        return [
            replace(
                view,
                mined=dict(zip(MINED, mined[number].tolist(), strict=True)),
                marked=dict(zip(MARKED, marked[number].tolist(), strict=True)),
                amounts=dict(zip(GRADED, amounts[number].tolist(), strict=True)),
                maps={key: maps[number, channel].numpy() for channel, key in enumerate(MARKED)},
            )
            for number, view in enumerate(recognised.views)
        ]


def squares_of(images: Sequence[DisplayImage]) -> Tensor:
    """The grey squares [N, 1, SIDE, SIDE] in 0..1 of films; there must be one."""
    squares = np.stack([fit(image, SIDE) for image in images]).astype(np.float32) / 255.0
    return torch.from_numpy(squares)[:, None]


@torch.inference_mode()
def average_outputs(
    members: Sequence[FilmNetwork],
    squares: Tensor,
    first: FilmOutputs | None = None,
    shares: MemberShares | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mined, marked and amounts as `FilmOutputs`, maps as probabilities, averaged over the members by their shares and
    over the film and its mirror image, whose maps are turned back; features of the first member on the plain film.

    first: of the first member on the films as they are, where it has looked already.
    """
    given: list[FilmOutputs] = []
    for member in members:
        for picture in (squares, squares.flip(-1)):
            # The first look (member 0, not mirrored) was had for recognising the film.
            known = first if not given else None
            given.append(known if known is not None else member(_channels_last(picture)))
    maps = [outputs.maps if number % 2 == 0 else outputs.maps.flip(-1) for number, outputs in enumerate(given)]
    values = {
        "mined": [outputs.mined for outputs in given],
        "marked": [outputs.marked for outputs in given],
        "amounts": [outputs.amount for outputs in given],
        "maps": [logits.sigmoid() for logits in maps],
    }
    mined, marked, amounts, probabilities = (_average(values[kind], (shares or {}).get(kind)) for kind in OUTPUT_KINDS)
    return mined, marked, amounts, probabilities, given[0].features


def _average(values: Sequence[Tensor], shares: Sequence[float] | None) -> Tensor:
    """The mean of two values of each member; shares: of the members."""
    stacked = torch.stack(list(values))
    if shares is None:
        return stacked.mean(0)
    weights = torch.tensor([share / 2.0 for share in shares for _ in range(2)], dtype=stacked.dtype)
    mean: Tensor = torch.tensordot(weights, stacked, dims=1)
    return mean


def _channels_last(squares: Tensor) -> Tensor:
    return squares.contiguous(memory_format=torch.channels_last)


def side_of(grid: NDArray[np.float32]) -> str | None:
    """ "left", "right" (of the patient, whose right is at the picture's left) or "bilateral" by a map's weight."""
    weight = np.square(grid)
    half = grid.shape[1] // 2
    # The middle column of an odd grid counts to neither side.
    at_left, at_right = float(weight[:, :half].sum()), float(weight[:, -half:].sum())
    total = at_left + at_right
    if total <= 0.0:
        return None
    if min(at_left, at_right) >= _BILATERAL_SHARE * total:
        return "bilateral"
    return "right" if at_left > at_right else "left"


def has_film_classifier(folder: Path) -> bool:
    """Tell whether a checkpoint folder brings one."""
    return (folder / CONFIGURATION).is_file()


def load_film_classifier(folder: Path, tower: TowerFeatures | None = None) -> FilmClassifier | None:
    """The classifier of a checkpoint folder, None where it has none. Raises CheckpointError naming what is wrong.

    tower: of the checkpoint's language model; a classifier with heads on it needs it.
    """
    if not has_film_classifier(folder):
        return None
    try:
        configuration = json.loads((folder / CONFIGURATION).read_text("utf-8"))
        architecture, count = str(configuration["architecture"]), int(configuration["members"])
        shares = {
            str(kind): [float(share) for share in members] for kind, members in configuration.get("shares", {}).items()
        }
        check_shares(shares, count)
        # Stored in half precision, computed in single: on a CPU half is slower.
        tensors = {name: value.to(torch.float32, copy=True) for name, value in load_file(folder / WEIGHTS).items()}
        domains = Domains(**{name: tensors.pop(f"domain.{name}") for name in STATISTICS})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}: no film classifier: {error}") from error
    if architecture != ARCHITECTURE or count < 1:
        raise CheckpointError(f"{folder}: {count} film classifiers of {architecture!r}; known: {ARCHITECTURE!r}")
    heads = TowerHeads.from_tensors(tensors)
    if heads is not None and tower is None:
        raise CheckpointError(f"{folder}: the film classifier has heads on a vision tower that the model does not have")
    members = [_load_member(folder, number, tensors) for number in range(count)]
    return FilmClassifier(members, domains, heads, tower, shares)


def _load_member(folder: Path, number: int, tensors: Mapping[str, Tensor]) -> FilmNetwork:
    start = f"{number}."
    state = grow_heads({name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)})
    network = FilmNetwork()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack this form
    try:
        # Not strict, because the counters of normalisation layers are not stored; whatever else is missing is refused
        # below.
        network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the film classifier's weights do not fit: {error}") from error
    if missing := sorted(set(network.state_dict()) - set(state) - _find_counters(network)):
        raise CheckpointError(f"{folder}: the film classifier lacks {missing[0]}")
    return network


def _find_counters(network: FilmNetwork) -> set[str]:
    """Counters of normalisation layers, which serving has no use for."""
    return {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
