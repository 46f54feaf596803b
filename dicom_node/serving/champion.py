"""The champion in service: exchanged without a restart and with no gap in service.

Before each study the pointer is read (one small file). A new champion loads in a second process while the one before
it goes on answering; it takes over with the first study after it is ready. One that does not load is reported (notice,
row, metric) and the first of `promotion.candidates` that does load answers. A withdrawn one answers no further study.
The champion before this one stays loaded where [model] standby says so, and a rollback then takes effect with the next
study.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dicom_node.context import NodeContext
from dicom_node.errors import AnalysisError, NodeError
from dicom_node.index.tables.models import ModelServing
from dicom_node.logs import get_logger
from dicom_node.notifications import raise_notice
from dicom_node.serving.batching import BatchedPredictor
from dicom_node.serving.model_process import InferenceProcess
from dicom_node.serving.predictor import PairPredictor
from dicom_node.serving.promotion import Candidate, ModelsError, candidates
from dicom_node.serving.workers import forget_dead_workers
from dicom_node.system.backoff import pause_after
from dicom_node.system.process_identity import describe_process

log = get_logger(__name__)

WATCH_SECONDS = 0.5
"""The interval at which an idle worker looks for a new champion: a file of some hundred bytes."""
SEEN_SECONDS = 15.0
"""The interval at which a worker renews its row."""
FIRST_RETRY_SECONDS = 60.0
LONGEST_RETRY_SECONDS = 3600.0


@dataclass(slots=True, kw_only=True)
class _Failure:
    """A checkpoint that did not load: why, how often, and when it is tried again (monotonic seconds)."""

    error: str
    times: int
    again_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _ServingValues:
    """The contents of this worker's row."""

    folder: str
    wanted: str
    device_uid: str
    error: str


class ServingModels:
    """The models of one worker process. A thread holds one `lease`; loading and watching have threads of
    their own, which live as long as this: a model process ends with the thread that started it.
    """

    def __init__(self, node: NodeContext, *, threads: int | None = None) -> None:
        self._node = node
        self._threads = threads
        self._models: dict[str, InferenceProcess] = {}
        self._failures: dict[str, _Failure] = {}
        self._chain: tuple[Candidate, ...] = ()
        self._loading = threading.Lock()  # one checkpoint at a time; held for as long as that takes
        self._state = threading.Lock()  # of the dictionaries and of `_leases`; held for moments
        self._leases = 0
        self._together: dict[InferenceProcess, BatchedPredictor] = {}
        self._said: _ServingValues | None = None
        self._since = node.clock()
        self._said_at = 0.0
        self._closed = threading.Event()
        self._saying = threading.Lock()  # of the row
        self._threads_of_mine = (
            threading.Thread(target=self._watch, name="models-watch", daemon=True),
            threading.Thread(target=self._load_wanted, name="models-load", daemon=True),
        )
        self._worker = describe_process()

    def start(self) -> None:
        """Begin to watch the pointer. Nothing is loaded before the first study."""
        for thread in self._threads_of_mine:
            thread.start()

    @contextmanager
    def lease(self) -> Iterator[PairPredictor]:
        """Who answers one study, from its first image to its last. Raises AnalysisError where nobody can be loaded."""
        with self._state:
            self._leases += 1
        try:
            yield self._share(self._answering())
        finally:
            with self._state:
                self._leases -= 1

    def _share(self, process: InferenceProcess) -> PairPredictor:
        """Where several studies are analysed side by side, the one queue before this process."""
        most = self._node.settings.model.most_studies_at_once
        if most == 1:
            return process
        with self._state:
            return self._together.setdefault(process, BatchedPredictor(process, max_studies=most))

    def close(self) -> None:
        """End all model processes; whoever waits for an answer gets an InferenceError."""
        self._closed.set()
        for process in list(self._models.values()):
            process.close()
        for thread in self._threads_of_mine:
            if thread.is_alive():
                thread.join()
        for process in self._models.values():  # one that was loading meanwhile
            process.close()

    def _answering(self) -> InferenceProcess:
        chain = self._look()
        errors = []
        for candidate in chain:
            process = self._models.get(candidate.source)
            # A study does not wait for minutes of loading while another one could answer.
            if process is None and any(self._is_loaded(later) for later in chain):
                continue  # the watcher loads it; until then the next one answers
            if process is None or process.loaded is None:
                try:
                    process = self._load(candidate)
                except AnalysisError as error:
                    errors.append(str(error))
                    continue
            self._say(chain)
            return process
        self._say(chain)
        raise AnalysisError("no model can be loaded: " + "; ".join(errors))

    def _look(self) -> tuple[Candidate, ...]:
        """Who may answer by the pointer as it is now; a change of it forgives earlier failures."""
        try:
            chain = candidates(self._node.settings, self._node.models_dir)
        except ModelsError as error:
            if not self._chain:
                raise
            log.error("the champion's pointer cannot be read; the champion stays", error=str(error))
            return self._chain
        with self._state:
            if chain != self._chain:
                self._chain = chain
                self._failures.clear()
        return chain

    def _is_loaded(self, candidate: Candidate) -> bool:
        process = self._models.get(candidate.source)
        return process is not None and process.loaded is not None

    def _load(self, candidate: Candidate) -> InferenceProcess:
        """Load a checkpoint in a process of its own. Raises AnalysisError, also while a failure is too young."""
        with self._loading:
            process = self._models.get(candidate.source)
            if process is not None and process.loaded is not None:
                return process
            failure = self._failures.get(candidate.source)
            # While others may answer, a checkpoint that just failed is not tried before each study.
            if failure is not None and time.monotonic() < failure.again_at and len(self._chain) > 1:
                raise AnalysisError(failure.error)
            if process is None:
                source = candidate.source
                section = self._node.settings.model
                process = InferenceProcess(section, source=lambda: source, stop=self._node.stop, threads=self._threads)
            try:
                _ = process.identity
            except AnalysisError as error:
                self._note_failure(candidate, str(error))
                raise
            with self._state:
                self._models[candidate.source] = process
                self._failures.pop(candidate.source, None)
            return process

    def _note_failure(self, candidate: Candidate, error: str) -> None:
        if self._node.stop.is_set() or self._closed.is_set():
            return  # loading was given up because the node ends
        with self._state:
            dead = self._models.pop(candidate.source, None)
            if dead is not None:
                self._together.pop(dead, None)
            times = self._failures[candidate.source].times + 1 if candidate.source in self._failures else 1
            pause = pause_after(times, first=FIRST_RETRY_SECONDS, longest=LONGEST_RETRY_SECONDS)
            self._failures[candidate.source] = _Failure(error=error, times=times, again_at=time.monotonic() + pause)
        if dead is not None:
            dead.close()
        name = candidate.folder or "of the configuration"
        log.error("model does not load", model=name, error=error, again_in=pause)
        now = self._node.clock()
        text = f"model {name} does not load and another one answers in its place, or none: {error[:500]}"
        try:
            with self._node.database.write() as session:
                key = f"model does not load:{name}:{now:%Y-%m-%d}"
                raise_notice(session, key=key, kind="model not loaded", text=text, now=now)
        except NodeError as away:
            log.error("notice not kept", error=str(away))

    def _watch(self) -> None:
        """Keep the row alive and end what nobody needs, also while a large checkpoint takes minutes to load."""
        try:
            with self._node.database.write() as session:
                forget_dead_workers(session, own=self._worker)
        except NodeError as error:
            log.error("rows of dead workers stay", error=str(error))
        while not self._closed.wait(WATCH_SECONDS):
            if not self._models and not self._failures:
                continue  # no study came yet
            try:
                chain = self._look()
                self._drop_others(chain, {candidate.source for candidate in self._candidates_to_load(chain)})
                self._say(chain)
            except (NodeError, OSError) as error:
                log.error("the champion cannot be looked after", error=str(error))

    def _load_wanted(self) -> None:
        """Load the champion and the stand-by beside whoever answers meanwhile."""
        while not self._closed.wait(WATCH_SECONDS):
            if not self._models and not self._failures:
                continue
            try:
                for candidate in self._candidates_to_load(self._look()):
                    failure = self._failures.get(candidate.source)
                    if candidate.source in self._models or (failure and time.monotonic() < failure.again_at):
                        continue
                    self._load(candidate)
                    log.info("model ready", model=candidate.folder or "of the configuration")
            except AnalysisError:
                continue  # reported where it failed; the next look loads the others
            except (NodeError, OSError) as error:
                log.error("the champion's pointer cannot be followed", error=str(error))

    def _candidates_to_load(self, chain: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        """Who should be loaded: the champion, and the one before it where the settings say so."""
        return chain[:2] if self._node.settings.model.standby else chain[:1]

    def _drop_others(self, chain: tuple[Candidate, ...], wanted: set[str]) -> None:
        """End what nobody needs; never while a study is being answered, and never the only one that answers."""
        with self._state:
            # A study is answered by one model from its first image to its last.
            if self._leases:
                return
            answering = next((c.source for c in chain if self._is_loaded(c)), "")
            idle = [source for source in self._models if source not in wanted | {answering}]
            dropped = [self._models.pop(source) for source in idle]
            for process in dropped:
                self._together.pop(process, None)
        for process in dropped:
            process.close()

    def _say(self, chain: tuple[Candidate, ...]) -> None:
        """Keep this worker's row true: at once when something changed, and now and then so that it is seen to live."""
        with self._saying:
            self._say_now(chain)

    def _say_now(self, chain: tuple[Candidate, ...]) -> None:
        answering = next((c for c in chain if self._is_loaded(c)), None)
        process = self._models.get(answering.source) if answering is not None else None
        identity = process.loaded if process is not None else None
        failure = self._failures.get(chain[0].source)
        status = _ServingValues(
            folder=answering.folder if answering is not None else "",
            wanted=chain[0].folder,
            device_uid=identity.device_uid if identity is not None else "",
            error=failure.error[:2000] if failure is not None else "",
        )
        # Written when it changes, and now and then all the same: a row that is not renewed means a worker that has
        # gone.
        if status == self._said and time.monotonic() - self._said_at < SEEN_SECONDS:
            return
        if self._said is None or status.device_uid != self._said.device_uid:
            self._since = self._node.clock()
        row = ModelServing(
            worker=self._worker,
            folder=status.folder,
            wanted=status.wanted,
            model_name=identity.name if identity is not None else "",
            model_version=identity.version if identity is not None else "",
            device_uid=status.device_uid,
            since=self._since,
            seen_at=self._node.clock(),
            error=status.error,
        )
        try:
            with self._node.database.write() as session:
                session.merge(row)
        except NodeError as error:
            # Not fatal: the model answers all the same, and the next call says it again.
            log.error("who answers is not in the index", error=str(error))
            return
        self._said, self._said_at = status, time.monotonic()
