"""Optimizers: the rule and the rate of each group of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from training.loop.learner import Learner
from training.recipe.recipe import PARTS, Recipe

MUON_MOMENTUM = 0.95


def parameter_groups(module: Learner, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups by part of the model, each with its rate; no decay on vectors (norms, biases, queries).

    Each group has "part", and "matrices": True where its weights are matrices inside the layers of a part, which Muon
    may turn; embeddings, learned queries and the heads are none.
    """
    groups: list[dict[str, Any]] = []
    for part in PARTS:
        owner = module.part(part)
        if owner is None:
            continue
        rates: Mapping[Any, float] = recipe.optimiser.rates
        rate = recipe.optimiser.rate * rates.get(part, 1.0)
        inner = set() if part == "heads" else _layer_matrices(owner)
        learned = [p for p in owner.parameters() if p.requires_grad]
        for decay, matrices, members in (
            (recipe.optimiser.weight_decay, True, [p for p in learned if p.ndim > 1 and id(p) in inner]),
            (recipe.optimiser.weight_decay, False, [p for p in learned if p.ndim > 1 and id(p) not in inner]),
            # Decay is for matrices; norms and biases pulled towards zero would only lose their scale.
            (0.0, False, [p for p in learned if p.ndim <= 1]),
        ):
            if members:
                about = {"lr": rate, "weight_decay": decay, "part": part, "matrices": matrices}
                groups.append({"params": members, **about})
    return groups


def _layer_matrices(owner: nn.Module) -> set[int]:
    """The weights of linear and attention layers that are no embedding and no output over the vocabulary."""
    # Where embeddings are tied, the output layer's weight is the embedding itself.
    tied = {id(m.weight) for m in owner.modules() if isinstance(m, nn.Embedding)}
    # Muon orthogonalises an update as a map between activations; an embedding is a table of rows, not such a map.
    layers: set[int] = set()
    for name, layer in owner.named_modules():
        if isinstance(layer, nn.Linear) and not name.endswith("lm_head") and id(layer.weight) not in tied:
            layers.add(id(layer.weight))
        elif isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is not None:
            layers.add(id(layer.in_proj_weight))
    return layers


def make_optimisers(module: Learner, recipe: Recipe) -> list[Optimizer]:
    """One optimiser, or two with kind "muon": matrices by Muon, the rest by AdamW.

    Muon: Jordan et al. 2024; its updates are scaled to AdamW's size (Liu et al., arXiv 2502.16982), so one learning
    rate serves both.
    """
    groups = parameter_groups(module, recipe)
    if recipe.optimiser.kind == "adamw":
        return [torch.optim.AdamW(groups, betas=recipe.optimiser.betas)]
    matrices = [group | {"lr": group["lr"] * recipe.optimiser.matrix_factor} for group in groups if group["matrices"]]
    rest = [group for group in groups if not group["matrices"]]
    optimisers: list[Optimizer] = []
    if matrices:
        optimisers.append(torch.optim.Muon(matrices, momentum=MUON_MOMENTUM, adjust_lr_fn="match_rms_adamw"))
    if rest:
        optimisers.append(torch.optim.AdamW(rest, betas=recipe.optimiser.betas))
    return optimisers


def rate_factor(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then cosine down to `floor`; the factor on every group's rate at `step` (0-based)."""
    warm = max(1, round(recipe.optimiser.warmup * recipe.run.steps))
    if step < warm:
        # Never zero: a first step with rate 0 would be a step without effect.
        return (step + 1) / warm
    done = (step - warm) / max(1, recipe.run.steps - warm)
    return recipe.optimiser.floor + (1 - recipe.optimiser.floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
