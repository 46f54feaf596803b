"""Linear heads on the vision tower of the checkpoint's own language model: one more opinion on films of people.

The tower learned on phantoms and some films of people; its features, read by logistic regression, know of the heart
and of what is spread over a film, and err in other places than the film classifier's networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from model.errors import CheckpointError
from model.experts.film_network import MARKED, MINED

OUTPUTS = len(MINED) + len(MARKED)
PREFIX = "tower."
"""Of its tensors in the classifier's file."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TowerHeads:
    """weight [OUTPUTS, F], bias [OUTPUTS]: logits of F features, in the order of MINED and MARKED. share [OUTPUTS]: of
    these logits in the sum with the networks'."""

    weight: Tensor
    bias: Tensor
    share: Tensor

    def blend(self, mined: Tensor, marked: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Both kinds of logits of the networks [N, labels] with the tower's opinion from its features [N, F]."""
        logits = features.float() @ self.weight.T + self.bias
        joined = torch.lerp(torch.cat([mined, marked], dim=1), logits, self.share)
        return joined[:, : len(MINED)], joined[:, len(MINED) :]

    def tensors(self) -> dict[str, Tensor]:
        """Name → tensor, for the classifier's file."""
        return {f"{PREFIX}{field.name}": getattr(self, field.name).float().contiguous() for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> TowerHeads | None:
        """The heads among a file's tensors; None where it holds none. Raises CheckpointError where they do not fit."""
        weights = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
        if not weights:
            return None
        try:
            heads = cls(**weights)
        except TypeError as error:
            raise CheckpointError(f"the heads on the vision tower are not whole: {error}") from error
        if not len(heads.weight) == len(heads.bias) == len(heads.share) == OUTPUTS:
            raise CheckpointError(f"the heads on the vision tower have {len(heads.bias)} outputs instead of {OUTPUTS}")
        return heads
