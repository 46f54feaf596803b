"""Running a stage of a run in a process of its own, watched: progress out, what went wrong in words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dicom_node.context import NodeContext
from dicom_node.retrain.file_names import ERROR_FILE, LOG_FILE, PROGRESS_FILE
from dicom_node.retrain.plan import Plan
from dicom_node.retrain.stages import STOPPED, Stage
from dicom_node.retrain.types import RetrainError, RetrainStopped

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 300.0
"""For a child that was asked to stop: a step of a large model takes long, and so does its checkpoint."""

ProgressListener = Callable[[str, int, int], None]
"""Told (what, done, of how many)."""


def run_stage(node: NodeContext, plan: Plan, stage: Stage, progress: ProgressListener) -> None:
    """Run one stage to its end.

    Raises RetrainStopped where the node was asked to stop or the process was killed (what was done is kept, another
    start goes on), RetrainError with its words where it cannot be done.
    """
    (plan.folder / PROGRESS_FILE).unlink(missing_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(plan.threads), "TOKENIZERS_PARALLELISM": "false"}
    if plan.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""  # the card is the serving model's alone
    command = [
        sys.executable,
        "-m",
        "dicom_node.retrain.subprocess_main",
        stage.value,
        str(plan.folder),
        str(os.getpid()),
    ]
    with (plan.folder / LOG_FILE).open("ab") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    try:
        _watch(node, plan.folder, child, progress)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    _judge(plan.folder, stage, child.returncode)


def _watch(node: NodeContext, folder: Path, child: subprocess.Popen[bytes], progress: ProgressListener) -> None:
    reported = ("", -1, 0)
    while True:
        # Asked before the progress is read, so that what the child wrote last is told as well.
        ended = child.poll() is not None
        now = _progress(folder)
        if now is not None and now != reported:
            reported = now
            progress(*now)
        if ended:
            return
        if node.stop.is_set():
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
            return
        node.stop.wait(_POLL_SECONDS)


def _progress(folder: Path) -> tuple[str, int, int] | None:
    try:
        values = json.loads((folder / PROGRESS_FILE).read_text("utf-8"))
        return str(values["stage"]), int(values["done"]), int(values["total"])
    except (OSError, ValueError, KeyError):
        return None


def _judge(folder: Path, stage: Stage, status: int | None) -> None:
    if status == 0:
        return
    if status == STOPPED:
        raise RetrainStopped(f"stopped while {stage.value} ran; `dicom-node retrain` continues from there")
    # A signal (most often the kernel, for memory) is no fault of the data: the stage goes on from its last checkpoint.
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        raise RetrainStopped(f"the process was killed ({name}) while {stage.value} ran; run it again and it continues")
    error = folder / ERROR_FILE
    text = error.read_text("utf-8").strip() if error.is_file() else f"ended with status {status}"
    raise RetrainError(f"{stage.value}: {text} (see {folder / LOG_FILE})")
