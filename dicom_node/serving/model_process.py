"""The model in a process of its own: one that hangs, crashes or eats all memory is replaced, and the worker lives."""

from __future__ import annotations

import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from dicom_node.config import ModelSection
from dicom_node.errors import AnalysisError
from dicom_node.logs import get_logger
from dicom_node.serving.film_pipe import receive_value, send_value
from dicom_node.serving.predictor import PairPredictor, load
from dicom_node.system.child_process import end_with_parent, name_process
from dicom_node.system.collection import hold_collection, resume_collection
from model.errors import InferenceError, ModelError
from model.schema import ModelIdentity, Prediction, StudyPair

log = get_logger(__name__)

LOAD_TIMEOUT_SECONDS = 1800.0
"""Reading 16 GB of weights from a slow disk takes minutes."""
OUT_OF_MEMORY = 77
"""Exit status of a child that had no memory to read its pair."""

_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """One message of the child: a value, or the words of what went wrong."""

    value: Any = None
    error: str = ""


_NOBODY = ModelIdentity(name="", version="", device_uid="")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """The child and our end of its pipe."""

    child: BaseProcess
    pipe: Connection
    identity: ModelIdentity = _NOBODY


class InferenceProcess:
    """A predictor behind a pipe. Not for several threads at once; the worker has one analysis thread.

    The child is started on first use and again after each failure.
    """

    def __init__(
        self,
        section: ModelSection,
        *,
        source: Callable[[], str],
        stop: threading.Event | None = None,
        threads: int | None = None,
        nice: int = 0,
    ) -> None:
        """`source` is asked before each pair: when it names another checkpoint, the model is exchanged in between.

        stop: loading is given up when it is set; a pair that is being answered is not. nice: of the child, 0 to 19.
        """
        self._section = section
        self._source = source
        self._stop = stop or threading.Event()
        self._threads = threads
        self._nice = nice
        self._loaded_source = ""
        self._running: _Running | None = None
        self._lock = threading.Lock()

    @property
    def identity(self) -> ModelIdentity:
        """The checkpoint that answers now; loaded first where none is. Raises AnalysisError where it cannot be."""
        with self._lock:
            return self._ensure().identity

    @property
    def loaded(self) -> ModelIdentity | None:
        """Who would answer without loading first; None where nobody is loaded. Never waits for a pair."""
        running = self._running
        return running.identity if running is not None and running.child.is_alive() else None

    def predict(self, pair: StudyPair) -> Prediction:
        """Ask the model. Raises InferenceError where it does not answer this pair in time, fails or dies.

        Raises AnalysisError where there is no model to ask: another try may find one.
        """
        return self.predict_many([pair])[0]

    def predict_many(self, pairs: Sequence[StudyPair]) -> list[Prediction]:
        """Ask about several pairs at once, which a model may answer in one batch; raises as `predict` does, for all."""
        what = "the pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
        with self._lock:
            answer = self._exchange(self._ensure(), tuple(pairs), self._section.timeout_seconds * len(pairs), what)
        answers: list[Prediction] = _value(answer)
        return answers

    def close(self) -> None:
        """End the child; a thread that waits for its answer gets an InferenceError."""
        running = self._running
        if running is not None:
            self._end(running)

    def _ensure(self) -> _Running:
        source = self._source()
        running = self._running
        if running is not None and running.child.is_alive() and source == self._loaded_source:
            return running
        self.close()
        try:
            self._running = self._load(source)
        except InferenceError as error:
            raise AnalysisError(str(error)) from error
        self._loaded_source = source
        identity = self._running.identity
        log.info("model loaded", source=source, model=identity.name, version=identity.version)
        return self._running

    def _load(self, source: str) -> _Running:
        pipe, child_end = _spawn.Pipe()
        section = self._section.model_copy(update={"source": source})
        child = _spawn.Process(
            target=_serve, args=(child_end, section, self._threads, self._nice, os.getpid()), name="model", daemon=True
        )
        child.start()
        # With a second holder of the child's end, the child's death would not end a `recv` here.
        child_end.close()
        running = _Running(child=child, pipe=pipe)
        deadline = time.monotonic() + LOAD_TIMEOUT_SECONDS
        while not pipe.poll(0.1):
            if self._stop.is_set() or time.monotonic() > deadline:
                self._end(running)
                why = "the node stops" if self._stop.is_set() else f"not loaded within {LOAD_TIMEOUT_SECONDS:.0f} s"
                raise InferenceError(f"{source}: {why}")
        try:
            return replace(running, identity=_value(pipe.recv()))
        except (EOFError, OSError) as error:
            raise self._error_of_end(running, f"loading {source}") from error

    def _exchange(self, running: _Running, pairs: tuple[StudyPair, ...], timeout: float, what: str) -> _Answer:
        """Send the pairs and receive the answer within one limit of time.

        Films and answers may be larger than the pipe's buffer, so a child that hangs while it reads or writes would
        hold this thread for ever. Killed, it closes its end, and the waiting call fails.
        """
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            running.child.kill()

        # A timer and no `poll`: sending blocks as well, where a child that hangs does not empty the pipe.
        limit = threading.Timer(timeout, stop)
        limit.daemon = True
        limit.start()
        try:
            send_value(running.pipe, pairs)
            answer: _Answer = running.pipe.recv()
        except (EOFError, OSError) as error:
            if not is_late.is_set():
                raise self._error_of_end(running, what) from error
            self._end(running)
            raise InferenceError(f"the model did not finish {what} within {timeout:.0f} s and was stopped") from error
        finally:
            limit.cancel()
        return answer

    def _error_of_end(self, running: _Running, what: str) -> InferenceError:
        running.child.join(5.0)
        status = running.child.exitcode
        self._end(running)
        if status == OUT_OF_MEMORY:
            return InferenceError(f"the model process ran out of memory at {what}")
        return InferenceError(f"the model process ended at {what} (exit status {status})")

    def _end(self, running: _Running) -> None:
        if self._running is running:
            self._running = None
        running.child.terminate()
        running.child.join(5.0)
        if running.child.is_alive():
            running.child.kill()
            running.child.join()
        running.pipe.close()


def _value(answer: _Answer) -> Any:
    if answer.error:
        raise InferenceError(answer.error)
    return answer.value


def _serve(pipe: Connection, section: ModelSection, threads: int | None, nice: int, parent_pid: int) -> None:
    """The child's life: load, say who answers, then answer pairs until the pipe closes."""
    end_with_parent(parent_pid)
    name_process("model")
    hold_collection()
    os.nice(nice)
    _limit_memory(section.memory_limit_bytes)
    try:
        predictor = load(section, threads=threads)
    except (ModelError, OSError, MemoryError, ValueError) as error:
        pipe.send(_Answer(error=f"the model cannot be loaded: {error}"))
        return
    resume_collection()
    pipe.send(_Answer(value=predictor.identity))
    while True:
        try:
            pairs = receive_value(pipe)
        except EOFError:
            return
        except MemoryError:
            # Half a message is read, so the pipe is of no use any more; and an orderly end needs memory.
            os._exit(OUT_OF_MEMORY)
        pipe.send(_answer(predictor, pairs))


def _answer(predictor: PairPredictor, pairs: Sequence[StudyPair]) -> _Answer:
    try:
        return _Answer(value=predictor.predict_many(pairs))
    except (ModelError, MemoryError, RuntimeError, ValueError) as error:
        # RuntimeError is how torch reports exhausted memory and impossible shapes.
        return _Answer(error=f"{type(error).__name__}: {error}"[:2000])


def _limit_memory(limit_bytes: int | None) -> None:
    if limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
