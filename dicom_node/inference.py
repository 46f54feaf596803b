"""The model in a process of its own: one that hangs, crashes or eats all memory is replaced, and the worker lives."""

from __future__ import annotations

import multiprocessing
import os
import resource
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from dicom_node.config import ModelSection
from dicom_node.logs import get_logger
from dicom_node.process import end_with_parent
from model.errors import InferenceError, ModelError
from model.schema import ModelIdentity, Prediction, StudyPair

log = get_logger(__name__)

LOAD_TIMEOUT_SECONDS = 1800.0
"""Reading 16 GB of weights from a slow disk takes minutes."""

_spawn = multiprocessing.get_context("spawn")


class PairPredictor(Protocol):
    """What the analysis needs of a model; `model.predict.Predictor` has it too."""

    @property
    def identity(self) -> ModelIdentity: ...

    def predict(self, pair: StudyPair) -> Prediction: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """One message of the child: a value, or the words of what went wrong."""

    value: Any = None
    error: str = ""


class InferenceProcess:
    """A predictor behind a pipe. Not for several threads at once; the worker has one analysis thread.

    The child is started on first use and again after each failure.
    """

    def __init__(self, section: ModelSection, *, source: Callable[[], str], threads: int | None = None) -> None:
        """`source` is asked before each pair: when it names another checkpoint, the model is exchanged in between."""
        self._section = section
        self._source = source
        self._threads = threads
        self._loaded_source = ""
        self._child: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._identity: ModelIdentity | None = None
        self._lock = threading.Lock()

    @property
    def identity(self) -> ModelIdentity:
        """Which checkpoint answers now; loads it where none is loaded. Raises InferenceError."""
        with self._lock:
            return self._ensure()

    def predict(self, pair: StudyPair) -> Prediction:
        """Ask the model. Raises InferenceError where it does not answer in time, fails or dies."""
        with self._lock:
            self._ensure()
            return self._call(pair, self._section.timeout_seconds)

    def close(self) -> None:
        """End the child."""
        if self._pipe is not None:
            self._pipe.close()
        if self._child is not None:
            self._child.terminate()
            self._child.join(5.0)
            if self._child.is_alive():
                self._child.kill()
                self._child.join()
        self._child, self._pipe, self._identity = None, None, None

    def _ensure(self) -> ModelIdentity:
        wanted = self._source()
        alive = self._child is not None and self._child.is_alive()
        if alive and wanted == self._loaded_source and self._identity is not None:
            return self._identity
        self.close()
        self._pipe, child_end = _spawn.Pipe()
        section = self._section.model_copy(update={"source": wanted})
        self._child = _spawn.Process(
            target=_serve, args=(child_end, section, self._threads, os.getpid()), name="model", daemon=True
        )
        self._child.start()
        child_end.close()
        self._identity = self._receive(LOAD_TIMEOUT_SECONDS, f"loading {wanted}")
        self._loaded_source = wanted
        log.info("model loaded", source=wanted, model=self._identity.name, version=self._identity.version)
        return self._identity

    def _call(self, pair: StudyPair, timeout: float) -> Prediction:
        assert self._pipe is not None
        try:
            self._pipe.send(pair)
        except (BrokenPipeError, OSError) as error:
            self.close()
            raise InferenceError("the model process is gone") from error
        prediction: Prediction = self._receive(timeout, "the pair")
        return prediction

    def _receive(self, timeout: float, what: str) -> Any:
        assert self._pipe is not None
        assert self._child is not None
        if not self._pipe.poll(timeout):
            self.close()
            raise InferenceError(f"the model did not finish {what} within {timeout:.0f} s and was stopped")
        try:
            answer: _Answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._child.join(5.0)
            status = self._child.exitcode
            self.close()
            raise InferenceError(f"the model process ended at {what} (exit status {status})") from error
        if answer.error:
            raise InferenceError(answer.error)
        return answer.value


def _serve(pipe: Connection, section: ModelSection, threads: int | None, parent_pid: int) -> None:
    """The child's life: load, say who answers, then answer pairs until the pipe closes."""
    end_with_parent(parent_pid)
    _limit_memory(section.memory_limit_bytes)
    try:
        predictor = load(section, threads=threads)
    except (ModelError, OSError, MemoryError, ValueError) as error:
        pipe.send(_Answer(error=f"the model cannot be loaded: {error}"))
        return
    pipe.send(_Answer(value=predictor.identity))
    while True:
        try:
            pair = pipe.recv()
        except EOFError:
            return
        pipe.send(_answer(predictor, pair))


def load(section: ModelSection, *, threads: int | None = None) -> PairPredictor:
    """Load the configured predictor in this process. Imports torch: never call it in a receiver."""
    import torch
    from transformers.utils import logging as transformers_logging

    from model.predict import load_predictor

    transformers_logging.disable_progress_bar()  # it would stand between the lines of the log

    if threads is not None:
        torch.set_num_threads(threads)
    return load_predictor(
        section.source,
        revision=section.revision,
        device=section.device,
        trust_remote_code=section.trust_remote_code,
    )


def _answer(predictor: PairPredictor, pair: StudyPair) -> _Answer:
    try:
        return _Answer(value=predictor.predict(pair))
    except (ModelError, MemoryError, RuntimeError, ValueError) as error:
        # RuntimeError is how torch reports exhausted memory and impossible shapes.
        return _Answer(error=f"{type(error).__name__}: {error}"[:2000])


def _limit_memory(limit_bytes: int | None) -> None:
    if limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
