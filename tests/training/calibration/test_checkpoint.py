"""Calibration of a whole checkpoint on pairs: what is fitted reaches the manifest, and what is served follows it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model.checkpoints.manifest import rewrite_manifest
from model.engine.answers import ClosedAnswer, EngineJob, JobAnswers
from model.engine.engine import Engine
from model.finding_states import STATES, JointWeights
from model.images.display import from_grey
from model.predict import Predictor, load_predictor
from model.questions.battery import QuestionType
from model.schema import Change, Presence, StudyPair
from tests.support.tiny_nvila import FINDINGS, save_tiny
from training.calibration.checkpoint import FLOOR_ACCURACY, FLOOR_COVERAGE, calibrate
from training.records.record import ImageRef, Record, Split
from training.records.truth import FindingTruth, ImageTruth, PairTruth

PAIRS = 120
_CHANGES = {
    (False, False): None,
    (False, True): Change.NEW,
    (True, False): Change.RESOLVED,
    (True, True): Change.STABLE,
}


class TellingEngine(Engine):
    """An engine whose change answers lean to the truth, too surely, and whose other answers are noise.

    What a network would score is replaced by numbers that are known; everything after the scores is the real thing.
    """

    def __init__(self, predictor: Predictor, truths: list[PairTruth], seed: int) -> None:
        super().__init__(predictor.vlm)
        self._truths = iter(truths)
        self._rng = np.random.default_rng(seed)

    def ask(self, jobs: list[EngineJob]) -> list[JobAnswers]:  # type: ignore[override]
        answered = []
        for job in jobs:
            truth = next(self._truths)
            answers = JobAnswers()
            for question in job.questions:
                if question.allowed is None:
                    continue
                scores = self._rng.normal(0, 1, len(question.allowed))
                state = truth.findings[question.finding or ""].change_answer
                if question.type is QuestionType.CHANGE and state in question.allowed and self._rng.random() < 0.85:
                    scores[question.allowed.index(state)] += 3
                answers.closed[question.key] = ClosedAnswer(
                    question=question, log_probabilities=tuple((2.0 * scores).tolist())
                )
            answered.append(answers)
        return answered


def _truths(seed: int, count: int = PAIRS) -> list[PairTruth]:
    rng = np.random.default_rng(seed)
    truths = []
    for number in range(count):
        findings = {}
        for key in FINDINGS:
            prior, current = (ImageTruth(present=bool(rng.random() < 0.4)) for _ in range(2))
            change = _CHANGES[prior.present, current.present]
            findings[key] = FindingTruth(key=key, current=current, prior=prior, change=change)
        truths.append(
            PairTruth(pair_id=f"{seed}/{number}", patient_id=f"{seed}/{number}", findings=findings, has_prior=True)
        )
    return truths


def _items(truths: list[PairTruth]) -> Iterator[tuple[Record, StudyPair]]:
    film = from_grey(np.kron(np.random.default_rng(0).random((8, 6)), np.ones((20, 20))).astype(np.float32), crop=False)
    for truth in truths:
        image = ImageRef(key="none", image_id=truth.pair_id)
        yield (
            Record(truth=truth, current=image, prior=image, split=Split.VALIDATE),
            StudyPair(current=film, prior=film),
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


def _says_as_counted(folder: Path, truths: list[PairTruth], seed: int) -> None:
    """The manifest's validation set is what the checkpoint, as it is served, says of the very pairs."""
    served = load_predictor(folder)
    served.engine = TellingEngine(served, truths, seed)
    said = [served.predict(pair).findings for _, pair in _items(truths)]
    found = served.manifest.validation
    assert found is not None
    assert found.pairs == found.with_prior == len(truths)
    for key in FINDINGS:
        stated = [finding for findings in said for finding in findings if finding.key == key]
        assert found.present[key] == sum(finding.presence is Presence.PRESENT for finding in stated)
    assert found.changes == Counter(f.change.value for findings in said for f in findings if f.change is not None)
    assert found.abstained == sum(any(f.presence is Presence.ABSTAINED for f in findings) for findings in said)
    certainty = np.array([np.mean([abs(2 * f.probability - 1) for f in findings]) for findings in said])
    borders = [-1.0, *found.certainty_edges, 2.0]
    wanted = [((low <= certainty) & (certainty < high)).sum() for low, high in itertools.pairwise(borders)]
    assert list(found.certainty) == wanted
    assert min(found.certainty) >= len(truths) // 5 - 1, "bins of about equally many"


def test_what_is_fitted_is_served(folder: Path) -> None:
    predictor = load_predictor(folder)
    predictor.engine = TellingEngine(predictor, _truths(1), 1)
    fitted = calibrate(predictor, _items(_truths(1)))
    assert fitted.answers == sum(
        1 + 1 + (truth.change_answer is not None) for pair in _truths(1) for truth in pair.findings.values()
    )
    assert fitted.joint.change > 0.5
    assert fitted.joint.presence < 0.3, "noise is not listened to"
    assert fitted.joint.prior_presence < 0.3
    assert fitted.coverage is not None
    assert fitted.accuracy is not None
    assert fitted.coverage >= FLOOR_COVERAGE
    assert fitted.accuracy >= FLOOR_ACCURACY or fitted.coverage < FLOOR_COVERAGE + 0.02
    manifest = rewrite_manifest(folder, **fitted.manifest_values())
    assert set(manifest.thresholds) == set(FINDINGS)
    _says_as_counted(folder, _truths(1), 1)
    assert set(manifest.joint) >= {"presence", "prior_presence", "change", *STATES} - {"none"}
    # On other pairs the stated changes are about as often right as on these, and each says how sure it is.
    served, truths = load_predictor(folder), _truths(2)
    served.engine = TellingEngine(served, truths, 2)
    sure, right = [], []
    for record, pair in _items(truths):
        for finding in served.predict(pair).findings:
            if finding.change_probability is not None:
                assert finding.change_probability >= manifest.certainty_floor
                sure.append(finding.change_probability)
                right.append(finding.change == record.truth.findings[finding.key].change_answer)
    assert len(sure) > 100
    assert np.mean(right) == pytest.approx(fitted.accuracy, abs=0.1)
    assert np.mean(sure) == pytest.approx(np.mean(right), abs=0.1)


def test_with_nothing_to_learn_from_the_manifest_stands(tmp_path: Path) -> None:
    """A retrained checkpoint with a handful of labelled pairs keeps how its predecessor was read."""
    folder = save_tiny(tmp_path / "tiny", manifest={"joint": {"change": 0.8, "new": -1.0}, "certainty_floor": 0.4})
    fitted = calibrate(load_predictor(folder), [])
    assert (fitted.temperatures, fitted.thresholds, fitted.answers, fitted.coverage) == ({}, {}, 0, None)
    assert fitted.joint == JointWeights(change=0.8, bias={"new": -1.0})
    assert fitted.floor == 0.4
    few = load_predictor(folder)
    few.engine = TellingEngine(few, _truths(3, 2), 3)
    fitted = calibrate(few, _items(_truths(3, 2)))
    assert fitted.temperatures
    assert (fitted.joint.change, fitted.floor, fitted.thresholds) == (0.8, 0.4, {})
    values = fitted.manifest_values(few.manifest.model_copy(update={"thresholds": {"edema": 0.99}}))
    assert values["thresholds"] == {"edema": 0.99}
    assert values["validation"].present["edema"] == 0, "read with the threshold that is kept"
