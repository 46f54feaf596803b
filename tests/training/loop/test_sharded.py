"""Weights in parts over two ranks (FSDP on gloo): the same step as on one, gathered into a whole model again.

accelerate offers FSDP only where there is an accelerator, so torch's own sharding is used here on the learner that the
loop trains. The checkpoint in parts is written by accelerate's own function, and merged and loaded by ours; its
configuration file is not covered.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.errors import CheckpointError
from model.nvila import load_nvila
from tests.support.common import REPOSITORY
from tests.support.records import recipe_of
from training.data.sources import Place, source_of
from training.loop.merge import merge_parts, merge_run
from training.loop.nvila_learner import build, export, restore_learner
from training.phantom.cache import fill
from training.phantom.render import PHANTOM_FINDINGS

STEP = """
import sys
import torch, torch.distributed as dist
from pathlib import Path
from safetensors.torch import save_file
from accelerate import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin, save_fsdp_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from training.phantom.render import PHANTOM_FINDINGS
from training.recipe.recipe import load_recipe
from training.data.sources import Place, source_of
from training.loop.nvila_learner import build

recipe, cache, out = load_recipe(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
learner, processor = build(recipe, len(PHANTOM_FINDINGS))
layers = [m for m in learner.modules() if type(m).__name__ in ("SiglipEncoderLayer", "Qwen2DecoderLayer")]
mesh = dist.init_device_mesh("cpu", (2,))
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
local = sum(p.to_local().numel() for p in learner.parameters())
state = get_model_state_dict(learner, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
if rank == 0:
    whole = sum(p.numel() for p in learner.parameters())
    assert local < 0.6 * whole, (local, whole)
    save_file({name: value.clone().contiguous() for name, value in state.items()}, out)
dist.barrier()
dist.destroy_process_group()
"""


def test_two_ranks_hold_half_each_and_step_as_one(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "turns = 2\nstreams = { difference = 1.0 }", steps=1)
    cache, out = tmp_path / "cache", tmp_path / "gathered.safetensors"
    fill(cache, pairs=4, first_seed=500, size=32)
    script = tmp_path / "step.py"
    script.write_text(STEP, "utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(REPOSITORY),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [*launch, str(script), str(tmp_path / "recipe.toml"), str(cache), str(out)]
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        code = process.wait(timeout=280)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the launcher's ranks would outlive it
        raise
    assert code == 0, log.read_text()[-3000:]

    learner, processor = build(recipe, len(PHANTOM_FINDINGS))
    optimiser = torch.optim.SGD(learner.parameters(), lr=0.1)
    source = source_of(recipe, Place(work=tmp_path / "work", size=32, cache=cache))
    collate = learner.collator(processor)
    for rank in range(2):
        loss = learner(collate([source.sample(2 * rank), source.sample(2 * rank + 1)]))["loss"]
        (loss / 2).backward()
    optimiser.step()
    gathered = load_file(out)
    expected = learner.state_dict()
    for name, value in gathered.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)
    assert set(expected) - set(gathered) <= {name for name in expected if name.endswith("lm_head.weight")}

    merged = merge_parts(tmp_path / "run/step-1")
    assert merged.keys() == gathered.keys()
    assert all(torch.equal(merged[name], value) for name, value in gathered.items())
    (tmp_path / "run/recipe.json").write_text(recipe.model_dump_json(), "utf-8")
    assert merge_run(tmp_path / "run/step-1", tmp_path / "merged") == len(gathered)
    with pytest.raises(CheckpointError, match="exists already"):
        merge_run(tmp_path / "run/step-1", tmp_path / "merged")
    (tmp_path / "run/step-1/pytorch_model_fsdp_0/.metadata").unlink()
    with pytest.raises(CheckpointError, match="not saved in parts, or not to its end"):
        merge_run(tmp_path / "run/step-1", tmp_path / "again")

    whole = restore_learner(recipe, len(PHANTOM_FINDINGS), gathered)
    export(whole, processor, tmp_path / "final")
    saved = load_file(tmp_path / "final" / "model.safetensors")
    assert all(torch.equal(value, whole.model.state_dict()[name]) for name, value in saved.items())
    opened, _ = load_nvila(tmp_path / "merged", dtype=torch.float32)
    assert all(torch.equal(value, opened.state_dict()[name]) for name, value in saved.items())
