"""The process that trains and evaluates: `python -m dicom_node.retrain.subprocess_main STAGE FOLDER PARENT`, at low
priority.

All it needs stands in the folder's plan, and all it makes lies there: it may be killed at any moment and started again.
It ends with the process that started it, so that two never work in one folder. Only here is torch imported.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from dicom_node.retrain.file_names import ERROR_FILE, PROBE_FILE
from dicom_node.retrain.plan import Plan, read_plan
from dicom_node.retrain.stages import STOPPED, Stage, StageProgress, Stopped
from dicom_node.retrain.types import RetrainError
from dicom_node.system.child_process import end_with_parent
from model.errors import ModelError
from training.loop.pause import Between, breaks_from_environment
from training.records.drops import DataError, DropReport
from training.records.record import Record

if TYPE_CHECKING:
    from training.evaluation.evaluate import EvaluatedPredictor

TRAINED_MARK = "trained"
"""Beside the trained model: without it the folder `final` may be half-written."""
PROBE_STEPS, PROBE_PAIRS = 4, 2


def main(stage: Stage, folder: Path, parent_pid: int) -> int:
    """Run one stage; returns the exit status. What went wrong stands in ERROR_FILE, in words for the user."""
    end_with_parent(parent_pid)
    (folder / ERROR_FILE).unlink(missing_ok=True)
    try:
        plan = read_plan(folder)
        os.nice(max(0, plan.nice - os.nice(0)))  # the schedule has lowered it already
        between = _stops_on_signal()
        _limit(plan)
        {Stage.PROBE: probe, Stage.TRAIN: train_stage, Stage.EVALUATE: evaluate_stage}[stage](plan, between)
    except Exception as error:  # noqa: BLE001 (the edge of this process: its parent says it and goes on serving)
        from training.loop.train import TrainingStopped

        if isinstance(error, (TrainingStopped, Stopped)):
            return STOPPED
        known = isinstance(error, (ModelError, DataError, RetrainError))
        text = str(error) if known else f"{type(error).__name__}: {error}"
        (folder / ERROR_FILE).write_text(text + "\n", "utf-8")
        if not known:
            import traceback

            traceback.print_exc()
        return 1
    return 0


def probe(plan: Plan, between: Between) -> None:
    """Measure: seconds of a training step and of a pair of the frozen set. Writes PROBE_FILE."""
    from model.predict import load_predictor
    from training.data.datasets import open_records, parse_spec
    from training.loop.train import TrainingStopped, train
    from training.recipe.recipe import Recipe

    times: list[float] = []

    def tick() -> bool:
        if between():
            raise Stopped("asked to stop")
        times.append(time.perf_counter())
        return len(times) >= PROBE_STEPS

    recipe = Recipe.model_validate(plan.recipe)
    out = plan.folder / "probe"
    try:
        train(recipe, out, quiet=True, between=tick)
    except TrainingStopped:
        pass  # as asked: only the time is wanted
    finally:
        shutil.rmtree(out, ignore_errors=True)
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else float("nan")
    predictor = load_predictor(plan.base, device=plan.device, experts=plan.experts)
    predictor.localiser = None
    pair = seconds_per_pair(predictor, open_records(parse_spec(f"site:{plan.frozen}"), DropReport()))
    (plan.folder / PROBE_FILE).write_text(json.dumps({"step": step, "pair": pair}) + "\n", "utf-8")


def seconds_per_pair(predictor: EvaluatedPredictor, records: Iterable[Record]) -> float:
    """Ask the first PROBE_PAIRS of these that can be read, as the evaluation will; 0 where none can."""
    from training.data.datasets import load_records
    from training.evaluation.evaluate import EvaluationOptions, evaluate

    counts: list[int] = []
    report = DropReport()
    started = time.perf_counter()
    evaluate(
        predictor,
        load_records(records, report, limit=PROBE_PAIRS),
        report,
        data="probe",
        options=EvaluationOptions(resamples=1, worst=0, meteor=False),
        progress=counts.append,
    )
    return (time.perf_counter() - started) / len(counts) if counts else 0.0


def train_stage(plan: Plan, between: Between) -> None:
    """Train to the end, calibrate, and move the finished challenger into the models folder in one rename."""
    from model.checkpoints.files import MANIFEST_NAME
    from training.release.challenger import finish_challenger

    finished = plan.models / plan.challenger
    if (finished / MANIFEST_NAME).is_file():
        return
    _train_to_the_end(plan, between)
    calibrating = StageProgress(plan.folder, "calibrating", 0)
    calibrating.at(0)
    checkpoint = plan.folder / "checkpoint"
    finish_challenger(
        plan.training / "final",
        checkpoint,
        base=plan.base,
        version=plan.version,
        recipe=plan.recipe,
        snapshot=f"{plan.snapshot_name} sha256:{plan.manifest_sha256}",
        calibration=plan.calibration,
        pointing_pairs=plan.pointing_pairs,
        experts=plan.experts,
        between=_raising(between),
    )
    plan.models.mkdir(parents=True, exist_ok=True)
    checkpoint.rename(finished)
    for left in plan.training.glob("step-*"):  # the optimiser's state is several times the model and of no more use
        shutil.rmtree(left)


def _train_to_the_end(plan: Plan, between: Between) -> None:
    """Train from the newest checkpoint on, and leave a mark so that a run that is started again does not."""
    from training.loop.train import newest_checkpoint, train
    from training.recipe.recipe import Recipe

    mark = plan.training / TRAINED_MARK
    if mark.is_file():
        return
    recipe = Recipe.model_validate(plan.recipe)
    newest = newest_checkpoint(plan.training)
    steps = StageProgress(plan.folder, "training", recipe.run.steps)
    steps.at(int(newest.name.removeprefix("step-")) if newest is not None else 0)

    def count_step() -> bool:
        steps.at(steps.done + 1)
        return between()

    train(recipe, plan.training, quiet=True, between=count_step)
    mark.write_text("", "utf-8")


def evaluate_stage(plan: Plan, between: Between) -> None:
    """Ask both, decide, write decision, card and page. Answers that are there already are not asked again."""
    from dicom_node.retrain.evaluate import judge

    judge(plan, _raising(between))


def _raising(between: Between) -> Callable[[], None]:
    def check() -> None:
        if between():
            raise Stopped("asked to stop")

    return check


def _stops_on_signal() -> Between:
    stop = threading.Event()

    def _stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    return breaks_from_environment(stop)


def _limit(plan: Plan) -> None:
    """CPU threads and device; before anything computes."""
    import torch

    torch.set_num_threads(plan.threads)


if __name__ == "__main__":
    sys.exit(main(Stage(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
