"""Known pairs with known answers: phantoms whose truth is beyond doubt, for the smoke set of the gate.

A retrained model must still answer them as the champion does. Only answers that the champion gets right count, so a
site's model that never saw a phantom is not judged by them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from model.schema import Prediction, Presence, StudyPair
from training.data.datasets import load_pair
from training.evaluation.evaluate import EvaluatedPredictor
from training.gate.scores import KnownPairs
from training.phantom.render import GRADED, sample_pair
from training.phantom.sampling import PairOptions
from training.readers.phantom import read_phantom_pairs
from training.records.drops import DropReport
from training.records.record import Record

FIRST_SEED = 9_700_000
"""Of seeds that nothing else uses: training stays below 8,000,000, calibration and tests use others."""
CLEAR = 0.6
"""Severity from which a graded finding cannot be overlooked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAnswer:
    """One finding of one known pair. present: on the current film."""

    record: Record
    finding: str
    present: bool

    @property
    def name(self) -> str:
        """For reports."""
        return f"{self.record.record_id} {self.finding} {'present' if self.present else 'absent'}"


def known_answers(pairs: int, *, first_seed: int = FIRST_SEED) -> Iterator[KnownAnswer]:
    """The clear-cut answers of so many pairs: what is plainly there, and as many that are on neither film."""
    for seed, record in enumerate(read_phantom_pairs(pairs, DropReport(), first_seed=first_seed), start=first_seed):
        pair = sample_pair(seed, PairOptions())
        clear = [key for key, s in pair.current.items() if key not in GRADED or s.severity >= CLEAR]
        absent = [key for key, truth in record.truth.findings.items() if truth.nothing]
        yield from (KnownAnswer(record=record, finding=key, present=True) for key in clear)
        for number in range(min(len(absent), max(1, len(clear)))):
            # A step of 5 over the list, begun elsewhere for each seed, so that all absent findings come up.
            yield KnownAnswer(record=record, finding=absent[(seed + number * 5) % len(absent)], present=False)


def ask_known(
    answers: Iterable[KnownAnswer],
    champion: EvaluatedPredictor,
    challenger: EvaluatedPredictor,
    progress: Callable[[int], None] = lambda done: None,
) -> KnownPairs:
    """Ask both; what the champion was not asked to know, or gets wrong, does not count."""
    predictions: dict[str, tuple[Prediction, Prediction]] = {}
    asked, counted = 0, 0
    wrong: list[str] = []
    for answer in answers:
        if answer.record.record_id not in predictions:
            pair: StudyPair = load_pair(answer.record)
            predictions[answer.record.record_id] = (champion.predict(pair), challenger.predict(pair))
            progress(len(predictions))
        first, second = predictions[answer.record.record_id]
        asked += 1
        # Only what the champion knows: the check is for what is lost, not for what neither can do.
        if not _right(first, answer):
            continue
        counted += 1
        if not _right(second, answer):
            wrong.append(answer.name)
    return KnownPairs(asked=asked, counted=counted, wrong=tuple(wrong))


def _right(said: Prediction, answer: KnownAnswer) -> bool:
    true_presence = Presence.PRESENT if answer.present else Presence.ABSENT
    return any(finding.key == answer.finding and finding.presence is true_presence for finding in said.findings)
