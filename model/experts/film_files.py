"""Writing a film classifier beside a checkpoint's weights, for `model.experts.film_classifier` to load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model.experts.film_classifier import (
    ARCHITECTURE,
    CONFIGURATION,
    STATISTICS,
    WEIGHTS,
    Domains,
)
from model.experts.film_network import FilmNetwork, MemberShares, grow_heads
from model.experts.tower_heads import TowerHeads


def read_member(path: Path) -> FilmNetwork:
    """The network of a file that training wrote."""
    network = FilmNetwork()
    state = {name: value.float() for name, value in load_file(path).items()}
    network.load_state_dict(grow_heads(state), strict=False)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack this form
    return network.eval()


def write_classifier(
    folder: Path,
    members: Sequence[FilmNetwork],
    domains: Domains,
    heads: TowerHeads | None = None,
    shares: MemberShares | None = None,
) -> None:
    """Write the two files of `model.experts.film_classifier` beside a checkpoint's weights, in half precision."""
    tensors = {f"domain.{name}": getattr(domains, name).float().contiguous() for name in STATISTICS}
    for number, member in enumerate(members):
        for name, value in member.state_dict().items():
            # A counter of the training, an integer, of no use to reading.
            if not name.endswith("num_batches_tracked"):
                tensors[f"{number}.{name}"] = value.half().contiguous()
    save_file(tensors | (heads.tensors() if heads is not None else {}), folder / WEIGHTS)
    configuration: dict[str, object] = {"architecture": ARCHITECTURE, "members": len(members)}
    if shares:
        configuration["shares"] = {kind: list(some) for kind, some in shares.items()}
    (folder / CONFIGURATION).write_text(json.dumps(configuration, indent=1) + "\n", "utf-8")


def count_parameters(folder: Path) -> int:
    """Learned values of the classifier's file; 0 where there is none."""
    if not (folder / WEIGHTS).is_file():
        return 0
    tensors = load_file(folder / WEIGHTS)
    learned = (name for name in tensors if not name.startswith("domain.") and "running" not in name)
    return sum(tensors[name].numel() for name in learned)
