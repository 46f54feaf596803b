"""Studies of one patient in their order and shuffled, with the chart: the same documents.

Everything but the network is the node's own: store, index, completion, jobs, a model that takes several images.
"""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_node.context import NodeContext
from dicom_node.feedback.reports.hl7_listener import Hl7Listener
from dicom_node.hl7.times import FORM
from dicom_node.index.tables.core import Job, JobState, Outcome, Result, Study
from model.predict import load_predictor
from tests.support.chain import Models, analyse_all, current_results, document, receive, text_of
from tests.support.chart_messages import SENDER, lab, order
from tests.support.delivery_node import Clock, make_node
from tests.support.reporting import MllpPeer
from tests.support.tiny_nvila import save_tiny
from training.phantom.course import ClinicalOptions
from training.phantom.course_dicom import write_course

FILMS = 4
SHUFFLED = (2, 0, 3, 1)
DECISIVE = dict.fromkeys(("presence", "prior_presence", "change", "side", "grade"), 0.01)
"""Temperatures that let a model of random weights say something of every film."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    values = {"images": 3, "context": True, "calibrated_on": 100, "calibration": DECISIVE}
    return Models(
        predictor=load_predictor(save_tiny(tmp_path_factory.mktemp("models") / "tiny", manifest=values, brief=True))
    )


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """Oldest first."""
    options = ClinicalOptions(films=(FILMS, FILMS))
    made = write_course(tmp_path_factory.mktemp("films"), 7, options=options, long_side=320)
    return [pydicom.dcmread(study.files[0]) for study in made.studies]


@pytest.fixture(scope="module")
def nodes(
    tmp_path_factory: pytest.TempPathFactory, models: Models, films: list[Dataset]
) -> Iterator[tuple[NodeContext, NodeContext]]:
    """Two nodes that took the same studies and messages, one in their order and one shuffled."""
    made = []
    for name, order_of_arrival in (("ordered", range(FILMS)), ("shuffled", SHUFFLED)):
        sections = {"hl7": {"enabled": True, "port": 0}, "chart": {"senders": [SENDER]}}
        node = make_node(tmp_path_factory.mktemp(name), Clock(), **sections)
        _send_chart(node, films[2])
        for number in order_of_arrival:
            receive(node, films[number])
            analyse_all(node, models)
        made.append(node)
    yield made[0], made[1]
    for node in made:
        node.database.close()


def _send_chart(node: NodeContext, film: Dataset) -> None:
    """To one film: a value of two hours before, a drug since the day before, a value reported an hour after."""
    taken = dt.datetime.strptime(film.AcquisitionDate + film.AcquisitionTime, FORM)  # noqa: DTZ007 - DICOM local time
    patient = f"{film.PatientID}^^^{film.IssuerOfPatientID}"

    def at(**before: float) -> str:
        return (taken - dt.timedelta(**before)).strftime(FORM)

    two, one, after = at(hours=2), at(hours=1), at(hours=-1)
    messages = (
        lab(patient=patient, taken=two, reported=one, at=one, filler="F-1"),
        order(patient=patient, placed=at(days=1), begins=at(days=1)),
        lab("12", code="6690-2^Leukocytes^LN", unit="10*9/L", patient=patient, taken=two, reported=after, at=after),
    )
    listener = Hl7Listener(node)
    listener.start()
    try:
        with MllpPeer(listener.port) as peer:
            assert [peer.ask(message)[:7] for message in messages] == ["MSA|AA|"] * 3
    finally:
        listener.stop()


def _current(node: NodeContext, films: list[Dataset]) -> list[Result]:
    """The one current result of each study, oldest first."""
    found = []
    for film in films:
        (result,) = current_results(node, film.StudyInstanceUID)
        found.append(result)
    return found


def _content(dataset: Dataset) -> list[tuple[str, ...]]:
    """Every item of the tree: name, value type and value."""
    found = []
    for item in dataset.get("ContentSequence", []):
        name = item.ConceptNameCodeSequence[0].CodeValue if "ConceptNameCodeSequence" in item else ""
        value = item.get("TextValue") or item.get("Date") or item.get("UID") or ""
        if "ConceptCodeSequence" in item:
            value = item.ConceptCodeSequence[0].CodeValue
        if "MeasuredValueSequence" in item:
            value = item.MeasuredValueSequence[0].NumericValue
        found += [(str(name), str(item.ValueType), str(value)), *_content(item)]
    return found


@pytest.mark.parametrize("kind", ["reading", "machine"])
def test_a_shuffled_order_gives_the_same_documents(
    nodes: tuple[NodeContext, NodeContext], films: list[Dataset], kind: str
) -> None:
    ordered, shuffled = ([_content(document(node, one, kind)) for one in _current(node, films)] for node in nodes)
    assert ordered == shuffled


def test_nothing_is_done_twice_in_order_and_no_job_is_left(
    nodes: tuple[NodeContext, NodeContext], films: list[Dataset]
) -> None:
    assert [one.generation for one in _current(nodes[0], films)] == [1] * FILMS
    assert max(one.generation for one in _current(nodes[1], films)) > 1
    for node in nodes:
        with node.database.read() as session:
            assert set(session.scalars(select(Job.state).where(Job.key.startswith("analyse:")))) == {JobState.DONE}
            assert set(session.scalars(select(Study.state))) == {"analysed"}


def test_a_study_of_long_ago_is_not_reported_anew(tmp_path: Path, models: Models, films: list[Dataset]) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock)
    receive(node, films[3])
    analyse_all(node, models)
    clock.forward(days=8)
    receive(node, films[2])
    analyse_all(node, models)
    assert [one.generation for one in _current(node, films[2:])] == [1, 1]
    node.database.close()


def test_the_report_tells_the_images_and_the_chart_of_its_day(
    nodes: tuple[NodeContext, NodeContext], films: list[Dataset]
) -> None:
    readings = [document(nodes[1], one) for one in _current(nodes[1], films)]
    texts = [" ".join(text_of(one).split()) for one in readings]
    assert "The model also saw the earlier chest radiograph of" in texts[-1]
    assert "CRP 184 mg/L, 2 h before; diuretics, begun 24 h before" in texts[2]
    assert [("CRP" in one, "leukocytes" in one) for one in texts] == [
        (False, False),
        (False, False),
        (True, False),  # the leukocytes were reported an hour after this film
        (True, True),
    ]


def test_a_study_that_could_not_be_analysed_is_not_reported_twice(
    tmp_path: Path, models: Models, films: list[Dataset]
) -> None:
    """Its reason lies in its own images; the one behind it is reported anew all the same."""
    node = make_node(tmp_path, Clock())
    blank = copy.deepcopy(films[2])
    blank.PixelData = bytes(len(blank.PixelData))
    for film in (films[0], blank, films[3], films[1]):
        receive(node, film)
        analyse_all(node, models)
    first, late, refused, last = _current(node, [films[0], films[1], blank, films[3]])
    assert refused.outcome is Outcome.NOT_ANALYSED
    assert (first.generation, late.generation, refused.generation, last.generation) == (1, 1, 1, 2)
    assert last.prior_sop_instance_uid == films[1].SOPInstanceUID
