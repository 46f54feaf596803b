"""The question battery of one pair by the engine, one question at a time, one alone, and the floor: `make bench-model`.

- engine: `Engine.ask`, all closed questions of a pair.
- floor: one plain forward pass over images once, prefix once, and every question's own and answer tokens, none shared.
- one at a time: `model.generate` for each question, images and prefix again each time, as a plain client would ask;
  from a billion parameters on every eighth question is asked and the time scaled, which the table says.
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
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.memory import own_peak_bytes  # noqa: E402
from benchmarks.shapes import DTYPES, SHAPES, Where, load  # noqa: E402
from model.engine.answers import ClosedAnswer, EngineJob  # noqa: E402
from model.engine.engine import Engine  # noqa: E402
from model.engine.plan import BatteryTokens, battery_tokens, pack_plan  # noqa: E402
from model.engine.vlm import NvilaVlm  # noqa: E402
from model.questions.battery import battery  # noqa: E402

MODES = ("engine", "floor", "one at a time", "single")


def job_of(vlm: NvilaVlm, findings: tuple[str, ...]) -> EngineJob:
    """All closed questions on a pair of random pictures."""
    rng = np.random.default_rng(0)
    pictures = tuple(rng.integers(0, 256, (vlm.image_size, vlm.image_size), dtype=np.uint8) for _ in range(2))
    questions = tuple(question for question in battery(findings, with_prior=True) if question.allowed)
    return EngineJob(pictures=pictures, layout=vlm.layout(priors=1), questions=questions)


def tokens_behind(tokens: BatteryTokens) -> list[int]:
    """Every question's own tokens and its answers' (a beginning that answers share once), one after the other."""
    found: list[int] = []
    for entry in tokens.questions:
        inner = {answer[:depth] for answer in entry.answers for depth in range(1, len(answer))}
        found += [*entry.suffix, *(path[-1] for path in sorted(inner))]
    return found


def runners(vlm: NvilaVlm, job: EngineJob) -> dict[str, Callable[[], Any]]:
    """Each mode as a function without arguments."""
    engine = Engine(vlm)
    tokens = battery_tokens(vlm, job.layout, job.questions)
    plan = pack_plan(tokens.questions)
    places = len(set(zip(plan.rows.tolist(), plan.columns.tolist(), strict=True)))
    longest = max(len(answer) for entry in tokens.questions for answer in entry.answers)

    every = asked_every(vlm)

    def ask(text: str) -> str:
        inputs = vlm.inputs(vlm.prompt(job.layout, text), job.pictures)
        written = vlm.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        decoded: str = vlm.tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return decoded.strip()

    behind = torch.tensor(tokens_behind(tokens))

    def floor() -> None:
        inputs = vlm.inputs(tokens.first_prompt, job.pictures)
        prefix = inputs["input_ids"][:, : -len(tokens.first_suffix)]
        ids = torch.cat([prefix, behind.to(prefix)[None]], dim=1)
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        vlm.model(**inputs, use_cache=False, logits_to_keep=places)

    return {
        "engine": lambda: engine.ask([job])[0],
        "floor": floor,
        "one at a time": lambda: [ask(question.text) for question in job.questions[::every]],
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


def parameters(vlm: NvilaVlm) -> int:
    """The number of parameters of the model."""
    return sum(parameter.numel() for parameter in vlm.model.parameters())


def checked_every(vlm: NvilaVlm) -> int:
    """Every how many questions the plain way is compared: it takes minutes on a big model and a CPU."""
    return 1 if parameters(vlm) < 3e7 else 8


def asked_every(vlm: NvilaVlm) -> int:
    """Every how many questions one at a time are asked."""
    return 1 if parameters(vlm) < 1e9 else 8


def measure(name: str, where: Where, rounds: int) -> dict[str, Any]:
    """Times of all modes, interleaved, and how far the answers agree."""
    vlm, findings = load(name, where)
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
                    times[mode].append(timed(modes[mode], where.device))
        answers = modes["engine"]()
        written = modes["one at a time"]() if asked_every(vlm) == 1 else []
        checked = EngineJob(pictures=job.pictures, layout=job.layout, questions=job.questions[:: checked_every(vlm)])
        plain = Engine(vlm).ask_plainly(checked)
    pairs = [(answers.closed[key], answer) for key, answer in plain.closed.items()]
    asked = len(job.questions[:: asked_every(vlm)])
    seconds = {mode: statistics.median(values) for mode, values in times.items()}
    seconds["one at a time"] *= len(job.questions) / asked
    return {
        "model": name,
        "parameters": parameters(vlm),
        "questions": len(job.questions),
        "asked_one_at_a_time": asked,
        "prefix_tokens": prefix,
        "question_tokens": len(tokens_behind(tokens)),
        "trie_tokens": pack_plan(tokens.questions).token_count,
        "seconds": seconds,
        "rounds": {mode: len(values) for mode, values in times.items()},
        "checked_plainly": len(pairs),
        "same_as_plain_scoring": sum(best(a) == best(b) for a, b in pairs),
        "generated": len(written),
        "same_as_generated": same_as_generated(job, written, answers.closed.values()),
        "greatest_difference": max(
            float(np.abs(np.subtract(a.log_probabilities, b.log_probabilities)).max()) for a, b in pairs
        ),
        "peak_bytes": own_peak_bytes() if where.device == "cpu" else torch.cuda.max_memory_allocated(),
    }


def same_as_generated(job: EngineJob, written: list[str], scored: Iterable[ClosedAnswer]) -> int:
    """The number of questions whose generated answer is the one with the best score."""
    pairs = zip(job.questions, written, map(best, scored), strict=bool(written))
    return sum(question.parse(text) == answer for question, text, answer in pairs)


def peak_memory(name: str, mode: str, where: Where) -> int:
    """Peak memory in bytes of a child that loads the model and runs one mode once: RSS, or device memory."""
    command = [sys.executable, __file__, "--child", mode, "--models", name, *where.arguments()]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return int(result.stdout.strip().splitlines()[-1])


def child(name: str, mode: str, where: Where) -> None:
    """Print the peak memory of this process after one run of a mode; "load" runs nothing."""
    vlm, findings = load(name, where)
    if mode != "load":
        with torch.inference_mode():
            runners(vlm, job_of(vlm, findings))[mode]()
    if where.device == "cpu":
        print(own_peak_bytes())
    else:
        print(torch.cuda.max_memory_allocated())


def agreement(result: dict[str, Any]) -> str:
    """The speed-up, and the share of answers on which the modes agree, as a sentence."""
    seconds, asked = result["seconds"], result["asked_one_at_a_time"]
    scaled = "" if asked == result["questions"] else f" (scaled from {asked} questions)"
    text = result["generated"]
    return (
        f"engine is {seconds['one at a time'] / seconds['engine']:.1f} × faster than one at a time{scaled}; "
        f"same answer as plain scoring {result['same_as_plain_scoring']} of {result['checked_plainly']} "
        f"(greatest difference of a log-probability {result['greatest_difference']:.1e})"
        + (f", as greedy text {result['same_as_generated']} of {text}" if text else "")
        + f"; peak of the whole run {result['peak_bytes'] / 1e6:.0f} MB"
    )


def table(results: list[dict[str, Any]], memory: dict[str, dict[str, int]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| model | questions | tokens: prefix + questions (their trie) | mode | median s | × floor | × single | MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        seconds = result["seconds"]
        for mode in MODES:
            peak = memory.get(result["model"], {}).get(mode)
            shown = f"{peak / 1e6:.0f}" if peak else "–"
            lines.append(
                f"| {result['model']} ({result['parameters'] / 1e6:.1f} M) | {result['questions']} | "
                f"{result['prefix_tokens']} + {result['question_tokens']} ({result['trie_tokens']}) | {mode} | "
                f"{seconds[mode]:.3f} | {seconds[mode] / seconds['floor']:.2f} | "
                f"{seconds[mode] / seconds['single']:.2f} | {shown} |"
            )
        lines.append(f"| | | | {agreement(result)} | | | | |")
    return "\n".join(lines)


def _shape(text: str) -> str:
    """The name of a shape, however it is capitalised."""
    name = text.upper()
    if name not in SHAPES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SHAPES)}")
    return name


def main() -> None:
    """Run and print; --json writes the raw figures too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["demo", "100M"], help='"demo", a folder, "100M" or "8B"')
    parser.add_argument("--shape", type=_shape, help="the same for one random shape: 100m or 8b")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--dtype", choices=DTYPES, help="without it fp32 on a cpu, else bf16")
    parser.add_argument("--layers", type=int, help="of each tower of a random shape, where all do not fit")
    parser.add_argument("--tokenizer", type=Path, help="folder of a random shape's tokenizer, for true token counts")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: this torch sees no accelerator")
    names = [options.shape] if options.shape else options.models
    dtype = DTYPES[options.dtype] if options.dtype else None
    where = Where(device=options.device, dtype=dtype, layers=options.layers, tokenizer=options.tokenizer)
    if options.child:
        child(names[0], options.child, where)
        return
    results = [measure(name, where, options.rounds) for name in names]
    memory = {name: {mode: peak_memory(name, mode, where) for mode in MODES} for name in names if not options.no_memory}
    load_average = os.getloadavg()[0]
    print(
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {platform.machine()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {load_average:.1f}, {options.device}, "
        f"{where.number_type}{f', {options.layers} layers' if options.layers else ''}\n"
    )
    print(table(results, memory))
    if options.json:
        with tempfile.NamedTemporaryFile("w", dir=options.json.parent, delete=False) as stream:
            json.dump({"results": results, "memory": memory}, stream, indent=2)
        Path(stream.name).replace(options.json)


if __name__ == "__main__":
    main()
