"""Studies that wait share the model's next batch, and each gets its own answer."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from dicom_node.config import ModelSection
from dicom_node.errors import AnalysisError
from dicom_node.index.tables.core import Job, JobState, Result
from dicom_node.serving.batching import BatchedPredictor
from dicom_node.serving.model_process import InferenceProcess
from model.images.display import from_grey
from model.schema import Prediction, StudyPair
from tests.support.checkpoints import tiny_checkpoint
from tests.support.common import wait_until
from tests.support.dcmtk import storescu
from tests.support.node import new_node, running
from tests.support.tiny_nvila import save_tiny
from training.phantom.dicom import write_study_pair

SECONDS = 300.0


class Counted(InferenceProcess):
    """The real process; notes how many pairs each message had."""

    def __init__(self, source: Path) -> None:
        section = ModelSection(source=str(source), timeout_seconds=SECONDS)
        super().__init__(section, source=lambda: str(source), threads=1)
        self.asked: list[int] = []

    def predict_many(self, pairs: Sequence[StudyPair]) -> list[Prediction]:
        self.asked.append(len(pairs))
        return super().predict_many(pairs)


def _pair(seed: int) -> StudyPair:
    grey = np.kron(np.random.default_rng(seed).random((8, 8)), np.ones((20, 20)))
    return StudyPair(current=from_grey(grey.astype(np.float32), crop=False))


def _said(prediction: Prediction) -> list[float]:
    return [finding.probability for finding in prediction.findings]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def model(source: Path) -> Iterator[Counted]:
    process = Counted(source)
    yield process
    process.close()


def _child() -> int:
    (pid,) = [child.pid for child in multiprocessing.active_children() if child.name == "model" and child.pid]
    return pid


@pytest.mark.parametrize("ending", [signal.SIGCONT, signal.SIGKILL])
def test_what_waits_goes_together_and_everybody_gets_their_own_answer(model: Counted, ending: signal.Signals) -> None:
    alone = [_said(model.predict(_pair(seed))) for seed in range(6)]
    model.asked.clear()
    together = BatchedPredictor(model, max_studies=3)
    child = _child()
    os.kill(child, signal.SIGSTOP)
    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(together.predict, _pair(0))
        wait_until(lambda: model.asked == [1], what="the first pair to be asked")
        rest = [threads.submit(together.predict, _pair(seed)) for seed in range(1, 6)]
        wait_until(lambda: together._batches.waiting == 5, what="five pairs to wait")
        os.kill(child, ending)
        found = [_said(future.result(SECONDS)) for future in [first, *rest]] if ending is signal.SIGCONT else None
        if found is None:  # the pair that was with the killed process fails; the others have answers of a new one
            assert first.exception(SECONDS) is not None
            found = [alone[0], *(_said(future.result(SECONDS)) for future in rest)]
    # threads come in any order: what each one gets must be its own
    assert np.allclose(found, alone, atol=1e-4)
    assert model.asked == [1, 3, 2]


def test_without_a_model_everybody_is_told_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    together = BatchedPredictor(Counted(tmp_path / "nothing"), max_studies=4)
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(together.predict, _pair(seed)) for seed in range(4)]
        assert all(isinstance(future.exception(SECONDS), AnalysisError) for future in futures)


@pytest.mark.timeout(900)
def test_a_node_analyses_waiting_studies_side_by_side(tmp_path: Path) -> None:
    configured = tmp_path / "configured"
    tiny_checkpoint(configured, seed=1)
    node = new_node(tmp_path / "node", extra=f'[model]\nsource = "{configured}"\nstudies_at_once = 3\n')
    made = [write_study_pair(tmp_path / str(seed), seed, long_side=384) for seed in (3, 4, 5)]
    with running(node):
        storescu([file for pair in made for file in (*pair.prior.files, *pair.current.files)], node.port)

        def results() -> int:
            with node.database() as database, database.read() as session:
                return session.scalar(select(func.count(Result.id)).where(Result.is_current)) or 0

        def waiting() -> int:
            with node.database() as database, database.read() as session:
                return session.scalar(select(func.count(Job.id)).where(Job.state != JobState.DONE)) or 0

        wait_until(lambda: results() == 6 and not waiting(), seconds=600, what="a result for each study")
    with node.database() as database, database.read() as session:
        assert session.scalars(select(Job.state).distinct()).all() == [JobState.DONE]
        current = select(func.count(Result.id)).where(Result.is_current)
        made_in_all = session.scalar(select(func.count(Result.id)))
        compared = session.scalar(current.where(Result.prior_sop_instance_uid != ""))
    assert compared == 3
    assert made_in_all == 6, "each patient's earlier film was read before the later one, which is not reported twice"
