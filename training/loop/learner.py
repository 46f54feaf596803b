"""The learner of the loop, whatever the architecture: losses of a batch, the model's parts, and the weights that
learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from model.checkpoints.manifest import CheckpointKind
from model.errors import CheckpointError
from training.data.samples import Sample
from training.loop.heads import AuxiliaryHeads
from training.recipe.recipe import Objective, Recipe, TunedWeights

WHOLE = ("mm_projector", "longitudinal")
"""Parts that learn as a whole with tune "lora" and "projector", unless they get adapters."""


class PartView(nn.Module):
    """Some modules and lone parameters of a model taken together; it owns none of them."""

    def __init__(self, modules: Iterable[nn.Module], parameters: Iterable[nn.Parameter] = ()) -> None:
        super().__init__()
        self.members = nn.ModuleList(modules)
        self.lone = nn.ParameterList(parameters)


class Learner(nn.Module, ABC):
    """`forward(batch)` gives the losses by name, float32 scalars; "loss" is the one to descend.

    model: a Transformers model. heads: auxiliary heads beside it, or None where the architecture has none.
    """

    kind: CheckpointKind
    model: Any
    heads: AuxiliaryHeads | None

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self._adapters: list[Any] = []  # the PEFT wrapper, in a list so that it is not a submodule a second time

    @abstractmethod
    def part(self, name: str) -> nn.Module | None:
        """One of the recipe's PARTS; None where the model has none of it."""

    @abstractmethod
    def collator(self, processor: Any) -> Callable[[Sequence[Sample]], Any]:
        """Samples → the batch that `forward` takes."""

    @abstractmethod
    def save(self, processor: Any, folder: Path) -> None:
        """Write the model as its loader reads it; adapters are merged by then."""

    def freeze(self) -> None:
        """Give every weight what the recipe says: learn, stay, or stay with an adapter beside it."""
        run = self.recipe.run
        if run.tune is not TunedWeights.FULL:
            self.model.requires_grad_(False)
            adapted = self._adapt() if run.tune is TunedWeights.LORA else set()
            for name in WHOLE:
                if name not in adapted and (whole := self.part(name)) is not None:
                    whole.requires_grad_(True)
        frozen = {*run.freeze, *(["llm"] if run.objective is Objective.HEADS else [])}
        frozen |= set() if self.recipe.heads.weight else {"heads"}
        for name in frozen:
            if (part := self.part(name)) is not None:
                part.requires_grad_(False)
        for parameter in self.parameters():
            if parameter.requires_grad:  # small steps vanish in half precision: what learns is kept in full
                parameter.data = parameter.data.float()

    def _adapt(self) -> set[str]:
        """Low-rank adapters beside every linear layer of the wanted parts, the output over the vocabulary left out.

        Returns the parts that have some; a projector that is a bare matrix (Gemma 3's) gets none.
        """
        lora = self.recipe.lora
        inside: set[int] = set()
        adapted: set[str] = set()
        for name in lora.parts:
            part = self.part(name)
            linear = {id(m) for m in part.modules() if isinstance(m, nn.Linear)} if part is not None else set()
            inside |= linear
            adapted |= {name} if linear else set()
        # The output over the vocabulary is the largest matrix of all, and tied to the embeddings in many models.
        output = self.model.get_output_embeddings()
        names = [name for name, module in self.model.named_modules() if id(module) in inside and module is not output]
        if not names:
            raise CheckpointError(f"lora.parts {list(lora.parts)}: the model has no linear layer there")
        settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)
        self._adapters = [get_peft_model(self.model, settings)]
        return adapted

    def merge(self) -> None:
        """Add the adapters to the weights that they stand beside."""
        if self._adapters:
            self.model = self._adapters.pop().merge_and_unload()


def losses_of(answers: Tensor) -> dict[str, Tensor]:
    """The losses of a model that learns answers alone."""
    return {"answers": answers, "loss": answers}
