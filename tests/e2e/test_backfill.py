"""A backfill as a site runs it: commands beside a `serve` that is killed, and the page that shows it."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select
from typer import Typer
from typer.testing import CliRunner

from dicom_node.admin.passwords import hash_password
from dicom_node.cli import backfill
from dicom_node.index.tables.backfill import BackfillItem, BackfillItemState
from dicom_node.index.tables.core import Delivery, Job, JobState, Result
from tests.support.archives import part10
from tests.support.common import free_port, wait_until
from tests.support.node import Node, destination, new_node
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.past import PATIENTS, frontal_films
from tests.support.web_site import PASSWORD, token

STUDIES = 2 * PATIENTS
"""The films of two dates in one month."""


def _node(folder: Path, orthanc: Orthanc) -> Node:
    """A node beside an archive, with one user; reports of a backfill could be sent."""
    query = f'[[query]]\nname = "pacs"\nae_title = "ORTHANC"\nport = {orthanc.dicom_port}\nretrieve = "get"\n'
    user = f'[[web.users]]\nname = "viewer"\npassword_hash = "{hash_password(PASSWORD)}"\n'
    limits = '[model]\nunfamiliar = "warn"\n'
    to = destination("pacs", orthanc.ae_title, orthanc.dicom_port, "find")
    node = new_node(folder, destinations=to, extra=limits + query + user)
    text = node.config.read_text("utf-8").replace("[web]\nenabled = false", f"[web]\nport = {free_port()}")
    node.config.write_text(text, "utf-8")
    return node


def _command(node: Node, *arguments: str) -> str:
    app = Typer()
    backfill.register(app)
    done = CliRunner().invoke(app, ["backfill", *arguments, "--config", str(node.config)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def _page(node: Node) -> str:
    """The Jobs page without its tags."""
    base = f"http://127.0.0.1:{node.settings.web.port}"
    with httpx.Client(base_url=base, trust_env=False, timeout=60) as client:
        client.post("/login", data={"name": "viewer", "password": PASSWORD, "csrf": token(client)})
        answer = client.get("/jobs")
    assert answer.status_code == 200, answer.text
    return " ".join(re.sub(r"<[^>]+>", " ", answer.text).split())


def _ended(node: Node) -> int:
    with node.database() as database, database.read() as session:
        return session.scalar(select(func.count()).where(BackfillItem.ended_at.is_not(None))) or 0


def _nothing_in_hand(node: Node) -> bool:
    with node.database() as database, database.read() as session:
        busy = (BackfillItemState.FETCHING, BackfillItemState.ANALYSING)
        return not session.scalar(select(func.count()).where(BackfillItem.state.in_(busy)))


@pytest.mark.timeout(900)
def test_a_run_is_paused_resumed_and_outlives_the_node_and_the_page_shows_it(tmp_path: Path) -> None:
    films = frontal_films(tmp_path / "films")[:STUDIES]
    with running_orthanc(tmp_path / "orthanc", dicomweb=False) as orthanc:
        for film in films:
            orthanc.upload(part10(film))
        node = _node(tmp_path / "node", orthanc)
        node.start()
        try:
            # One a minute: it is killed and paused long before it is done.
            _command(node, "start", "past", "--from", "2024-01-01", "--to", "2024-01-31", "--per-minute", "1")
            wait_until(
                lambda: not _nothing_in_hand(node), seconds=300, what="the first study to be fetched", closely=True
            )
            node.kill()
            node.start()
            wait_until(lambda: _ended(node), seconds=300, what="the first study to be analysed")
            assert re.search(rf"past from pacs running [1-5] of {STUDIES} analysed: [1-5]", _page(node))

            _command(node, "pause", "past")
            wait_until(lambda: _nothing_in_hand(node), seconds=300, what="what was fetched to be analysed")
            before = _ended(node)
            assert before < STUDIES
            assert f"past from pacs paused {before} of {STUDIES}" in _page(node)
            assert f"{before} of {STUDIES} studies ended" in _command(node, "status", "past")

            _command(node, "resume", "past", "--per-minute", "1000")
            wait_until(lambda: "past from pacs done" in _page(node), seconds=600, what="the run to be done")
            assert f"{STUDIES} of {STUDIES} studies ended" in _command(node, "status", "past")
            _assert_each_once(node)
            assert orthanc.instances(Modality="SR") == [], "no report is sent unless it is asked for"
        finally:
            assert node.process is not None
            if node.process.poll() is None:
                assert node.stop() == 0


def _assert_each_once(node: Node) -> None:
    with node.database() as database, database.read() as session:
        items = session.execute(select(BackfillItem.state, func.count()).group_by(BackfillItem.state)).all()
        assert [tuple(row) for row in items] == [(BackfillItemState.ANALYSED, STUDIES)]
        current = session.scalars(select(Result.study_pk).where(Result.is_current)).all()
        assert len(current) == len(set(current)) == STUDIES
        assert not session.scalar(select(func.count()).where(Job.state == JobState.DEAD))
        assert not session.scalar(select(func.count(Delivery.id)))
