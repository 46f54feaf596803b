"""The speed of asking, which a retraining measures before it says how long it will take."""

from __future__ import annotations

from dataclasses import replace

from dicom_node.retrain.subprocess_main import seconds_per_pair
from model.schema import ModelIdentity, Prediction, StudyPair
from tests.support.oracle import IDENTITY
from training.readers.phantom import read_phantom_pairs
from training.records.drops import DropReport
from training.records.record import Record


class Counting:
    """A predictor that knows nothing and counts the pairs that it is shown."""

    def __init__(self) -> None:
        self.identity: ModelIdentity = IDENTITY
        self.shown: set[int] = set()

    def predict(self, pair: StudyPair) -> Prediction:
        self.shown.add(id(pair.current.pixels))
        return Prediction(findings=(), model=IDENTITY)


def _unreadable(record: Record) -> Record:
    return replace(record, current=replace(record.current, key="/nowhere/gone.dcm"))


def test_pairs_that_cannot_be_read_are_passed_over() -> None:
    first, second = read_phantom_pairs(2, DropReport())
    asked = Counting()
    assert seconds_per_pair(asked, [_unreadable(first), second]) > 0.0
    assert asked.shown
    assert seconds_per_pair(Counting(), [_unreadable(first), _unreadable(second)]) == 0.0
