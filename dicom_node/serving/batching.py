"""Pairs of different studies that wait while the model answers are asked in its next batch.

Nobody waits for company: a pair that comes while the model is idle is asked at once, and what comes meanwhile goes
together. So a batch grows with the load, and a quiet night costs no second.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from dicom_node.errors import NodeError
from dicom_node.serving.model_process import InferenceProcess, ask_together
from model.errors import InferenceError, ModelError
from model.schema import ModelIdentity, Prediction, StudyPair


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    """One caller's pairs. turn: set when there is something for it: answers, an error, the lead of the next batch."""

    pairs: Sequence[StudyPair]
    answers: list[Prediction | InferenceError] = field(default_factory=list)
    error: NodeError | ModelError | None = None
    leads: bool = False
    turn: threading.Event = field(default_factory=threading.Event)


class Together:
    """A predictor for several threads over one model process; `most` studies at once."""

    def __init__(self, model: InferenceProcess, *, most: int) -> None:
        self._model = model
        self._most = most
        self._queue: list[_Waiting] = []
        self._busy = False
        self._lock = threading.Lock()  # of the two above; never held while the model answers

    @property
    def identity(self) -> ModelIdentity:
        """Who answers; does not wait for a batch that is being answered."""
        return self._model.loaded or self._model.identity

    def predict(self, pair: StudyPair) -> Prediction:
        """Ask about one pair; raises as `InferenceProcess.predict`."""
        return self.predict_many([pair])[0]

    def predict_many(self, pairs: Sequence[StudyPair]) -> list[Prediction]:
        """Ask about the pairs of one study, with those of others that wait. Raises InferenceError where one of these
        pairs has no answer (others' failures are theirs), AnalysisError where there is no model."""
        mine = _Waiting(pairs=pairs)
        with self._lock:
            self._queue.append(mine)
            mine.leads, self._busy = not self._busy, True
        if not mine.leads:
            mine.turn.wait()
        if mine.leads:
            self._ask()
        if mine.error is not None:
            raise mine.error
        found = [answer for answer in mine.answers if not isinstance(answer, InferenceError)]
        if len(found) < len(pairs):
            raise next(answer for answer in mine.answers if isinstance(answer, InferenceError))
        return found

    def _ask(self) -> None:
        """Ask for everybody who waits, the asker first among them, and hand the lead to the next one."""
        with self._lock:
            batch, self._queue = self._queue[: self._most], self._queue[self._most :]
        error: NodeError | ModelError = InferenceError("the asking thread failed")
        try:
            answers = iter(ask_together(self._model, [pair for one in batch for pair in one.pairs]))
            for one in batch:
                one.answers = [next(answers) for _ in one.pairs]
        except (NodeError, ModelError) as why:
            error = why
        finally:  # whatever happened, nobody may be left waiting
            for one in batch:
                one.error = error if len(one.answers) < len(one.pairs) else None
                one.turn.set()
            self._hand_on()

    def _hand_on(self) -> None:
        with self._lock:
            after = self._queue[0] if self._queue else None
            self._busy = after is not None
        if after is not None:
            after.leads = True
            after.turn.set()
