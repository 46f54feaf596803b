"""Recipes: everything that a training run is, as one TOML file. Unknown and wrong keys are refused by name."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.errors import ModelError
from training.recipe.data import DataSection

RECIPES = Path(__file__).parents[1] / "recipes"
"""Recipes that come with the program, to be copied."""
PARTS = ("vision_tower", "mm_projector", "llm", "longitudinal", "heads")


class RecipeError(ModelError):
    """A recipe that cannot be run; the message names the file and the key."""


class Objective(StrEnum):
    """The text that is learned."""

    HEADS = "heads"
    """Only the auxiliary heads' losses: warms the vision tower, the projector and the longitudinal extras up."""
    INSTRUCTIONS = "instructions"
    """Answers to questions; with heads.weight > 0 also the heads' losses."""


class TunedWeights(StrEnum):
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
    """The length of a run, and the weights that learn in it."""

    objective: Objective = Field(
        default=Objective.INSTRUCTIONS,
        description="`heads`: only the auxiliary heads' losses, which warm the vision tower, the projector and the "
        "longitudinal extras up; `instructions`: answers to questions; with heads.weight above 0 also these losses",
    )
    steps: int = Field(gt=0, description="Updates of the weights in the whole run.")
    seed: int = Field(default=0, description="Of the start, the order of the samples and the dropout.")
    tune: TunedWeights = Field(
        default=TunedWeights.FULL,
        description="`full`: every weight; `lora`: adapters in the parts of [lora], and the projector and the "
        "longitudinal extras; `projector`: the projector and the longitudinal extras only",
    )
    freeze: tuple[Literal["vision_tower", "mm_projector", "llm", "longitudinal"], ...] = Field(
        default=(), description="Parts that do not learn, whatever `tune` says."
    )
    log_every: int = Field(
        default=10, gt=0, description="Steps between two lines for people; log.jsonl has every step."
    )
    checkpoint_every: int = Field(default=200, gt=0, description="Steps between two checkpoints.")
    keep_checkpoints: int = Field(default=2, gt=0, description="Newest checkpoints that are kept.")
    tensorboard: bool = Field(default=False, description="Write for TensorBoard as well (extra `train`).")


class RecipeModelSection(_Section):
    """The start of the run."""

    start: str = Field(
        default="new",
        description="A checkpoint folder, a Hub id, or `new`: a small model of [architecture]. `--start` replaces it.",
    )
    revision: str | None = Field(default=None, description="Commit of a Hub id, 40 hexadecimal digits.")
    heads: str | None = Field(default=None, description="File of auxiliary heads to start from.")
    tiling: Literal["original", "always", "never"] = Field(
        default="never", description="When NVILA cuts an image into tiles; serving does the same."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Of the weights that do not learn; those that learn are float32."
    )
    longitudinal: dict[str, int | bool] = Field(
        default_factory=dict,
        description="Extras for an NVILA that has none: difference_tokens, no_prior_tokens, align, image_roles.",
    )


class ArchitectureSection(_Section):
    """A model that starts anew; the sizes are those of SiglipVisionConfig and Qwen2Config."""

    image_size: int = Field(default=160, description="Pixels on each side of the square that the tower sees.")
    patch_size: int = Field(default=16, description="Pixels on each side of a patch.")
    vision_width: int = Field(default=192, description="Width of the tower.")
    vision_layers: int = Field(default=6, description="Layers of the tower.")
    vision_heads: int = Field(default=4, description="Attention heads of the tower.")
    vision_feed: int = Field(default=512, description="Width of the tower's feed-forward layers.")
    text_width: int = Field(default=192, description="Width of the language model.")
    text_layers: int = Field(default=4, description="Layers of the language model.")
    text_heads: int = Field(default=4, description="Attention heads of the language model.")
    text_kv_heads: int = Field(default=2, description="Heads of its keys and values (grouped queries).")
    text_feed: int = Field(default=512, description="Width of its feed-forward layers.")
    difference_tokens: int = Field(
        default=25, description="Tokens of the difference feature, a square number; 0: none."
    )
    no_prior_tokens: int = Field(default=1, description='Learned tokens that say "no prior".')
    align: bool = Field(default=True, description="Align the prior with the current image before the difference.")
    image_roles: int = Field(default=2, description="Learned roles of the images: current, prior, those before.")
    vocabulary: int = Field(default=900, description="Tokens of the tokenizer that is trained for it.")


class OptimiserSection(_Section):
    """The updates of the weights. A step takes batch · accumulation · processes samples."""

    kind: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="`muon`: momentum with orthogonalised updates for the matrices of the transformers, AdamW for the "
        "rest at the same rates; for training from scratch. It needs whole matrices: not with FSDP or ZeRO-3.",
    )
    matrix_factor: float = Field(default=1.0, gt=0, description="With `muon`: factor on the rate of the matrices.")
    rate: float = Field(gt=0, description="Learning rate after the warm-up.")
    rates: dict[Literal["vision_tower", "mm_projector", "llm", "longitudinal", "heads"], float] = Field(
        default_factory=dict, description="Factor on the rate by part of the model."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled weight decay.")
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="Of AdamW.")
    warmup: float = Field(default=0.03, ge=0, le=1, description="Share of the steps in which the rate rises.")
    floor: float = Field(default=0.0, ge=0, le=1, description="Share of the rate at the end of its cosine.")
    clip: float = Field(default=1.0, gt=0, description="Greatest norm of the gradient.")
    batch: int = Field(default=16, gt=0, description="Samples of one micro-batch on one process.")
    accumulation: int = Field(default=1, gt=0, description="Micro-batches of one step.")
    precision: Literal["no", "bf16", "fp16"] = Field(default="bf16", description="Of the arithmetic; `no` is float32.")
    gradient_checkpointing: bool = Field(default=False, description="Compute activations again, for less memory.")
    attention: Literal["eager", "sdpa", "flash_attention_2"] = Field(
        default="sdpa", description="Implementation of attention in Transformers."
    )


class HeadsSection(_Section):
    """The auxiliary heads of NVILA, which learn beside the answers."""

    weight: float = Field(default=0.3, ge=0, description="Of all auxiliary losses beside the answers' loss.")
    presence: float = Field(default=1.0, description="Among them: is the finding there.")
    side: float = Field(default=0.5, description="Among them: on which side.")
    severity: float = Field(default=4.0, description="Among them: the degree.")
    change: float = Field(default=0.5, description="Among them: the change since the prior.")
    outline: float = Field(default=8.0, description="Among them: the region of the finding.")


class LoraSection(_Section):
    """Low-rank adapters, with the defaults published for NVILA. The projector learns whole where it has no adapter."""

    parts: tuple[Literal["llm", "vision_tower", "mm_projector"], ...] = Field(
        default=("llm",), min_length=1, description="Parts with adapters."
    )
    rank: int = Field(default=64, gt=0, description="Rank of an adapter.")
    alpha: int = Field(default=16, gt=0, description="Its scale is alpha / rank.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="On an adapter's input.")


class Recipe(_Section):
    """One run."""

    run: RunSection
    optimiser: OptimiserSection
    model: RecipeModelSection = RecipeModelSection()
    architecture: ArchitectureSection = ArchitectureSection()
    data: DataSection = DataSection()
    heads: HeadsSection = HeadsSection()
    lora: LoraSection = LoraSection()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.run.objective is Objective.HEADS and self.heads.weight == 0:
            raise ValueError("objective 'heads' needs heads.weight above 0")
        if self.run.objective is Objective.HEADS and self.run.tune is TunedWeights.LORA:
            raise ValueError("objective 'heads' does not touch the language model: tune 'lora' makes no sense")
        if self.data.features and ("vision_tower" not in self.run.freeze or self.model.start == "new"):
            raise ValueError("data.features stand for a tower that does not learn: add vision_tower to run.freeze")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; raises RecipeError naming the file, the key and what is allowed."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such file; recipes to copy lie in {RECIPES}") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: not a readable TOML file ({error})") from error
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{path}: {problems}") from error
