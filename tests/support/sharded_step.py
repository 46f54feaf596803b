"""One rank of two that hold half of a learner each: `… RECIPE CACHE OUT`, one step, gathered into OUT.

accelerate's function writes the checkpoint in parts beside OUT, in run/step-1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin, save_fsdp_model
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from training.data.sources import Place, source_of
from training.loop.nvila_learner import build
from training.phantom.render import PHANTOM_FINDINGS
from training.recipe.recipe import load_recipe


def main(recipe_path: Path, cache: Path, out: Path) -> None:
    """Step as this rank of those that the environment names."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    recipe, rank = load_recipe(recipe_path), dist.get_rank()
    learner, processor = build(recipe, len(PHANTOM_FINDINGS))
    layers = [m for m in learner.modules() if type(m).__name__ in ("SiglipEncoderLayer", "Qwen2DecoderLayer")]
    mesh = init_device_mesh("cpu", (2,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(learner, mesh=mesh)
    optimiser = torch.optim.SGD(learner.parameters(), lr=0.1)
    source = source_of(recipe, Place(work=out.parent / f"work-{rank}", size=32, cache=cache))
    batch = learner.collator(processor)([source.sample(2 * rank), source.sample(2 * rank + 1)])
    learner(batch)["loss"].backward()
    optimiser.step()
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    save_fsdp_model(plugin, PartialState(cpu=True), learner, str(out.parent / "run" / "step-1"))
    local = sum(p.to_local().numel() for p in cast("list[DTensor]", list(learner.parameters())))
    state: dict[str, Any] = get_model_state_dict(
        learner, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    if rank == 0:
        whole = sum(p.numel() for p in learner.parameters())
        assert local < 0.6 * whole, (local, whole)
        save_file({name: value.clone().contiguous() for name, value in state.items()}, out)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
