"""A model that answers pairs: the interface that the analysis needs, and how the configured one is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dicom_node.config import ModelSection
from dicom_node.logs import get_logger
from model.errors import InferenceError
from model.schema import ModelIdentity, Prediction, StudyPair

log = get_logger(__name__)


class PairPredictor(Protocol):
    """The interface of a model that the analysis needs; `model.predict.Predictor` has it too."""

    @property
    def identity(self) -> ModelIdentity: ...

    def predict(self, pair: StudyPair) -> Prediction: ...

    def predict_many(self, pairs: Sequence[StudyPair]) -> list[Prediction]: ...


def load(section: ModelSection, *, threads: int | None = None) -> PairPredictor:
    """Load the configured predictor in this process. Imports torch: never call it in a receiver."""
    import torch

    from model.predict import load_predictor

    if threads is not None:
        torch.set_num_threads(threads)
    # Behind `model.predict`, which imports of Transformers what it uses alone.
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # it would stand between the lines of the log
    if section.backend == "openai":
        return _remote(section)
    predictor = load_predictor(
        section.source,
        findings=section.findings,
        revision=section.revision,
        device=section.device,
        trust_remote_code=section.trust_remote_code,
        experts=section.experts,
    )
    predictor.asks_everything = False  # no report quotes what a model writes freely
    if section.experts is not None and predictor.expert is None:
        log.warning("[model] experts is not used: this checkpoint was not trained with it", source=section.source)
    return predictor


def _remote(section: ModelSection) -> PairPredictor:
    """A predictor over an OpenAI-compatible server; `source` is the model's name there, its first where "demo"."""
    from model.checkpoints.registry import DEMO
    from model.remote_predictor import Scoring, open_remote_predictor

    assert section.base_url is not None  # the settings refuse an openai back end without one
    key = section.api_key_file.read_text("utf-8").strip() if section.api_key_file is not None else None
    predictor = open_remote_predictor(
        section.base_url,
        findings=section.findings,
        model=None if section.source == DEMO else section.source,
        api_key=key,
        timeout_seconds=section.timeout_seconds,
        scoring=Scoring(section.scoring),
        connections=section.requests_at_once,
        min_mass=section.min_answer_mass,
    )
    predictor.asks_everything = False
    return predictor


def ask_together(predictor: PairPredictor, pairs: Sequence[StudyPair]) -> list[Prediction | InferenceError]:
    """The answer to each pair, or why there is none. Asked in one batch; where that fails, one by one, so that a pair
    that cannot be answered costs no other its answer."""
    if len(pairs) > 1:
        try:
            return list(predictor.predict_many(pairs))
        except InferenceError as error:
            log.warning("the pairs are asked one by one", pairs=len(pairs), error=str(error))
    answers: list[Prediction | InferenceError] = []
    for pair in pairs:
        try:
            answers.append(predictor.predict(pair))
        except InferenceError as error:
            answers.append(error)
    return answers
