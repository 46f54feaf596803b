"""The model's process: one that hangs, dies or eats its memory costs the pair that it was asked, never the worker."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dicom_node.config import ModelSection
from dicom_node.errors import AnalysisError
from dicom_node.serving.model_process import InferenceProcess
from model.errors import InferenceError
from model.images.display import from_grey
from model.schema import StudyPair
from tests.support.common import wait_until
from tests.support.tiny_nvila import save_tiny

ANSWER_SECONDS = 120.0
"""The time a pair may take: far more than a tiny model needs on a busy machine."""


def _pair(seed: int = 1, side: int = 160) -> StudyPair:
    grey = np.random.default_rng(seed).random((side // 20, side // 20))
    return StudyPair(current=from_grey(np.kron(grey, np.ones((20, 20))).astype(np.float32), crop=False))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Iterator[InferenceProcess]:
    section = ModelSection(source=str(checkpoint), timeout_seconds=ANSWER_SECONDS)
    process = InferenceProcess(section, source=lambda: str(checkpoint), threads=1)
    yield process
    process.close()
    wait_until(lambda: not _children(), what="the model's process to end")


def _children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.name == "model" and child.pid]


def _only_child() -> int:
    (pid,) = _children()
    return pid


def _virtual_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("side", [160, 1000], ids=["waiting for the answer", "sending a film that fills the pipe"])
def test_a_model_that_hangs_fails_the_pair_and_is_replaced(model: InferenceProcess, side: int) -> None:
    before = model.predict(_pair())
    stuck = _only_child()
    os.kill(stuck, signal.SIGSTOP)
    patient = model._section
    model._section = patient.model_copy(update={"timeout_seconds": 1.0})  # a stopped process answers at no load
    with pytest.raises(InferenceError, match=r"did not finish the pair within 1 s and was stopped"):
        model.predict(_pair(side=side))
    model._section = patient
    assert stuck not in _children()
    after = model.predict(_pair())
    assert [f.probability for f in after.findings] == pytest.approx([f.probability for f in before.findings])
    assert _only_child() != stuck


def _unread_bytes(model: InferenceProcess) -> int:
    """The number of bytes that this process has sent and the child has not read yet."""
    assert model._running is not None
    return int.from_bytes(fcntl.ioctl(model._running.pipe.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def _kill_when_busy(model: InferenceProcess, pid: int) -> None:
    """Kill the child once a pair is on its way, as the kernel does when memory runs out."""
    wait_until(lambda: _unread_bytes(model) > 0, what="the pair to be sent")
    os.kill(pid, signal.SIGKILL)


def test_a_model_that_is_killed_fails_the_pair_and_is_replaced(model: InferenceProcess) -> None:
    model.predict(_pair())
    victim = _only_child()
    os.kill(victim, signal.SIGSTOP)  # so that the pair is surely on its way when the end comes
    assert _unread_bytes(model) == 0
    killer = threading.Thread(target=_kill_when_busy, args=(model, victim))
    killer.start()
    with pytest.raises(InferenceError, match=r"ended at the pair \(exit status -9\)"):
        model.predict(_pair())
    killer.join()
    assert len(model.predict(_pair()).findings) > 0


def test_a_pair_beyond_the_memory_limit_fails_with_a_reason(checkpoint: Path, model: InferenceProcess) -> None:
    model.predict(_pair())
    limit = _virtual_bytes(_only_child()) + 300_000_000
    model.close()
    section = ModelSection(source=str(checkpoint), timeout_seconds=60, memory_limit_bytes=limit)
    limited = InferenceProcess(section, source=lambda: str(checkpoint), threads=1)
    try:
        assert len(limited.predict(_pair()).findings) > 0
        with pytest.raises(InferenceError, match=r"memory"):
            limited.predict(_pair(side=12_000))
        assert len(limited.predict(_pair()).findings) > 0, "the next pair is answered"
    finally:
        limited.close()


def test_a_checkpoint_that_does_not_load_is_no_fault_of_the_pair(tmp_path: Path) -> None:
    """AnalysisError: another try may find a model; the study is not reported as failed."""
    process = InferenceProcess(ModelSection(source=str(tmp_path)), source=lambda: str(tmp_path), threads=1)
    try:
        with pytest.raises(AnalysisError, match="cannot be loaded"):
            process.predict(_pair())
    finally:
        process.close()
