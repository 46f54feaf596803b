"""Priors fetched from real archives: Orthanc by C-MOVE, C-GET and DICOMweb, dcmqrscp by C-MOVE and C-GET."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.config import QueryPeer, Retrieve
from dicom_node.context import NodeContext
from dicom_node.errors import RetrieveError
from dicom_node.index.queries import instances_of_study, prior_candidates, study_by_uid
from dicom_node.index.tables.core import Job, JobKind, JobState, Study, StudyState
from dicom_node.jobs import queue as jobs
from dicom_node.priors import choose_prior, facts_of_rows
from dicom_node.priors.retrieval import job as fetch
from dicom_node.priors.retrieval import prefetch
from dicom_node.priors.retrieval.instance_count import CountAgreement
from dicom_node.priors.search_notes import search_notes
from dicom_node.studies import completion
from tests.support.archives import (
    CURRENT_FILM,
    FILMS,
    Qrscp,
    data_set_bytes,
    fetching_node,
    film,
    held,
    part10,
    receive,
    running_qrscp,
    searches,
    uid,
)
from tests.support.common import free_port
from tests.support.orthanc import Orthanc, running_orthanc


@dataclass(frozen=True, slots=True, kw_only=True)
class Archives:
    """Both archives and the port at which they believe LUMEN to listen."""

    node_port: int
    orthanc: Orthanc
    qrscp: Qrscp

    def peer(self, kind: str) -> QueryPeer:
        name, _, how = kind.partition("-")
        if name == "orthanc":
            return QueryPeer(
                name=name,
                ae_title="ORTHANC",
                port=self.orthanc.dicom_port,
                retrieve=Retrieve(how),
                url=self.orthanc.dicomweb_url,
            )
        return QueryPeer(name=name, ae_title="QRSCP", port=self.qrscp.port, retrieve=Retrieve(how))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archives]:
    folder, port = tmp_path_factory.mktemp("archives"), free_port()
    with (
        running_orthanc(folder / "orthanc", modalities={"LUMEN": ("127.0.0.1", port)}) as orthanc,
        running_qrscp(folder / "qrscp", node_port=port) as qrscp,
    ):
        for data_set in FILMS:
            orthanc.upload(part10(data_set))
        yield Archives(node_port=port, orthanc=orthanc, qrscp=qrscp)


def work(node: NodeContext) -> JobState:
    """Run the sweep's part and the fetch job as the worker does; returns what became of the job."""
    with node.database.write() as session:
        prefetch.enqueue_for_open(session, node.settings, now=node.clock())
    with node.database.write() as session:
        job = jobs.claim(session, kinds=[JobKind.FETCH], owner="test")
    assert job is not None
    fetch.handle(job, node)
    with node.database.read() as session:
        return session.scalars(select(Job.state).where(Job.id == job.id)).one()


KINDS = ["orthanc-move", "orthanc-get", "orthanc-dicomweb", "dcmqrscp-move", "dcmqrscp-get"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_may_be_a_prior_comes_and_nothing_else(archives: Archives, tmp_path: Path, kind: str) -> None:
    with fetching_node(tmp_path, [archives.peer(kind)], port=archives.node_port) as node:
        assert work(node) is JobState.DONE
        came = held(node)
        came.pop("knee", None)  # dcmqrscp keeps no body part: only the image itself tells
        assert came == {"march": ("prior", 2), "january": ("prior", 1)}
        (search,) = searches(node)
        assert (search.outcome, {uid("march"), uid("january")} - set(search.fetched)) == ("fetched", set())
        _assert_whole(node, kind)
        assert "2024-04-03 was not fetched: the patient ID agrees but the birth date differs" in search.detail
        with node.database.write() as session:
            now = node.clock() + dt.timedelta(days=1)
            closed = completion.sweep(session, completion=node.settings.completion, now=now)
            assert {uid("current"), uid("march"), uid("january")} <= set(closed)
            kinds = session.scalars(select(Job.key).where(Job.kind == JobKind.ANALYSE)).all()
        assert kinds == [completion.analyse_key(uid("current"), 1)], "priors are not analysed by themselves"
        with node.database.read() as session:
            study = study_by_uid(session, uid("current"))
            assert study is not None
            rows = [*instances_of_study(session, study.id), *prior_candidates(session, study)]
        current, *candidates = [facts_of_rows(row.series.study, row.series, row) for row in rows]
        prior = choose_prior(current, candidates).prior
        assert prior is not None
        assert prior.sop_instance_uid == FILMS[1].SOPInstanceUID


def _assert_whole(node: NodeContext, kind: str) -> None:
    """The pixels are those of the archive. By C-GET from dcmqrscp the very bytes; others write some elements anew."""
    with node.database.read() as session:
        march = session.scalars(select(Study).where(Study.study_instance_uid == uid("march"))).one()
        rows = {row.sop_instance_uid: row.path for row in instances_of_study(session, march.id)}
    sent = {f.SOPInstanceUID: f for f in FILMS if uid("march") == f.StudyInstanceUID}
    assert set(rows) == set(sent)
    for instance, path in rows.items():
        content = node.store.read_data_set(path)
        assert sent[instance].PixelData in content
        if kind == "dcmqrscp-get":
            assert content == data_set_bytes(sent[instance])


def test_what_turns_out_to_be_no_chest_takes_no_place(archives: Archives, tmp_path: Path) -> None:
    with fetching_node(tmp_path, [archives.peer("dcmqrscp-get")], fetch_studies=1) as node:
        work(node)
        assert held(node)["march"] == ("prior", 2)
        assert "january" not in held(node)


def test_only_what_is_newer_than_what_we_have(archives: Archives, tmp_path: Path) -> None:
    with fetching_node(tmp_path, [archives.peer("orthanc-get")]) as node:
        receive(node, film("february", "20240210"))
        work(node)
        assert set(held(node)) == {"march", uid("february")}


def test_nothing_is_fetched_twice(archives: Archives, tmp_path: Path) -> None:
    with fetching_node(tmp_path, [archives.peer("orthanc-get")]) as node:
        for data_set in FILMS[:3]:
            receive(node, data_set)
        work(node)
        (search,) = searches(node)
        assert (search.outcome, search.fetched) == ("nothing", [])
        assert held(node)["march"] == ("routed", 2)


def test_a_study_above_the_limit_is_not_fetched_and_that_is_said(archives: Archives, tmp_path: Path) -> None:
    with fetching_node(tmp_path, [archives.peer("orthanc-get")], fetch_instances=1, fetch_studies=1) as node:
        with node.database.write() as session:
            prefetch.enqueue_for_open(session, node.settings, now=node.clock())
            job = jobs.claim(session, kinds=[JobKind.FETCH], owner="test")
        assert job is not None
        with pytest.raises(RetrieveError, match=r"2 images, more than priors\.fetch_instances allows"):
            fetch.handle(job, node)
        assert held(node) == {}
        assert searches(node)[0].outcome == "failed"


def test_two_peers_and_the_second_has_it(archives: Archives, tmp_path: Path) -> None:
    """The first one is down. Its failure is told; the job is tried again; the prior is here all the same."""
    down = QueryPeer(name="a-down", ae_title="DOWN", port=free_port(), retrieve=Retrieve.GET)
    with fetching_node(tmp_path, [down, archives.peer("orthanc-get")]) as node:
        with pytest.raises(RetrieveError, match="'a-down' cannot be reached"):
            work(node)
        assert set(held(node)) == {"march", "january"}
        assert [s.outcome for s in searches(node)] == ["failed", "fetched"]
        with node.database.read() as session:
            study = study_by_uid(session, uid("current"))
            assert study is not None
            notes = search_notes(session, study)
        assert len(notes) == 1
        assert "The archive 'a-down' cannot be reached" in notes[0]


@pytest.mark.parametrize("kind", ["orthanc-dicomweb", "dcmqrscp-move"])
def test_completion_by_count(archives: Archives, tmp_path: Path, kind: str) -> None:
    """Two images are there and the archive says two: complete before the quiet period is over."""
    later = dt.timedelta(seconds=16)
    with fetching_node(tmp_path, [archives.peer(kind)], port=archives.node_port) as node:
        now = node.clock()
        for data_set in FILMS[1:3]:
            agreement = CountAgreement()
            receive(node, data_set, now=now)
            agreement(NodeContext(settings=node.settings, database=node.database, store=node.store, clock=lambda: now))
            agreement(
                NodeContext(settings=node.settings, database=node.database, store=node.store, clock=lambda: now + later)
            )
            with node.database.read() as session:
                study = study_by_uid(session, uid("march"))
            assert study is not None
            whole = data_set is FILMS[2]
            assert (study.state is StudyState.COMPLETE) is whole
        assert study is not None
        assert study.completed_by == "count"
        with node.database.read() as session:
            current = study_by_uid(session, uid("current"))
        assert current is not None
        assert current.state is StudyState.OPEN, "the archive does not hold it at all"
        assert CURRENT_FILM.StudyInstanceUID == uid("current")
