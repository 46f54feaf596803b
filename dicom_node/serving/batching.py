"""Batched inference: study pairs that wait while the model answers are asked together in its next batch.

A pair that comes while the model is idle is asked at once (`dicom_node.system.leader_batch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dicom_node.errors import NodeError
from dicom_node.serving.model_process import InferenceProcess
from dicom_node.serving.predictor import ask_together
from dicom_node.system.leader_batch import LeaderBatch
from model.errors import InferenceError, ModelError
from model.schema import ModelIdentity, Prediction, StudyPair


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    """One caller's pairs and what became of them."""

    pairs: Sequence[StudyPair]
    answers: list[Prediction | InferenceError] = field(default_factory=list)
    error: NodeError | ModelError | None = field(default_factory=lambda: InferenceError("the asking thread failed"))


class BatchedPredictor:
    """A predictor for several threads over one model process, which asks at most `max_studies` studies at once."""

    def __init__(self, model: InferenceProcess, *, max_studies: int) -> None:
        self._model = model
        self._batches: LeaderBatch[_Waiting] = LeaderBatch(self._ask, max_items=max_studies)

    @property
    def identity(self) -> ModelIdentity:
        """The identity of the model that answers; does not wait for a batch that is being answered."""
        return self._model.loaded or self._model.identity

    def predict(self, pair: StudyPair) -> Prediction:
        """Ask about one pair; raises as `InferenceProcess.predict`."""
        return self.predict_many([pair])[0]

    def predict_many(self, pairs: Sequence[StudyPair]) -> list[Prediction]:
        """Ask about the pairs of one study, together with those of other studies that wait.

        Raises InferenceError where one of these pairs has no answer (a failure of another study's pair does not
        count), AnalysisError where there is no model.
        """
        request = _Waiting(pairs=pairs)
        self._batches.submit(request)
        if request.error is not None:
            raise request.error
        predictions = [answer for answer in request.answers if not isinstance(answer, InferenceError)]
        if len(predictions) < len(pairs):
            raise next(answer for answer in request.answers if isinstance(answer, InferenceError))
        return predictions

    def _ask(self, batch: list[_Waiting]) -> None:
        """Ask about all pairs of a batch and deal the answers out."""
        try:
            answers = iter(ask_together(self._model, [pair for request in batch for pair in request.pairs]))
        # One failure for the whole batch: which pair it came of is not known.
        except (NodeError, ModelError) as error:
            for request in batch:
                request.error = error
            return
        for request in batch:
            request.answers = [next(answers) for _ in request.pairs]
            request.error = None
