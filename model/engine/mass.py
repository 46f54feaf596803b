"""The probability that a model leaves for the allowed words: too little, and their ratio says nothing."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence

from model.engine.answers import JobAnswers
from model.questions.battery import QuestionType

log = logging.getLogger(__name__)

LEAST_MASS = 0.05
"""Of a model's probability that its presence answers hold together; below it, it would rather say something else."""


class MassWatch:
    """Warns once where a model hardly answers in the allowed words: their ratio is then of little worth."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._has_warned = False

    def note(self, answers: Sequence[JobAnswers]) -> None:
        """Look at the presence answers of a batch."""
        asked = [a for each in answers for a in each.closed.values() if a.question.type is QuestionType.PRESENCE]
        mass = statistics.median([answer.mass for answer in asked]) if asked else 1.0
        # The shares of "yes" and "no" are normalised over the two, so that they look sound even where both are
        # improbable.
        if mass < LEAST_MASS and not self._has_warned:
            self._has_warned = True
            log.warning(
                '%s: "yes" and "no" hold %.2g of its probability; it would rather answer in other words, and what '
                "is made of these says little",
                self._label,
                mass,
            )
