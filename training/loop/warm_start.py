"""A better start than random weights for a small vision tower that learns from few films.

Patch embedding: the lowest frequencies of the discrete cosine transform, each scaled to unit variance over films, so
that every patch reaches the first layer whole and whitened. Places: sines and cosines of row and column.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.nvila.modeling import NvilaForConditionalGeneration

PATCH_SCALE = 0.5
PLACE_SCALE = 0.5


@torch.no_grad()
def set_structured_start(model: NvilaForConditionalGeneration, films: NDArray[np.uint8]) -> None:
    """Set patch and position embeddings in place; films: uint8 [N, size, size], typical of the training data."""
    embeddings = model.vision_tower.embeddings
    weight = embeddings.patch_embedding.weight
    width, channels, side, _ = weight.shape
    whole = min(width, side * side)  # a tower wider than its patches have frequencies: the rest stays random
    basis = cosine_basis(side, whole)
    patches = torch.from_numpy(films).float().div(127.5).sub(1.0)
    patches = patches.unfold(1, side, side).unfold(2, side, side).reshape(-1, side * side)
    coefficients = (patches - patches.mean()) @ basis.T
    scale = PATCH_SCALE / coefficients.std(0).clamp(min=1e-3)
    # Scaled to equal variance, so that the first layer sees fine structure as strongly as brightness.
    filters = basis * scale[:, None]
    # The channels of a grey film are equal: each takes its part of the filter. The bias takes the mean brightness away.
    weight[:whole] = filters.view(whole, 1, side, side).expand(-1, channels, -1, -1) / channels
    embeddings.patch_embedding.bias[:whole] = -filters.sum(1) * patches.mean()
    places = embeddings.position_embedding.weight
    places.copy_(PLACE_SCALE * sine_places(round(places.shape[0] ** 0.5), width))


def cosine_basis(side: int, count: int) -> Tensor:
    """The `count` lowest orthonormal 2-D cosine functions on a patch, [count, side * side], by rising frequency."""
    if count > side * side:
        raise ValueError(f"a patch of {side} x {side} has fewer than {count} frequencies")
    # The DCT-II: cosines sampled at pixel centres are orthogonal on the patch.
    grid = torch.arange(side) + 0.5
    lines = torch.stack([torch.cos(torch.pi / side * grid * k) for k in range(side)])
    lines = lines / lines.norm(dim=1, keepdim=True)
    # From low to high frequency: the first functions carry most of a radiograph's contrast.
    order = sorted((row**2 + column**2, row, column) for row in range(side) for column in range(side))[:count]
    return torch.stack([torch.outer(lines[row], lines[column]).flatten() for _, row, column in order])


def sine_places(side: int, width: int) -> Tensor:
    """[side * side, width]: a quarter each of sines and cosines of row and column."""
    quarter = width // 4
    # From slow waves to fast ones, evenly on a logarithmic scale.
    rates = torch.pi * torch.logspace(-0.5, np.log10(max(side / 2, 2)), quarter)
    line = (torch.arange(side) + 0.5) / side
    waves = torch.cat([torch.sin(line[:, None] * rates), torch.cos(line[:, None] * rates)], dim=1)
    grid = torch.zeros(side, side, width)
    grid[..., : 2 * quarter] = waves[:, None]
    grid[..., 2 * quarter : 4 * quarter] = waves[None]
    return grid.flatten(0, 1)
