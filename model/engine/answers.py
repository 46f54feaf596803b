"""The questions of one engine job and their answers, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.errors import InferenceError
from model.questions.battery import Question
from model.questions.prompts import PromptLayout


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineJob:
    """The questions on one set of pictures. pictures: uint8 [H, W] in the order of the layout's image slots.

    follow_ups: from the closed answers so far, the keys of further `late` questions that are worth asking.
    """

    pictures: tuple[NDArray[np.uint8], ...]
    layout: PromptLayout
    questions: tuple[Question, ...]
    late: tuple[Question, ...] = ()
    follow_ups: Callable[[JobAnswers], Collection[str]] = lambda _answers: ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedAnswer:
    """log_probabilities: total log-probability of each allowed answer with its end token, in the order of `allowed`."""

    question: Question
    log_probabilities: tuple[float, ...]

    @property
    def mass(self) -> float:
        """The share of the model's whole probability that the allowed answers hold together."""
        return float(np.exp(np.asarray(self.log_probabilities, dtype=np.float64)).sum())

    def probabilities(self, temperature: float = 1.0) -> dict[str, float]:
        """The allowed answers' probabilities, normalised over them: softmax(log p / temperature).

        Raises InferenceError where the model gave no numbers: compared with a threshold, they would read "absent".
        """
        scores = np.asarray(self.log_probabilities, dtype=np.float64) / temperature
        if not np.isfinite(scores.max()):
            raise InferenceError(f"{self.question.key}: the model gave no numbers")
        weights = np.exp(scores - scores.max())
        return dict(zip(self.question.allowed or (), (weights / weights.sum()).tolist(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAnswer:
    """A generated answer. complete: it ended by itself, not at the limit."""

    question: Question
    text: str
    complete: bool


@dataclass(slots=True, kw_only=True)
class JobAnswers:
    """The answers of one job, by question key; seconds by stage ("prefill" includes the images, "score",
    "generate")."""

    closed: dict[str, ClosedAnswer] = field(default_factory=dict)
    open: dict[str, OpenAnswer] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, other: JobAnswers) -> None:
        """Take over the answers of another job on the same images; the seconds of both add up."""
        self.closed |= other.closed
        self.open |= other.open
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
