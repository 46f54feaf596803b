"""The whole circle: a biased champion, what radiologists say, a better one that serves, a harmful one, the way back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
import torch
from sqlalchemy import select

from dicom_node.admin import operations
from dicom_node.index.tables.core import Document, Notice, Result
from dicom_node.index.tables.models import ModelEvent
from dicom_node.index.tables.retrain import (
    Promote,
    RetrainDecision,
    RetrainItem,
    RetrainPatient,
    RetrainRun,
    RetrainSplit,
    RunState,
)
from dicom_node.retrain.run import RetrainOptions, RunOutcome, run_retrain
from dicom_node.retrain.types import RetrainError, folders_of
from dicom_node.serving import promotion as models
from dicom_node.serving.champion import ServingModels
from model.checkpoints.manifest import read_manifest
from model.predict import load_predictor
from tests.support.champions import untrained
from tests.support.retrain_site import Heard, Hospital, fork_stages, open_hospital, turned
from training.phantom.dicom import PhantomStudies

RECIPE = """
[run]
objective = "instructions"
steps = {steps}
checkpoint_every = 10
seed = 3

[optimiser]
rate = 1e-2
batch = 4
precision = "no"
attention = "eager"

[heads]
weight = 0.0

[data]
kind = "records"
temperature = 1e9
sets = [{{ data = "site:SNAPSHOT/train.jsonl", weight = 0.7 }}, {{ data = "{replay}", weight = 0.3 }}]
turns = 8
templates = false
"""
LIMITS: dict[str, Any] = {
    "min_patients": 20,
    "frozen_patients": 14,
    "frozen_share": 0.4,
    # a model of some thousand parameters learns in a hundred steps how often each answer is right and little more, so
    # it wins by what is absent and loses some of what is there
    "margin": 0.7,
    "calibration_margin": 0.3,
    "consistency_floor": 0.5,
}


def write_recipe(path: Path, steps: int, *, replay: str = "phantom:12@3000000") -> Path:
    path.write_text(RECIPE.format(steps=steps, replay=replay), "utf-8")
    return path


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hospital]:
    fork_stages(monkeypatch)
    torch.set_num_threads(1)
    champion = untrained(tmp_path / "biased")  # it says of nearly everything that it is there and new
    made = open_hospital(tmp_path / "node", champion, recipe=write_recipe(tmp_path / "retrain.toml", 100), **LIMITS)
    yield made
    made.node.database.close()


def retrain(hospital: Hospital, promote: Promote = Promote.AUTO, **options: bool) -> tuple[RunOutcome, Heard]:
    heard = Heard()
    hospital.clock.forward(hours=12)
    asked: dict[str, Any] = {"estimate": False} | options
    return run_retrain(hospital.node, RetrainOptions(who="engineer", promote=promote, **asked), heard), heard


def analysed(hospital: Hospital, models_: ServingModels, seed: int) -> tuple[PhantomStudies, Result]:
    (study,) = hospital.receive([seed])
    hospital.analyse(models_)
    return study, hospital.results()[study.current.study_instance_uid]


def answers(result: Result) -> str:
    """Everything that the model said, to the last digit."""
    return json.dumps([result.prediction["findings"], result.device_uid], sort_keys=True)


def documents(hospital: Hospital, result: Result) -> dict[str, pydicom.Dataset]:
    with hospital.node.database.read() as session:
        rows = session.scalars(select(Document).where(Document.result_pk == result.id)).all()
    return {row.kind: pydicom.dcmread(hospital.node.documents_dir / row.path) for row in rows}


@pytest.mark.timeout(1800)
def test_the_node_learns_from_its_hospital_and_never_gets_worse(hospital: Hospital) -> None:
    node = hospital.node
    biased = read_manifest(Path(node.settings.model.source)).device_uid
    studies = hospital.receive(range(40))
    hospital.answered_before(load_predictor(node.settings.model.source))
    outcome, heard = retrain(hospital)
    assert outcome is RunOutcome.TOO_FEW
    assert "20 patients with labels are needed" in heard.lines[-1]
    hospital.report(studies)

    with hospital.serving() as serving:
        first, before = analysed(hospital, serving, 900)
        assert before.device_uid == biased

        outcome, heard = retrain(hospital, estimate=True)
        assert outcome is RunOutcome.PROMOTED, "\n".join(heard.lines)
        assert any("it will take about" in line and "measured" in line for line in heard.lines)
        assert any("labelled: 40 images of 40 patients" in line for line in heard.lines)
        run = _last_run(hospital)
        assert run.state is RunState.PROMOTED
        better = read_manifest(node.models_dir / run.challenger)
        assert better.device_uid == run.challenger_device_uid != biased
        assert biased in better.base
        assert run.name in better.data_snapshot
        _pages_and_rows(hospital, run)

        hospital.wait_for(better.device_uid)
        _, after = analysed(hospital, serving, 901)
        assert after.device_uid == better.device_uid
        for document in documents(hospital, after).values():
            assert better.device_uid in str(document), "the report names the new device"
        assert retrain(hospital)[0] is RunOutcome.NOTHING_NEW

        _tell_lies(hospital, studies)
        outcome, heard = retrain(hospital)
        assert outcome is RunOutcome.REFUSED, "\n".join(heard.lines)
        assert _last_run(hospital).state is RunState.REFUSED
        reason = _last_run(hospital).reason
        assert "worse" in reason or "no significant improvement" in reason
        assert models.champion(node.models_dir) == run.challenger, "whoever served serves on"

        models.rollback(node, who="engineer", reason="to see that it works")
        hospital.wait_for(biased)
        with node.database.write() as session:
            uid = first.current.study_instance_uid
            operations.reprocess(session, uid, settings=node.settings, now=hospital.clock(), who="engineer")
        hospital.analyse(serving)
        again = hospital.results()[first.current.study_instance_uid]
        assert again.id != before.id
        assert answers(again) == answers(before), "the old answers, bit by bit"


def _last_run(hospital: Hospital) -> RetrainRun:
    with hospital.node.database.read() as session:
        run = session.scalars(select(RetrainRun).order_by(RetrainRun.id.desc())).first()
    assert run is not None
    return run


def _pages_and_rows(hospital: Hospital, run: RetrainRun) -> None:
    folder = folders_of(hospital.node).runs / run.name
    page, card = (folder / name for name in ("decision.html", "model-card.md"))
    for text in (page.read_text("utf-8"), card.read_text("utf-8")):
        assert run.challenger_device_uid in text
        assert "share of right answers" in text
    assert page.read_text("utf-8").count("<svg") >= 4, "differences, loss and reliability are drawn"
    with hospital.node.database.read() as session:
        decision = session.scalars(select(RetrainDecision).where(RetrainDecision.run_pk == run.id)).one()
        kinds = set(session.scalars(select(Notice.kind)))
        events = session.scalars(select(ModelEvent)).all()
    assert decision.passed
    assert decision.figures["patients"] == LIMITS["frozen_patients"]
    assert {"retraining", "model change"} <= kinds
    assert [event.who for event in events] == ["engineer"]


def _tell_lies(hospital: Hospital, studies: list[PhantomStudies]) -> None:
    """The reader turns every word on a patient of the training side; the frozen set keeps the truth."""
    with hospital.node.database.read() as session:
        frozen = {
            uid
            for uid, split in session.execute(
                select(RetrainItem.study_instance_uid, RetrainPatient.split).join(
                    RetrainPatient, RetrainPatient.patient == RetrainItem.patient
                )
            )
            if split is RetrainSplit.FROZEN
        }
    for number, pair in enumerate(studies):
        if pair.current.study_instance_uid not in frozen:
            hospital.report([pair], says=turned, first_source=number)


def test_two_at_a_time_and_a_recipe_without_the_site_are_refused(hospital: Hospital, tmp_path: Path) -> None:
    from dicom_node.retrain import run as command

    with command._sole(folders_of(hospital.node)), pytest.raises(RetrainError, match="another retraining runs"):
        retrain(hospital)
    elsewhere = write_recipe(tmp_path / "elsewhere.toml", 4)
    elsewhere.write_text(elsewhere.read_text("utf-8").replace("site:SNAPSHOT/train.jsonl", "phantom:10"), "utf-8")
    section = hospital.node.settings.retrain.model_copy(
        update={"recipe": elsewhere, "min_patients": 1, "frozen_patients": 1}
    )
    node = dataclasses.replace(hospital.node, settings=hospital.node.settings.model_copy(update={"retrain": section}))
    other = dataclasses.replace(hospital, node=node)
    studies = other.receive(range(4))
    other.answered_before(load_predictor(node.settings.model.source))
    other.report(studies)
    with pytest.raises(RetrainError, match="nothing of this site"):
        retrain(other)
