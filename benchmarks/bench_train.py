"""The training loop: samples for each second, peak memory, and where the time of a step goes: `make bench-train`.

Every configuration runs `training.loop.train.train` itself in a process of its own, on the same rendered phantom pairs.
Sections: data (what the loop waits for its next batch), forward and optimiser by hooks of torch, and the rest of the
step, which is the backward pass, clipping and the log. The first steps warm up and do not count.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.memory import own_peak_bytes  # noqa: E402
from training.loop.allocator import keep_freed_memory  # noqa: E402
from training.loop.learner import Learner  # noqa: E402
from training.loop.nvila_learner import new_model  # noqa: E402
from training.loop.train import train  # noqa: E402
from training.phantom.cache import fill  # noqa: E402
from training.recipe.recipe import Recipe, load_recipe  # noqa: E402

RECIPES = ROOT / "training" / "recipes"
PAIRS = 96
WARM = 2
SIZE_100M = {
    "image_size": 224, "patch_size": 14, "vision_width": 512, "vision_layers": 10, "vision_heads": 8,
    "vision_feed": 2048, "text_width": 768, "text_layers": 10, "text_heads": 12, "text_kv_heads": 4,
    "text_feed": 2304, "difference_tokens": 64,
}  # fmt: skip
CASES = ("demonstration, vision", "demonstration, answers", "100 M, answers")


def recipe_of(case: str, steps: int) -> Recipe:
    """The recipe of a case, from a new model of its architecture, for so many steps."""
    vision, answers = load_recipe(RECIPES / "demo-vision.toml"), load_recipe(RECIPES / "demo.toml")
    recipe = vision if case == CASES[0] else answers.model_copy(update={"architecture": vision.architecture})
    if case == CASES[2]:
        sizes = vision.architecture.model_copy(update=SIZE_100M)
        optimiser = recipe.optimiser.model_copy(update={"batch": 4})
        recipe = recipe.model_copy(update={"architecture": sizes, "optimiser": optimiser})
        recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"freeze": ()})})
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"steps": steps})})


def measure(case: str, steps: int, cache: Path, threads: int) -> dict[str, Any]:
    """Run one case in this process."""
    torch.set_num_threads(threads)
    keep_freed_memory()  # as `train run` does
    recipe = recipe_of(case, steps + WARM)
    forward, optimiser = _forward_seconds(), _optimiser_seconds()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        train(recipe, out, cache=cache, quiet=True)
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    total = lines[-1]["seconds"] - lines[WARM - 1]["seconds"]
    data = lines[-1]["data_seconds"] - lines[WARM - 1]["data_seconds"]
    steps_each = len(optimiser) // (steps + WARM)  # two optimisers step one after the other with "muon"
    ahead, turned = sum(forward[WARM:]), sum(optimiser[WARM * steps_each :])
    each = [b["seconds"] - a["seconds"] for a, b in zip(lines[WARM - 1 :], lines[WARM:], strict=False)]
    model, _ = new_model(recipe.architecture)
    return {
        "case": case,
        "parameters": sum(p.numel() for p in model.parameters()),
        "batch": recipe.optimiser.batch,
        "samples_per_second": recipe.optimiser.batch / statistics.median(each),
        "step_seconds": statistics.median(each),
        "shares": {
            "data": data / total,
            "forward": ahead / total,
            "optimiser": turned / total,
            "backward and rest": (total - data - ahead - turned) / total,
        },
        "peak_mb": own_peak_bytes() / 2**20,
        "cpu_share": os.times().user / max(os.times().elapsed - _START, 1e-9),
        "steps": steps,
    }


_START = os.times().elapsed


def _forward_seconds() -> list[float]:
    """Filled with the seconds of every forward pass of a learner from now on."""
    seconds: list[float] = []
    began: list[float] = []

    def before(module: nn.Module, _: Any) -> None:
        if isinstance(module, Learner):
            began.append(time.perf_counter())

    def after(module: nn.Module, _: Any, __: Any) -> None:
        if isinstance(module, Learner):
            seconds.append(time.perf_counter() - began.pop())

    nn.modules.module.register_module_forward_pre_hook(before)
    nn.modules.module.register_module_forward_hook(after)
    return seconds


def _optimiser_seconds() -> list[float]:
    """The same for every step of an optimiser."""
    seconds: list[float] = []
    began: list[float] = []
    register_optimizer_step_pre_hook(lambda *_: began.append(time.perf_counter()))
    register_optimizer_step_post_hook(lambda *_: seconds.append(time.perf_counter() - began.pop()))
    return seconds


def table(found: list[dict[str, Any]], threads: int) -> str:
    """The section of docs/benchmarks.md."""
    head = ["configuration", "parameters", "batch", "samples/s", "s a step", "data", "forward", "backward and rest",
            "optimiser", "peak memory"]  # fmt: skip
    rows = [head, ["---"] * len(head)]
    for one in found:
        shares = [f"{100 * one['shares'][name]:.0f} %" for name in head[5:9]]
        rows.append(
            [
                one["case"],
                f"{one['parameters'] / 1e6:.1f} M",
                str(one["batch"]),
                f"{one['samples_per_second']:.2f}",
                f"{one['step_seconds']:.2f}",
                *shares,
                f"{one['peak_mb']:.0f} MB",
            ]
        )
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    load = os.getloadavg()
    got = ", ".join(f"{one['cpu_share']:.2f}" for one in found)
    return (
        f"`make bench-train`, {dt.datetime.now(dt.UTC):%Y-%m-%d}, {os.cpu_count()} cores, {_processor()}, torch "
        f"{torch.__version__}, {threads} thread(s), bfloat16 autocast; load of the machine at the end {load[0]:.1f}, "
        f"cores that each case got: {got}. Medians of {found[0]['steps']} steps (the large one {found[-1]['steps']}) "
        f"after {WARM}; a sample is one sequence with its images and questions, drawn from {PAIRS} rendered pairs and "
        f"made in the loop's own process (`workers = 0`), so that `data` is all that drawing and collating costs."
        f"\n\n{lines}\n"
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cache", type=Path, help="phantom pairs; rendered where not given")
    parser.add_argument("--write", action="store_true", help="write the table to docs/benchmarks.md")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments.steps, arguments.cache, arguments.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        cache = arguments.cache or Path(folder)
        if arguments.cache is None:
            fill(cache, pairs=PAIRS, first_seed=6_000_000, size=SIZE_100M["image_size"])
        found = []
        for case in CASES:
            steps = arguments.steps if case != CASES[2] else max(2, arguments.steps // 3)
            command = [sys.executable, __file__, "--case", case, "--steps", str(steps), "--cache", str(cache),
                       "--threads", str(arguments.threads)]  # fmt: skip
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(found[-1]), flush=True)
    text = table(found, arguments.threads)
    print(text)
    if arguments.write:
        from benchmarks.bench_receive import write_section

        write_section(ROOT / "docs" / "benchmarks.md", "The training loop", text)


if __name__ == "__main__":
    main()
