"""A model of fixed time: it waits, then says "absent" of one finding; for tests of what lies around a model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from model.schema import Finding, ModelIdentity, Prediction, Presence, StudyPair


@dataclass(frozen=True, slots=True)
class FixedTimeModel:
    """Answers after `seconds`, as a predictor and as what leases it."""

    seconds: float

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity(name="fixed-time", version="1", device_uid="2.25.1")

    def predict(self, pair: StudyPair) -> Prediction:
        time.sleep(self.seconds)  # the model's time: the one thing here that is a wait
        absent = Finding(key="pleural_effusion", presence=Presence.ABSENT, probability=0.1)
        return Prediction(findings=(absent,), model=self.identity)

    def predict_many(self, pairs: Sequence[StudyPair]) -> list[Prediction]:
        return [self.predict(pair) for pair in pairs]

    @contextmanager
    def lease(self) -> Iterator[FixedTimeModel]:
        yield self
