"""Recipes: everything that a training run is, as one TOML file. Unknown and wrong keys are refused by name."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.errors import ModelError
from training.recipe.data import DataSection

PARTS = ("vision_tower", "mm_projector", "llm", "longitudinal", "heads")


class RecipeError(ModelError):
    """A recipe that cannot be run; the message names the file and the key."""


class Objective(StrEnum):
    """The text that is learned."""

    HEADS = "heads"
    """Only the auxiliary heads' losses: warms the vision tower, the projector and the longitudinal extras up."""
    INSTRUCTIONS = "instructions"
    """Answers to questions; with heads.weight > 0 also the heads' losses."""


class Tune(StrEnum):
    """The weights that are learned."""

    FULL = "full"
    """All of them."""
    LORA = "lora"
    """Low-rank adapters in the language model, and the projector and the longitudinal extras."""
    PROJECTOR = "projector"
    """The projector and the longitudinal extras only."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunSection(_Section):
    """[run] freeze: parts that do not learn, whatever `tune` says."""

    objective: Objective = Objective.INSTRUCTIONS
    steps: int = Field(gt=0)
    seed: int = 0
    tune: Tune = Tune.FULL
    freeze: tuple[Literal["vision_tower", "mm_projector", "llm", "longitudinal"], ...] = ()
    log_every: int = Field(default=10, gt=0)
    checkpoint_every: int = Field(default=200, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    tensorboard: bool = False


class ModelSection(_Section):
    """[model] start: a checkpoint folder or a Hub id (with the commit `revision`), or "new" for the small architecture
    of `architecture`. heads: file of auxiliary heads to go on from. tiling: when NVILA cuts an image into tiles.
    dtype: of the weights that do not learn; those that do are float32. longitudinal: extras for an NVILA start that
    has none (difference_tokens, no_prior_tokens, align, image_roles)."""

    start: str = "new"
    revision: str | None = None
    heads: str | None = None
    tiling: Literal["original", "always", "never"] = "never"
    dtype: Literal["float32", "bfloat16"] = "float32"
    longitudinal: dict[str, int | bool] = Field(default_factory=dict)


class ArchitectureSection(_Section):
    """[architecture] of a model that starts anew; sizes as in SiglipVisionConfig and Qwen2Config."""

    image_size: int = 160
    patch_size: int = 16
    vision_width: int = 192
    vision_layers: int = 6
    vision_heads: int = 4
    vision_feed: int = 512
    text_width: int = 192
    text_layers: int = 4
    text_heads: int = 4
    text_kv_heads: int = 2
    text_feed: int = 512
    difference_tokens: int = 25
    no_prior_tokens: int = 1
    align: bool = True
    image_roles: int = 2
    vocabulary: int = 900


class OptimiserSection(_Section):
    """[optimiser] rate: learning rate; rates: factor on it by part of the model. batch: samples of one micro-batch on
    one rank; a step takes batch * accumulation * ranks of them. kind: "adamw", or "muon": momentum with orthogonalised
    updates for the matrices of the transformers, AdamW for everything else at the same rates; for training from
    scratch. It needs whole matrices, so it does not go with FSDP or ZeRO-3."""

    kind: Literal["adamw", "muon"] = "adamw"
    matrix_factor: float = Field(default=1.0, gt=0)
    """With "muon": factor on the rate of the matrices."""

    rate: float = Field(gt=0)
    rates: dict[Literal["vision_tower", "mm_projector", "llm", "longitudinal", "heads"], float] = Field(
        default_factory=dict
    )
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = Field(default=0.03, ge=0, le=1)
    floor: float = Field(default=0.0, ge=0, le=1)
    clip: float = Field(default=1.0, gt=0)
    batch: int = Field(default=16, gt=0)
    accumulation: int = Field(default=1, gt=0)
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    gradient_checkpointing: bool = False
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"


class HeadsSection(_Section):
    """[heads] weight of the auxiliary losses, and of each among them."""

    weight: float = Field(default=0.3, ge=0)
    presence: float = 1.0
    side: float = 0.5
    severity: float = 4.0
    change: float = 0.5
    outline: float = 8.0


class LoraSection(_Section):
    """[lora] as published for NVILA. parts: which get adapters; the projector learns as a whole where it gets none."""

    parts: tuple[Literal["llm", "vision_tower", "mm_projector"], ...] = Field(default=("llm",), min_length=1)
    rank: int = Field(default=64, gt=0)
    alpha: int = Field(default=16, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)


class Recipe(_Section):
    """One run."""

    run: RunSection
    optimiser: OptimiserSection
    model: ModelSection = ModelSection()
    architecture: ArchitectureSection = ArchitectureSection()
    data: DataSection = DataSection()
    heads: HeadsSection = HeadsSection()
    lora: LoraSection = LoraSection()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.run.objective is Objective.HEADS and self.heads.weight == 0:
            raise ValueError("objective 'heads' needs heads.weight above 0")
        if self.run.objective is Objective.HEADS and self.run.tune is Tune.LORA:
            raise ValueError("objective 'heads' does not touch the language model: tune 'lora' makes no sense")
        if self.data.features and ("vision_tower" not in self.run.freeze or self.model.start == "new"):
            raise ValueError("data.features stand for a tower that does not learn: add vision_tower to run.freeze")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; raises RecipeError naming the file, the key and what is allowed."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: not a readable TOML file ({error})") from error
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{path}: {problems}") from error
