"""A peer that drops, lies, floods or never answers: the search ends in time, in a sentence; the analysis goes on."""

from __future__ import annotations

import datetime as dt
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from dicom_node.config import QueryPeer, Retrieve
from dicom_node.context import NodeContext
from dicom_node.errors import RetrieveError
from dicom_node.index.queries import study_by_uid
from dicom_node.index.tables.core import ExpectedRetrieval, Job, JobKind, JobState
from dicom_node.jobs import queue as jobs
from dicom_node.priors.retrieval import fetch as arrival
from dicom_node.priors.retrieval import job as fetch
from dicom_node.priors.retrieval import prefetch
from dicom_node.priors.search_notes import search_notes
from dicom_node.studies import completion
from tests.support.archives import FILMS, fetching_node, film, held, receive, searches, uid
from tests.support.common import assert_within, free_port
from tests.support.faulty_archive import Fault, FaultyPeer, faulty_peer
from tests.support.receiver import send

MARCH = [FILMS[1], film("march", "20240310", 2)]
"""Two films in one series."""
PATIENCE = {"query_seconds": 1, "retrieve_seconds": 1}


def claimed(node: NodeContext, now: dt.datetime | None = None) -> jobs.ClaimedJob:
    now = now or node.clock()
    with node.database.write() as session:
        prefetch.enqueue_for_open(session, node.settings, now=now)
        # Due times are the database's: what waits for its next attempt is brought forward instead of the clock.
        waiting = (Job.kind == JobKind.FETCH) & (Job.state == JobState.READY) & (Job.attempts > 0)
        session.execute(update(Job).where(waiting).values(run_at=now - dt.timedelta(days=1)))
        job = jobs.claim(session, kinds=[JobKind.FETCH], owner="test")
    assert job is not None
    return job


def fetched(folder: Path, peer: FaultyPeer, *, seconds: float = 20, **changes: Any) -> NodeContext:
    """Run the fetch job once against a peer; checks that it ends in time."""
    patience = (
        {"query_seconds": 20, "retrieve_seconds": 1}
        if "FLOODS" in peer.fault.name or "UNSTOPPED" in peer.fault.name
        else PATIENCE
    )
    with fetching_node(folder, [peer.peer(**changes)], port=peer.node_port, **patience) as node:
        job = claimed(node)
        begun = time.monotonic()
        with suppress(RetrieveError):
            fetch.handle(job, node)
        assert_within(seconds, since=begun)
    return node


@pytest.mark.parametrize(
    ("fault", "outcome", "said"),
    [
        (Fault.NONE, "fetched", ""),
        (Fault.FIND_SILENT, "failed", "did not answer C-FIND in time"),
        (Fault.FIND_FAILS, "failed", "answered C-FIND with status A700H"),
        (Fault.FIND_ABORTS, "failed", "did not answer C-FIND in time, or broke off"),
        (Fault.FIND_FLOODS, "failed", "lists 1000 or more matches"),
        (Fault.FIND_UNSTOPPED, "failed", "lists 1000 or more matches and hears no cancel"),
        (Fault.COUNTS_ZERO, "fetched", ""),
        (Fault.FIND_DRIPS, "failed", "did not answer C-FIND in time, or broke off"),
        (Fault.FIND_DEAF, "fetched", ""),
        (Fault.FIND_GARBAGE, "nothing", "lists no earlier chest radiograph"),
        (Fault.SERIES_FAILS, "fetched", ""),
        (Fault.MOVE_LIES, "failed", "said success; 0 of 2 images arrived"),
        (Fault.MOVE_SHORT, "failed", "said success; 1 of 2 images arrived"),
        (Fault.MOVE_PARTIAL, "failed", "could not send 1 of the images (C-MOVE status B000H); 1 of 2 images arrived"),
        (Fault.MOVE_UNKNOWN, "failed", "does not know our AE title as a move destination"),
        (Fault.MOVE_ABORTS, "failed", "did not answer C-MOVE in time, or broke off; 0 of 2"),
        (Fault.MOVE_SILENT, "failed", "did not answer C-MOVE in time"),
        (Fault.MOVE_OTHER, "failed", "said success; 0 of 2 images arrived"),
    ],
)
def test_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, outcome: str, said: str) -> None:
    monkeypatch.setattr(arrival, "SETTLE_SECONDS", 0.5)
    films = [*MARCH, film("somebody", "20240301", PatientID="P12")]
    with faulty_peer(films, fault, node_port=free_port()) as peer:
        node = fetched(tmp_path, peer)
        (search,) = searches(node)
        assert (search.outcome, said in search.detail) == (outcome, True), search.detail
        if fault is Fault.FIND_FLOODS:
            assert peer.cancelled
    study, count = held(node).get("march", ("prior", 0))
    assert study == "prior"
    assert count == {"fetched": 2}.get(outcome, 1 if fault in (Fault.MOVE_SHORT, Fault.MOVE_PARTIAL) else 0)


def test_get_against_a_lying_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "SETTLE_SECONDS", 0.5)
    with faulty_peer(MARCH, Fault.MOVE_SHORT, node_port=0) as peer:
        node = fetched(tmp_path, peer, retrieve=Retrieve.GET)
    assert "1 of 2 images arrived" in searches(node)[0].detail


def test_nobody_there_and_somebody_who_never_speaks(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        for number, port in enumerate((free_port(), mute.getsockname()[1])):
            for retrieve in (Retrieve.MOVE, Retrieve.DICOMWEB):
                peer = QueryPeer(name="mute", port=port, retrieve=retrieve, url=f"http://127.0.0.1:{port}")
                folder = tmp_path / f"{number}-{retrieve}"
                with fetching_node(folder, [peer], **PATIENCE) as node:
                    begun = time.monotonic()
                    with pytest.raises(RetrieveError, match="'mute' cannot be reached"):
                        fetch.handle(claimed(node), node)
                    assert_within(5, since=begun)


def test_a_failed_search_is_tried_again_then_told_and_the_analysis_goes_on(tmp_path: Path) -> None:
    down = QueryPeer(name="down", port=free_port())
    with fetching_node(tmp_path, [down], **PATIENCE, wait_seconds=300, retry_seconds=3600) as node:
        now = node.clock()
        with node.database.write() as session:
            prefetch.enqueue_for_open(session, node.settings, now=now)
            closed = completion.sweep(session, completion=node.settings.completion, now=now + dt.timedelta(days=1))
            assert closed == [uid("current")]
        for attempt in (1, 2, 3):
            with node.database.read() as session:
                study = study_by_uid(session, uid("current"))
                assert study is not None
                waits = prefetch.wait_for_priors(session, study, node.settings, now=study.completed_at or now)
            assert waits is not None, "the analysis waits while the search is tried again"
            job = claimed(node, now + dt.timedelta(minutes=attempt))
            assert job.attempts == attempt
            if attempt < 3:
                with pytest.raises(RetrieveError):
                    fetch.handle(job, node)
                with node.database.write() as session:
                    jobs.fail(session, job, "down")
            else:
                fetch.handle(job, node)
        assert study is not None
        with node.database.read() as session:
            assert prefetch.wait_for_priors(session, study, node.settings, now=study.completed_at or now) is None
            (note,) = search_notes(session, study)
            later = session.scalars(select(Job).where(Job.kind == JobKind.FETCH, Job.state == JobState.READY)).one()
        assert note.startswith("The search for earlier images failed: The archive 'down' cannot be reached")
        assert later.key == prefetch.fetch_key(uid("current"), 2)
        assert later.run_at - node.clock() > dt.timedelta(seconds=3500)


def test_the_analysis_does_not_wait_for_ever_and_is_done_again_when_the_prior_comes_late(tmp_path: Path) -> None:
    with (
        faulty_peer(MARCH, Fault.NONE, node_port=free_port()) as peer,
        fetching_node(tmp_path, [peer.peer()], port=peer.node_port, wait_seconds=10) as node,
    ):
        job = claimed(node)
        closed_at = node.clock() - dt.timedelta(seconds=30)
        with node.database.write() as session:
            assert completion.force(session, study_instance_uid=uid("current"), now=closed_at)
        with node.database.read() as session:
            study = study_by_uid(session, uid("current"))
            assert study is not None
            assert prefetch.wait_for_priors(session, study, node.settings, now=node.clock()) is None
        fetch.handle(job, node)
        with node.database.read() as session:
            keys = session.scalars(select(Job.key).where(Job.kind == JobKind.ANALYSE).order_by(Job.id)).all()
        assert keys == [completion.analyse_key(uid("current"), 1, generation) for generation in (1, 2)]


def test_stopping_the_node_ends_a_retrieval_at_once(tmp_path: Path) -> None:
    with (
        faulty_peer(MARCH, Fault.MOVE_SILENT, node_port=free_port()) as peer,
        fetching_node(tmp_path, [peer.peer()], port=peer.node_port, retrieve_seconds=60) as node,
    ):
        job = claimed(node)
        timer = threading.Timer(1.0, node.stop.set)
        timer.start()
        begun = time.monotonic()
        fetch.handle(job, node)
        assert_within(15, since=begun)
        timer.join()


def test_a_peer_that_does_not_name_the_originator(tmp_path: Path) -> None:
    """A study that was requested and arrives without an originator is a prior; sent again later, it is analysed."""
    peer = QueryPeer(name="shy", ae_title="SHY", port=free_port(), names_originator=False)
    port = free_port()
    with fetching_node(tmp_path, [peer], port=port) as node:
        running = _Listening(settings=node.settings, port=port)
        with node.database.write() as session:
            session.add(
                ExpectedRetrieval(
                    study_instance_uid=uid("march"), calling_ae_title="SHY", until=node.clock() + dt.timedelta(hours=1)
                )
            )
        assert send(running, FILMS[0], calling="SHY") == [0]  # type: ignore[arg-type]
        assert send(running, FILMS[1], calling="SHY") == [0]  # type: ignore[arg-type]
        assert held(node) == {"january": ("routed", 1), "march": ("prior", 1)}
        arrival.expect_retrieval(peer, uid("march"), node, expected=False)
        assert send(running, FILMS[1], calling="SHY") == [0]  # type: ignore[arg-type]
        assert held(node)["march"] == ("routed", 1)


class _Listening:
    """The attributes of a running node that `send` reads."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def test_no_fetch_without_a_peer_for_a_prior_or_twice(tmp_path: Path) -> None:
    with fetching_node(tmp_path, []) as node, node.database.write() as session:
        assert prefetch.enqueue_for_open(session, node.settings, now=node.clock()) == []
    down = QueryPeer(name="down", port=free_port())
    with fetching_node(tmp_path / "second", [down]) as node:
        receive(node, FILMS[0], purpose="prior")
        with node.database.write() as session:
            assert prefetch.enqueue_for_open(session, node.settings, now=node.clock()) == [uid("current")]
            assert prefetch.enqueue_for_open(session, node.settings, now=node.clock()) == []
