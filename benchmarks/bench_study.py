"""Seconds from a complete study on disk to the bytes of its reports, as the worker does it: part of `make bench-model`.

Synthetic prior and current studies of usual size; decoding in the worker's child process, the model in its own process,
view check, choice of the prior, prediction with regions, both documents built and written. Not in it: the quiet period
that makes a study complete, the worker's poll, and the network.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from dicom_node.analysis.prepared import AnalysisInputs
from dicom_node.analysis.stored_images import read_stored
from dicom_node.analysis.study import analyse_study
from dicom_node.config import ModelSection
from dicom_node.priors.types import PriorPolicy
from dicom_node.report.documents import build_documents
from dicom_node.serving.model_process import InferenceProcess
from model.images.sandbox import decode_in_child
from training.phantom.dicom import write_study_pair

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def study_seconds(current: Path, prior: Path | None, setting: AnalysisInputs) -> tuple[float, dict[str, float]]:
    """One study: wall seconds to the last byte, and the predictor's own stages."""
    started = time.perf_counter()
    images = [read_stored(current)]
    earlier = [read_stored(prior)] if prior is not None else []
    stages: dict[str, float] = {}
    for request in analyse_study(images, earlier, setting):
        if request.prediction is not None:
            stages = dict(request.prediction.seconds)
        for document in build_documents(request):
            document.dataset.save_as(io.BytesIO(), enforce_file_format=True)
    return time.perf_counter() - started, stages


def main() -> None:
    """Run and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="demo")
    parser.add_argument("--studies", type=int, default=20)
    options = parser.parse_args()
    model = InferenceProcess(ModelSection(source=options.source), source=lambda: options.source)
    setting = AnalysisInputs(
        predictor=model,
        decode=decode_in_child,
        policy=PriorPolicy(),
        produced_at=START,
    )
    times: dict[str, list[float]] = {"pair": [], "no prior": []}
    stages: list[dict[str, float]] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(options.studies + 1):
                pair = write_study_pair(Path(folder) / str(number), number)
                seconds, parts = study_seconds(pair.current.files[0], pair.prior.files[0], setting)
                alone, _ = study_seconds(pair.current.files[0], None, setting)
                if number:  # the first study loads the model
                    times["pair"].append(seconds)
                    times["no prior"].append(alone)
                    stages.append(parts)
    finally:
        model.close()
    print(
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f}\n\n| study | n | p50 s | p95 s | greatest s |\n|---|---|---|---|---|"
    )
    for name, values in times.items():
        ordered = sorted(values)
        p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        print(f"| {name} | {len(values)} | {statistics.median(values):.2f} | {p95:.2f} | {ordered[-1]:.2f} |")
    medians = {stage: statistics.median(part.get(stage, 0.0) for part in stages) for stage in stages[0]}
    print("\nmedian of the model's own stages: " + ", ".join(f"{k} {v:.3f} s" for k, v in medians.items()))


if __name__ == "__main__":
    main()
