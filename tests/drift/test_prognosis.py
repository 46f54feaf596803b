"""Prognoses against the next study: paired by the prior, judged by the week, alarming only beyond chance."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from dicom_node.context import NodeContext
from dicom_node.drift import weekly
from dicom_node.drift.prognosis import CAME_TRUE, JudgedPrognosis, judge_prognoses, load_judged_prognoses
from dicom_node.index.tables.core import Notice, Outcome, Result, Study
from dicom_node.index.tables.models import DriftFigure
from model.schema import Change
from tests.support.delivery_node import START, Clock, make_node

DEVICE = "2.25.1"


def _drawn(n: int, *, probability: float, true: float, seed: int = 3) -> list[JudgedPrognosis]:
    rng = np.random.default_rng(seed)
    return [
        JudgedPrognosis(
            finding="edema",
            predicted=Change.IMPROVING,
            probability=probability,
            observed=Change.IMPROVING if rng.random() < true else Change.STABLE,
        )
        for _ in range(n)
    ]


def test_right_probabilities_do_not_alarm_and_wrong_ones_do() -> None:
    right = judge_prognoses(_drawn(200, probability=0.7, true=0.7), min_items=50, false_alarms=0.01)
    assert set(right) == {CAME_TRUE, f"{CAME_TRUE}, stated 60% to 80%"}
    assert not any(verdict.alarm for verdict in right.values())
    assert right[CAME_TRUE].baseline == pytest.approx(0.7)
    bold = judge_prognoses(_drawn(200, probability=0.9, true=0.6), min_items=50, false_alarms=0.01)
    assert all(verdict.alarm for verdict in bold.values())
    assert bold[CAME_TRUE].value < bold[CAME_TRUE].low
    assert judge_prognoses(_drawn(49, probability=0.9, true=0.1), min_items=50, false_alarms=0.01) == {}


def test_false_alarms_are_as_rare_as_set() -> None:
    weeks = [_drawn(100, probability=0.55, true=0.55, seed=seed) for seed in range(300)]
    alarms = sum(judge_prognoses(week, min_items=50, false_alarms=0.02)[CAME_TRUE].alarm for week in weeks)
    assert alarms <= 12, f"{alarms} of 300 weeks without a fault, 1 % each expected"


def _add(node: NodeContext, number: int, *, prior: str = "", device_uid: str = DEVICE, **prediction: Any) -> str:
    """One study's current result; returns its image's UID."""
    now, image = node.clock(), f"2.25.9.{number}"
    with node.database.write() as session:
        study = Study(study_instance_uid=f"2.25.8.{number}", first_instance_at=now, last_instance_at=now)
        session.add(study)
        session.flush()
        session.add(
            Result(
                study_pk=study.id,
                revision=1,
                sop_instance_uid=image,
                outcome=Outcome.COMPARED if prior else Outcome.FINDINGS_ONLY,
                prior_sop_instance_uid=prior,
                prediction=prediction,
                device_uid=device_uid,
                created_at=now,
            )
        )
    return image


def _foretold(change: str = "improving", probability: float = 0.9) -> dict[str, Any]:
    return {"prognosis": [{"key": "edema", "change": change, "probability": probability}], "findings": []}


def _shown(change: str | None) -> dict[str, Any]:
    return {"findings": [{"key": "edema", "change": change}]}


def test_a_prognosis_is_judged_by_the_next_study_of_the_same_checkpoint(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock)
    first = _add(node, 1, **_foretold())
    _add(node, 2, prior=first, **_shown("stable"))
    unclear = _add(node, 3, **_foretold())
    _add(node, 4, prior=unclear, **_shown("not comparable"))
    silent = _add(node, 5, **_foretold())
    _add(node, 6, prior=silent, **_shown(None))
    other = _add(node, 7, device_uid="2.25.2", **_foretold())
    _add(node, 8, prior=other, **_shown("improving"))
    appears = _add(node, 9, **_foretold("new"))
    _add(node, 10, prior=appears, findings=[{"key": "edema", "change": None, "seen": "not seen"}])
    _add(node, 11, **_foretold())
    with node.database.read() as session:
        window = {"since": START - dt.timedelta(days=1), "until": START + dt.timedelta(days=1)}
        assert load_judged_prognoses(session, **window) == {
            DEVICE: [
                JudgedPrognosis(finding="edema", predicted=Change.IMPROVING, probability=0.9, observed=Change.STABLE),
                JudgedPrognosis(finding="edema", predicted=Change.NEW, probability=0.9, observed=None),
            ]
        }


def test_a_week_of_wrong_prognoses_is_a_figure_and_one_notice(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock, drift={"min_pairs": 20})
    for number in range(1, 61, 2):
        image = _add(node, number, **_foretold())
        _add(node, number + 1, prior=image, **_shown("worsening" if number % 4 == 1 else "improving"))
    clock.forward(days=8)
    for _ in range(2):  # a second look changes nothing
        weekly.run(node)
    with node.database.read() as session:
        rows = {
            row.figure: row
            for row in session.scalars(select(DriftFigure).where(DriftFigure.figure.startswith(CAME_TRUE)))
        }
        notices = session.scalars(select(Notice).where(Notice.text.contains("prognosis in the week"))).all()
    overall = rows[CAME_TRUE]
    assert (overall.n, overall.value, overall.alarm) == (30, 0.5, True)
    assert overall.baseline == pytest.approx(0.9)
    assert len(notices) == 1
