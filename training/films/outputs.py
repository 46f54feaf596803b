"""Outputs of a film classifier for the films of a `FilmSet`, as arrays, and the statistics that tell kinds of film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.experts.film_classifier import Domains, average_outputs
from model.experts.film_network import GRADED, MARKED, MINED, FilmNetwork, MemberShares
from model.film_rules import FilmScores
from model.ontology import ontology
from training.readers.nih_series import MARKS

LIMIT_SHARE = 0.99
"""Of validation films that stay within their kind's limit."""
BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilmOutputTable:
    """Outputs for N films, averaged over the members: as `FilmOutputs`, maps as probabilities; features of the first
    member."""

    mined: NDArray[np.float32]
    marked: NDArray[np.float32]
    amounts: NDArray[np.float32]
    maps: NDArray[np.float32]
    features: NDArray[np.float32]

    def scores(self, row: int, key: str) -> FilmScores:
        """As `FilmView.scores`, without the side."""
        label, word = ontology().findings[key].nih, word_of(key)
        return FilmScores(
            mined=float(self.mined[row, MINED.index(label)]) if label in MINED else None,
            marked=float(self.marked[row, MARKED.index(word)]) if word in MARKED else None,
            amount=float(self.amounts[row, GRADED.index(word)]) if word in GRADED else None,
        )


def word_of(key: str) -> str:
    """Ontology key → name of the classifier's output."""
    return next((word for word, known in MARKS.items() if known == key), key)


@torch.inference_mode()
def outputs_of(
    members: Sequence[FilmNetwork], squares: NDArray[np.uint8], shares: MemberShares | None = None
) -> FilmOutputTable:
    """Ask every member about every film; squares uint8 [N, SIDE, SIDE]. shares: as `average_outputs`."""
    parts: list[list[NDArray[np.float32]]] = [[] for _ in range(5)]
    for start in range(0, len(squares), BATCH):
        grey = torch.from_numpy(squares[start : start + BATCH]).float()[:, None] / 255.0
        for part, value in zip(parts, average_outputs(members, grey, shares=shares), strict=True):
            part.append(value.numpy())
    mined, marked, amounts, maps_, features = (np.concatenate(part) for part in parts)
    return FilmOutputTable(mined=mined, marked=marked, amounts=amounts, maps=maps_, features=features)


@torch.inference_mode()
def features_of(network: FilmNetwork, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features of each film as it is; squares uint8 [N, SIDE, SIDE]."""
    parts = []
    for start in range(0, len(squares), BATCH):
        grey = torch.from_numpy(squares[start : start + BATCH]).float()[:, None] / 255.0
        parts.append(network(grey.contiguous(memory_format=torch.channels_last)).features.numpy())
    return np.concatenate(parts)


def domains_of(learned: Sequence[NDArray[np.float32]], held_back: Sequence[NDArray[np.float32]]) -> Domains:
    """Statistics of each kind's features [N, F], in the order of `KINDS`; limits from films held back of each kind."""
    centres, whitening, limits = [], [], []
    for features, held in zip(learned, held_back, strict=True):
        centre, covariance = features.mean(0), np.cov(features.T.astype(np.float64))
        # Few films for so many features: towards equal variances (Ledoit and Wolf 2004, the share by hand).
        share = len(centre) / (len(centre) + len(features))
        level = np.trace(covariance) / len(centre)
        shrunk = (1.0 - share) * covariance + share * level * np.eye(len(centre))
        # W with W·Wᵀ = the inverse covariance: the length of x·W is Mahalanobis' distance.
        whitening.append(np.linalg.cholesky(np.linalg.inv(shrunk)))
        centres.append(centre)
        limits.append(np.quantile(np.linalg.norm((held - centre) @ whitening[-1], axis=1), LIMIT_SHARE))
    return Domains(
        centres=torch.tensor(np.stack(centres), dtype=torch.float32),
        whitening=torch.tensor(np.stack(whitening), dtype=torch.float32),
        limits=torch.tensor(np.array(limits), dtype=torch.float32),
    )
