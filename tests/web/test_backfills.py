"""The buttons of a backfill on the Jobs page: pausing and resuming, by an administrator alone."""

from __future__ import annotations

import datetime as dt
import html
import re
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import select

from dicom_node.backfill import runs
from dicom_node.index.tables.backfill import BackfillRun, BackfillRunState
from dicom_node.index.tables.core import AuditEvent
from tests.support.web_site import Site, running_site, token

NAME = 'the "90s & <before> #1'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site"), with_study=False) as site:
        days = (dt.date(1999, 1, 1), dt.date(1999, 1, 31))
        new = runs.NewRun(name=NAME, archive="pacs", dates=days, limits=runs.BackfillLimits(per_minute=3.0))
        with site.node.database.write() as session:
            runs.start_run(session, new, settings=site.node.settings, now=site.clock(), who="somebody")
        yield site


@pytest.fixture
def administrator(site: Site) -> Iterator[httpx.Client]:
    with site.client("administrator") as client:
        yield client


def _buttons(client: httpx.Client) -> list[str]:
    """The labels of the forms that change a backfill, in order."""
    forms = re.findall(r'<form method="post" action="/jobs/backfill">.*?</form>', client.get("/jobs").text)
    return [html.unescape(label) for form in forms for label in re.findall(r'aria-label="([^"]*)"', form)]


def _press(client: httpx.Client, action: str, run: str = NAME) -> httpx.Response:
    return client.post("/jobs/backfill", data={"csrf": token(client, "/jobs"), "run": run, "action": action})


def _run(site: Site) -> BackfillRun:
    with site.node.database.read() as session:
        return session.scalars(select(BackfillRun)).one()


def test_a_run_is_paused_and_resumed_by_its_buttons_and_keeps_its_limits(
    site: Site, administrator: httpx.Client
) -> None:
    assert _buttons(administrator) == [f"Pause {NAME}"]
    answer = _press(administrator, "pause")
    assert answer.status_code == 303, answer.text
    assert f"{NAME} is paused" in html.unescape(administrator.get(answer.headers["location"]).text)
    assert _run(site).state is BackfillRunState.PAUSED
    assert _buttons(administrator) == [f"Resume {NAME}"]
    assert _press(administrator, "resume").status_code == 303
    assert (_run(site).state, _run(site).per_minute) == (BackfillRunState.RUNNING, 3.0)
    with site.node.database.read() as session:
        messages = "".join(session.scalars(select(AuditEvent.message).order_by(AuditEvent.id)))
    assert messages.count('UserID="administrator"') >= 2, "who pressed the button is audited"


def test_a_button_that_was_pressed_already_is_refused_in_words(site: Site, administrator: httpx.Client) -> None:
    assert _press(administrator, "pause").status_code == 303
    again = _press(administrator, "pause")
    assert again.status_code == 400
    assert "only a running one is paused" in again.text
    assert _press(administrator, "resume").status_code == 303
    assert _press(administrator, "pause", run="no such run").status_code == 400
    assert _press(administrator, "cancel").status_code == 400
    assert _run(site).state is BackfillRunState.RUNNING


def test_others_see_no_button_and_a_form_without_token_changes_nothing(site: Site, administrator: httpx.Client) -> None:
    with site.client("radiologist") as radiologist:
        assert NAME in html.unescape(radiologist.get("/jobs").text)
        assert _buttons(radiologist) == []
        assert _press_with(radiologist, token(administrator, "/jobs")).status_code == 403
    assert _press_with(administrator, "").status_code == 403
    assert _run(site).state is BackfillRunState.RUNNING


def _press_with(client: httpx.Client, csrf: str) -> httpx.Response:
    return client.post("/jobs/backfill", data={"csrf": csrf, "run": NAME, "action": "pause"})
