"""Seconds from a complete study on disk to its reports, alone, beside a training that makes way, and beside one that
does not: `make bench-retrain`.

The study as in `bench_study.py`. The training is the recipe `demo-vision.toml` on a few phantom pairs, a process of its
own at the niceness of [retrain]. It makes way as on a node: a file exists while a study is in work, and for 2 s after
it. The three ways take turns in blocks of studies, so that other work on the machine falls on all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench_study import START, study_seconds
from dicom_node.analysis.prepared import AnalysisInputs
from dicom_node.config import ModelSection, RetrainSection
from dicom_node.priors.types import PriorPolicy
from dicom_node.retrain.scheduled_run import PAUSE_VARIABLE, QUIET_SECONDS
from dicom_node.serving.model_process import InferenceProcess
from model.images.sandbox import decode_in_child
from training.phantom.dicom import PhantomStudies, write_study_pair

WAYS = ("alone", "beside a training that makes way", "beside a training that does not")
RECIPE = Path(__file__).resolve().parent.parent / "training" / "recipes" / "demo-vision.toml"


@contextlib.contextmanager
def training(folder: Path, pairs: int) -> Iterator[Path]:
    """A training without end at the configured priority; gives the file that makes it wait."""
    pause, cache = folder / "training.pause", folder / "cache"
    make = [sys.executable, "-m", "training.phantom.cache", str(cache), "--pairs", str(pairs)]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    nice, out = RetrainSection().nice, folder / "out"
    command = [sys.executable, "-m", "training.loop.train", str(RECIPE), "--cache", str(cache), "--out", str(out)]
    with (folder / "training.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--threads", "1"],
            stdout=log,
            stderr=log,
            env=os.environ | {PAUSE_VARIABLE: str(pause)},
            preexec_fn=lambda: os.nice(nice) and None,
        )
    try:
        while not (out / "log.jsonl").is_file() or not (out / "log.jsonl").stat().st_size:
            if process.poll() is not None:
                raise SystemExit((folder / "training.log").read_text())
            time.sleep(0.2)
        yield pause
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Run and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="demo")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--studies", type=int, default=5, help="in each block")
    parser.add_argument("--pairs", type=int, default=48, help="phantom pairs of the training")
    options = parser.parse_args()
    model = InferenceProcess(ModelSection(source=options.source), source=lambda: options.source)
    setting = AnalysisInputs(predictor=model, decode=decode_in_child, policy=PriorPolicy(), produced_at=START)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = [write_study_pair(Path(folder) / str(n), n) for n in range(options.studies)]
            study_seconds(made[0].current.files[0], made[0].prior.files[0], setting)  # loads the model
            with training(Path(folder), options.pairs) as pause:
                for _ in range(options.blocks):
                    for way in WAYS:
                        times[way] += block(way, made, setting, pause)
    finally:
        model.close()
    report(times, options.source)


def block(way: str, made: list[PhantomStudies], setting: AnalysisInputs, pause: Path) -> list[float]:
    """Each study once. Alone: the training waits all the while."""
    seconds = []
    if way == WAYS[0]:
        pause.touch()
        time.sleep(5.0)  # a step that has begun
    for pair in made:
        if way == WAYS[1]:
            pause.touch()
        taken, _ = study_seconds(pair.current.files[0], pair.prior.files[0], setting)
        seconds.append(taken)
        if way == WAYS[1]:
            time.sleep(QUIET_SECONDS)
            pause.unlink(missing_ok=True)
        if way != WAYS[0]:
            time.sleep(3.0)  # the training gets on
    pause.unlink(missing_ok=True)
    return seconds


def report(times: dict[str, list[float]], source: str) -> None:
    """The table."""
    print(
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {platform.machine()}, model {source}, "
        f"load {os.getloadavg()[0]:.1f}\n\n| study | n | p50 s | p95 s | greatest s |\n|---|---|---|---|---|"
    )
    for name, values in times.items():
        ordered = sorted(values)
        p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        print(f"| {name} | {len(values)} | {statistics.median(values):.2f} | {p95:.2f} | {ordered[-1]:.2f} |")


if __name__ == "__main__":
    main()
