"""From the parts of a sharded checkpoint (FSDP under accelerate) to a whole model, without the run's machines."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from accelerate.utils import merge_fsdp_weights
from safetensors.torch import load_file
from torch import Tensor

from model.errors import CheckpointError
from training.loop.nvila_learner import build, export, restore_learner
from training.recipe.recipe import Recipe

PARTS: Final = "pytorch_model_fsdp_0"
"""accelerate's folder for the parts of the model, in a checkpoint of a run with SHARDED_STATE_DICT."""
_QUERIES: Final = "heads.queries"


def merge_parts(checkpoint: Path) -> dict[str, Tensor]:
    """The whole weights of a checkpoint `step-N` that was saved in parts. Raises CheckpointError.

    All of them are in main memory at once.
    """
    parts = checkpoint / PARTS
    # Torch writes it last: without it the parts may lack some.
    if not (parts / ".metadata").is_file():
        raise CheckpointError(f"{checkpoint}: holds no {PARTS}, so it was not saved in parts, or not to its end")
    with TemporaryDirectory(prefix="merged-", dir=checkpoint.parent) as folder:
        try:
            merge_fsdp_weights(str(parts), folder)
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{parts}: cannot be merged: {error}") from error
        state: dict[str, Tensor] = {}
        for path in sorted(Path(folder).glob("*.safetensors")):
            state |= load_file(path)
    return state


def merge_run(checkpoint: Path, to: Path) -> int:
    """Write the model of a sharded checkpoint RUN/step-N into a folder, as the end of the run would have.

    Returns the number of weights. Raises CheckpointError where parts are missing or do not fit the run's recipe.
    """
    if to.exists():
        raise CheckpointError(f"{to}: exists already; name a new folder")
    try:
        recipe = Recipe.model_validate_json((checkpoint.parent / "recipe.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.parent}: no recipe.json of a run: {error}") from error
    state = merge_parts(checkpoint)
    # The recipe does not say how many findings there are; the heads have one query for each.
    findings = len(state[_QUERIES]) if _QUERIES in state else 0
    learner = restore_learner(recipe, findings, state)
    _, processor = build(recipe, findings)
    export(learner, processor, to)
    return len(state)
