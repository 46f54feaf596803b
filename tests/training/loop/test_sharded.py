"""Weights in parts over two ranks (FSDP on gloo): the same step as on one, gathered into a whole model again.

accelerate offers FSDP only where there is an accelerator, so torch's own sharding is used here on the learner that the
loop trains. The checkpoint in parts is written by accelerate's own function, and merged and loaded by ours; its
configuration file is not covered.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.errors import CheckpointError
from model.nvila import load_nvila
from tests.support.common import free_port
from tests.support.forked import ForkedProcess
from tests.support.records import recipe_of
from training.data.sources import Place, source_of
from training.loop.merge import merge_parts, merge_run
from training.loop.nvila_learner import build, export, restore_learner
from training.phantom.cache import fill
from training.phantom.render import PHANTOM_FINDINGS


def test_two_ranks_hold_half_each_and_step_as_one(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "turns = 2\nstreams = { difference = 1.0 }", steps=1)
    cache, out = tmp_path / "cache", tmp_path / "gathered.safetensors"
    fill(cache, pairs=4, first_seed=500, size=32)
    arguments = [str(tmp_path / "recipe.toml"), str(cache), str(out)]
    everywhere = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    everywhere |= {"GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    log = tmp_path / "log.txt"
    processes = [
        ForkedProcess(
            "tests.support.sharded_step",
            arguments,
            log=log,
            environment=os.environ | everywhere | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=280) for process in processes] == [0, 0], log.read_text("utf-8")[-3000:]
    finally:
        for process in processes:
            process.kill()

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
