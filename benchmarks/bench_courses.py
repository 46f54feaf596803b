"""Processor seconds of studies of 1, 2, 4 and 8 films with prognosis, beside a pair without; for `make bench-model`.

One phantom course of eight films; one thread; the cases take turns in one run, so that a busy machine slows all alike.
Processor time and not wall time, because other work may take the cores.
"""

from __future__ import annotations

import argparse
import datetime as dt
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from model.predict import Predictor, load_predictor
from model.schema import DisplayImage, StudyPair
from training.phantom.course import sample_story
from training.readers.phantom import COURSE, load_phantom_image

FIRST_DAY = dt.datetime(2026, 1, 5)  # noqa: DTZ001 (DICOM local time has no zone)
FILMS = (1, 2, 4, 8)


def course(films: int = max(FILMS), *, first_seed: int = 9_100_000) -> list[DisplayImage]:
    """The films of the first course with so many, dated."""
    seed = next(seed for seed in range(first_seed, first_seed + 1000) if len(sample_story(seed).seen) == films)
    cadence = sample_story(seed).cadence
    return [
        replace(load_phantom_image(f"{COURSE}{seed}/{place}"), acquired=FIRST_DAY + dt.timedelta(days=place * cadence))
        for place in range(films)
    ]


def study(images: list[DisplayImage], films: int) -> StudyPair:
    """The study of the last `films` images."""
    return StudyPair(current=images[-1], prior=images[-2], earlier=tuple(images[:-2])).newest(films)


def cases(predictor: Predictor, bare: Predictor, images: list[DisplayImage]) -> dict[str, Callable[[], object]]:
    """Name → the work."""
    work: dict[str, Callable[[], object]] = {
        "pair, no prognosis": partial(bare.predict, study(images, 2)),
        "8 films, no prognosis": partial(bare.predict, study(images, 8)),
    }
    for films in FILMS:
        work[f"{films} film{'s' if films > 1 else ''}, with prognosis"] = partial(
            predictor.predict, study(images, films)
        )
    return work


def main() -> None:
    """Run and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="demo")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    predictor, bare = load_predictor(options.source), load_predictor(options.source)
    bare.foresight = None
    work = cases(predictor, bare, course())
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(options.rounds + 1):
        for name, run in work.items():
            started = time.process_time()
            run()
            if turn:  # the first round warms up
                times[name].append(time.process_time() - started)
    pair = statistics.median(times["pair, no prognosis"])
    print(f"{predictor.manifest.label}, {options.rounds} rounds, processor seconds of one thread, median\n")
    print("| study | seconds | times today's pair |\n|---|---|---|")
    for name, taken in times.items():
        print(f"| {name} | {statistics.median(taken):.2f} | {statistics.median(taken) / pair:.2f} |")


if __name__ == "__main__":
    main()
