"""The question battery of one pair by the engine, one question at a time, one alone, and the floor: `make bench-model`.

- engine: `Engine.ask`, all closed questions of a pair.
- floor: one plain forward pass over as many tokens (images once, prefix once, every suffix and answer token).
- one at a time: `model.generate` for each question, images and prefix again each time, as a plain client would ask.
- single: `model.generate` for one question.

Rounds are interleaved, so that a busy machine is busy for all of them; the table holds medians and ratios of medians.
Peak memory is that of a child process that does nothing but load the model and run the mode once.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, SiglipVisionConfig

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model.engine import ClosedAnswer, Engine, Job  # noqa: E402
from model.engine_plan import battery_tokens, packed_plan  # noqa: E402
from model.nvila import NvilaConfig, NvilaForConditionalGeneration, NvilaProcessor, Tiling, geometry_of  # noqa: E402
from model.nvila.checkpoint import generation_config  # noqa: E402
from model.ontology import ontology  # noqa: E402
from model.predict import load_predictor  # noqa: E402
from model.questions import battery  # noqa: E402
from model.vlm import NvilaVlm  # noqa: E402

MODES = ("engine", "floor", "one at a time", "single")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a random NVILA."""

    hidden: int
    feed: int
    layers: int
    heads: int
    kv_heads: int
    vision_hidden: int
    vision_feed: int
    vision_layers: int
    vision_heads: int
    vocabulary: int


SHAPES = {
    "100M": Shape(
        hidden=768,
        feed=2048,
        layers=12,
        heads=12,
        kv_heads=2,
        vision_hidden=512,
        vision_feed=2048,
        vision_layers=8,
        vision_heads=8,
        vocabulary=8192,
    ),
    "8B": Shape(
        hidden=3584,
        feed=18944,
        layers=28,
        heads=28,
        kv_heads=4,
        vision_hidden=1152,
        vision_feed=4304,
        vision_layers=27,
        vision_heads=16,
        vocabulary=151648,
    ),
}


def random_nvila(shape: Shape, device: str, dtype: torch.dtype) -> NvilaVlm:
    """A random NVILA of 448 px and 256 tokens for each image, with the test suite's small tokeniser."""
    from tests.model_nvila.tiny import nvila_tokenizer

    tokenizer = nvila_tokenizer()
    config = NvilaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=shape.vision_hidden,
            intermediate_size=shape.vision_feed,
            num_hidden_layers=shape.vision_layers,
            num_attention_heads=shape.vision_heads,
            image_size=448,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.feed,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
        ),
        image_token_id=shape.vocabulary + 1,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = NvilaForConditionalGeneration(config).eval()
    torch.set_default_dtype(torch.float32)
    processor = NvilaProcessor(tokenizer, geometry_of(config), tiling="never")
    model.config.image_token_id = processor.image_token_id
    model.generation_config = generation_config(tokenizer)
    return NvilaVlm(model, processor, Tiling.NEVER)


def load(name: str, device: str) -> tuple[NvilaVlm, tuple[str, ...]]:
    """The model of that name and the findings that it is asked."""
    if name in SHAPES:
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        return random_nvila(SHAPES[name], device, dtype), tuple(list(ontology().findings)[:9])
    predictor = load_predictor(name, device=device)
    assert isinstance(predictor.vlm, NvilaVlm)
    return predictor.vlm, predictor.findings


def job_of(vlm: NvilaVlm, findings: tuple[str, ...]) -> Job:
    """All closed questions on a pair of random pictures."""
    rng = np.random.default_rng(0)
    pictures = tuple(rng.integers(0, 256, (vlm.image_size, vlm.image_size), dtype=np.uint8) for _ in range(2))
    questions = tuple(question for question in battery(findings, with_prior=True) if question.allowed)
    return Job(pictures=pictures, layout=vlm.layout(priors=1), questions=questions)


def runners(vlm: NvilaVlm, job: Job) -> dict[str, Callable[[], Any]]:
    """Each mode as a function without arguments."""
    engine = Engine(vlm)
    tokens = battery_tokens(vlm, job.layout, job.questions)
    plan = packed_plan(tokens.questions)
    places = len(set(zip(plan.rows.tolist(), plan.columns.tolist(), strict=True)))
    longest = max(len(answer) for entry in tokens.questions for answer in entry.answers)

    def ask(text: str) -> str:
        inputs = vlm.inputs(vlm.prompt(job.layout, text), job.pictures)
        written = vlm.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        decoded: str = vlm.tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return decoded.strip()

    def floor() -> None:
        inputs = vlm.inputs(tokens.first_prompt, job.pictures)
        prefix = inputs["input_ids"][:, : -len(tokens.first_suffix)]
        ids = torch.cat([prefix, plan.ids[plan.offsets >= 0].to(prefix)[None]], dim=1)
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        vlm.model(**inputs, use_cache=False, logits_to_keep=places)

    return {
        "engine": lambda: engine.ask([job])[0],
        "floor": floor,
        "one at a time": lambda: [ask(question.text) for question in job.questions],
        "single": lambda: ask(job.questions[len(job.questions) // 2].text),
    }


def timed(run: Callable[[], Any], device: str) -> float:
    """Seconds of one run, the device's queue emptied before and after."""
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def best(answer: ClosedAnswer) -> str:
    """The likeliest allowed answer."""
    shares = answer.probabilities()
    return max(shares, key=lambda word: shares[word])


def every_nth(vlm: NvilaVlm) -> int:
    """Every how many questions the plain way is compared: it takes minutes on a big model and a CPU."""
    return 1 if sum(parameter.numel() for parameter in vlm.model.parameters()) < 3e7 else 8


def measure(name: str, device: str, rounds: int) -> dict[str, Any]:
    """Times of all modes, interleaved, and how far the answers agree."""
    vlm, findings = load(name, device)
    job = job_of(vlm, findings)
    modes = runners(vlm, job)
    tokens = battery_tokens(vlm, job.layout, job.questions)
    prefix = vlm.inputs(tokens.first_prompt, job.pictures)["input_ids"].shape[1] - len(tokens.first_suffix)
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    with torch.inference_mode():
        for mode in ("engine", "floor", "single"):
            modes[mode]()  # the first run compiles kernels and fills allocators
        for number in range(rounds):
            for mode in MODES:
                if mode != "one at a time" or number < max(1, rounds // 3):
                    times[mode].append(timed(modes[mode], device))
        answers = modes["engine"]()
        written = modes["one at a time"]()
        checked = Job(pictures=job.pictures, layout=job.layout, questions=job.questions[:: every_nth(vlm)])
        plain = Engine(vlm).ask_plainly(checked)
    scored = [best(answer) for answer in answers.closed.values()]
    pairs = [(answers.closed[key], answer) for key, answer in plain.closed.items()]
    return {
        "model": name,
        "parameters": sum(p.numel() for p in vlm.model.parameters()),
        "questions": len(job.questions),
        "prefix_tokens": prefix,
        "question_tokens": packed_plan(tokens.questions).token_count,
        "seconds": {mode: statistics.median(values) for mode, values in times.items()},
        "rounds": {mode: len(values) for mode, values in times.items()},
        "checked_plainly": len(pairs),
        "same_as_plain_scoring": sum(best(a) == best(b) for a, b in pairs),
        "same_as_generated": sum(
            question.parse(text) == answer
            for question, text, answer in zip(job.questions, written, scored, strict=True)
        ),
        "greatest_difference": max(
            float(np.abs(np.subtract(a.log_probabilities, b.log_probabilities)).max()) for a, b in pairs
        ),
    }


def peak_memory(name: str, mode: str, device: str) -> int:
    """Peak memory in bytes of a child that loads the model and runs one mode once: RSS, or device memory."""
    command = [sys.executable, __file__, "--child", mode, "--models", name, "--device", device]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return int(result.stdout.strip().splitlines()[-1])


def child(name: str, mode: str, device: str) -> None:
    """Print the peak memory of this process after one run of a mode; "load" runs nothing."""
    vlm, findings = load(name, device)
    if mode != "load":
        with torch.inference_mode():
            runners(vlm, job_of(vlm, findings))[mode]()
    if device == "cpu":
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    else:
        print(torch.cuda.max_memory_allocated())


def table(results: list[dict[str, Any]], memory: dict[str, dict[str, int]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| model | questions | tokens prefix + questions | mode | median s | × floor | × single | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        seconds = result["seconds"]
        for mode in MODES:
            peak = memory.get(result["model"], {}).get(mode)
            shown = f"{peak / 1e6:.0f}" if peak else "–"
            lines.append(
                f"| {result['model']} ({result['parameters'] / 1e6:.1f} M) | {result['questions']} | "
                f"{result['prefix_tokens']} + {result['question_tokens']} | {mode} | {seconds[mode]:.3f} | "
                f"{seconds[mode] / seconds['floor']:.2f} | {seconds[mode] / seconds['single']:.2f} | {shown} |"
            )
        lines.append(
            f"| | | | engine is {seconds['one at a time'] / seconds['engine']:.1f} × faster than one at a time; "
            f"same answer as plain scoring {result['same_as_plain_scoring']} of {result['checked_plainly']} (greatest "
            f"difference of a log-probability {result['greatest_difference']:.1e}), as greedy text "
            f"{result['same_as_generated']} of {result['questions']} | | | | |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run and print; --json writes the raw figures too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["demo", "100M"], help='"demo", a folder, "100M" or "8B"')
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.models[0], options.child, options.device)
        return
    results = [measure(name, options.device, options.rounds) for name in options.models]
    memory = {
        name: {mode: peak_memory(name, mode, options.device) for mode in MODES}
        for name in options.models
        if not options.no_memory
    }
    load_average = os.getloadavg()[0]
    print(
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {platform.machine()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {load_average:.1f}, {options.device}\n"
    )
    print(table(results, memory))
    if options.json:
        with tempfile.NamedTemporaryFile("w", dir=options.json.parent, delete=False) as stream:
            json.dump({"results": results, "memory": memory}, stream, indent=2)
        Path(stream.name).replace(options.json)


if __name__ == "__main__":
    main()
