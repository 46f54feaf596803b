"""Earlier results that a report may use: current ones of its own checkpoint, read again when they change."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from dicom_node.analysis.earlier_results import EarlierResults, with_course
from dicom_node.context import NodeContext
from dicom_node.index.tables.core import Outcome, Result, Study
from dicom_node.priors import ImageFacts, choose_prior
from dicom_node.report.request import SourceImage
from dicom_node.report.rules import Seen
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.course import course_sentences
from model.schema import Change
from tests.support import report_cases as cases
from tests.support.delivery_node import Clock, make_node
from tests.support.prior_values import image

EFFUSION = "pleural_effusion"
DEVICE = cases.MODEL.device_uid
NOW = dt.datetime(2026, 3, 10, 8, 15)  # noqa: DTZ001 - DICOM local time
CURRENT = image("current", taken=NOW)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeContext]:
    made = make_node(tmp_path, Clock())
    yield made
    made.database.close()


def _film(days: int) -> ImageFacts:
    return image(f"day {days}", taken=NOW - dt.timedelta(days=days))


def _store(node: NodeContext, film: ImageFacts, seen: str, level: str | None = None, **values: Any) -> None:
    finding = {"key": EFFUSION, "seen": seen, "level": level, "location": "left", "probability": 0.9}
    with node.database.write() as session:
        study = Study(
            study_instance_uid=film.study_instance_uid, first_instance_at=node.clock(), last_instance_at=node.clock()
        )
        session.add(study)
        session.flush()
        made = {"device_uid": DEVICE, "sop_instance_uid": film.sop_instance_uid, **values}
        findings = {"findings": [finding | {"presence": "present"}]}
        session.add(
            Result(
                study_pk=study.id,
                revision=1,
                outcome=Outcome.FINDINGS_ONLY,
                prediction=findings,
                created_at=node.clock(),
                **made,
            )
        )


def test_a_report_is_told_the_course_by_its_own_checkpoint(node: NodeContext) -> None:
    films = [_film(days) for days in (9, 7, 2)]
    _store(node, films[0], "not seen")
    _store(node, films[1], "seen", "severe")
    _store(node, films[2], "seen", "moderate")
    other = _film(5)
    _store(node, other, "seen", "severe", device_uid="2.25.5")
    stranger = image("stranger", taken=NOW - dt.timedelta(days=4), view_position="LL")
    _store(node, stranger, "seen", "severe")  # a lateral film is admitted by no rule
    choice = choose_prior(CURRENT, [*films, other, stranger])
    said = cases.prediction(cases.finding(EFFUSION, Change.IMPROVING, location="left", level="mild"))
    prior = SourceImage(header=cases.header("prior", "20260308"), image=cases.image(2))
    request = with_course(cases.request(said, prior=prior), choice, EarlierResults(node).read)
    assert [point.taken.day for point in request.course] == [1, 3, 8]
    assert request.earlier is not None
    assert request.earlier[EFFUSION].seen is Seen.SEEN
    assert course_sentences(request, catalogue("en")) == (
        "Pleural effusion: first seen on 3 March 2026, largest on 3 March 2026, smaller since.",
        "One earlier film was read by another model and is not in this course.",
    )


def test_a_result_that_comes_or_goes_meanwhile_is_noticed(node: NodeContext) -> None:
    films = [_film(9), _film(2)]
    _store(node, films[0], "seen")
    results = EarlierResults(node)
    results.read([film.sop_instance_uid for film in films], DEVICE)
    with node.database.read() as session:
        assert not results.have_changed(session)
    _store(node, _film(30), "seen")  # of no film that was read
    with node.database.read() as session:
        assert not results.have_changed(session)
    _store(node, films[1], "seen")
    with node.database.read() as session:
        assert results.have_changed(session)
    again = EarlierResults(node)
    again.read([film.sop_instance_uid for film in films], DEVICE)
    with node.database.write() as session:
        session.execute(
            update(Result).where(Result.sop_instance_uid == films[0].sop_instance_uid).values(is_current=False)
        )
    with node.database.read() as session:
        assert again.have_changed(session)
