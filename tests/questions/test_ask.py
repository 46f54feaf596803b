"""Questions on a study: the answer is what its result states, refusals are in words, all is kept and audited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from dicom_node.index.tables.core import AuditEvent, Result
from dicom_node.index.tables.questions import StudyQuestion
from dicom_node.questions.answers import UNCERTAIN, StatedFinding, answer_of, findings_of_result
from dicom_node.questions.ask import MAX_QUESTIONS_PER_MINUTE
from dicom_node.report.rules import Seen
from model.questions.free_text import AskedKind, AskedQuestion, understand
from model.schema import Change, ImageRole
from tests.support.command_line import Ended, run_command
from tests.support.web_site import Site, running_site, token

EFFUSION = "pleural effusion"
SIDE_UNKNOWN = "Pleural effusion is seen; the model does not say on which side."


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with site.client("radiologist") as client:
        yield client
    with site.node.database.write() as session:  # the next test starts with its own minute of questions
        for row in session.scalars(select(StudyQuestion)):
            session.delete(row)


def ask(site: Site, client: httpx.Client, text: str) -> dict[str, Any]:
    answer = client.post(
        f"/api/studies/{site.study_instance_uid}/questions",
        json={"question": text},
        headers={"X-CSRF-Token": client.get("/api/token").json()["csrf"]},
    )
    answer.raise_for_status()
    return dict(answer.json())


def stated(**values: Any) -> StatedFinding:
    defaults: dict[str, Any] = {
        "key": "pleural_effusion",
        "seen": Seen.SEEN,
        "probability": 0.9,
        "prior_probability": 0.2,
        "change": Change.NEW,
        "change_probability": 0.7,
        "location": "left lower",
        "level": "moderate",
        "regions": ({"image": "current", "points": [[0.0, 0.0]], "method": "m"},),
    }
    return StatedFinding(**(defaults | values))


def question(kind: AskedKind = AskedKind.PRESENCE, **values: Any) -> AskedQuestion:
    return AskedQuestion(kind=kind, finding="pleural_effusion", **values)


@pytest.mark.parametrize(
    ("asked", "finding", "text", "certainty"),
    [
        (question(), stated(), "Yes, moderate left pleural effusion is seen.", 0.9),
        (question(side="left"), stated(), "Yes, moderate left pleural effusion is seen.", 0.9),
        (question(side="right"), stated(), "No; pleural effusion is seen, and it is left.", 0.9),
        (question(side="right"), stated(location="bilateral"), f"Yes, moderate bilateral {EFFUSION} is seen.", 0.9),
        (question(side="right"), stated(location=None), SIDE_UNKNOWN, 0.9),
        (question(), stated(seen=Seen.NOT_SEEN, probability=0.1), "No, pleural effusion is not seen.", 0.9),
        (question(), stated(seen=Seen.UNDECIDED), UNCERTAIN, None),
        (question(image=ImageRole.PRIOR), stated(), "No, pleural effusion is not seen on the prior image.", 0.8),
        (question(AskedKind.SIDE), stated(), "Pleural effusion is left.", 0.9),
        (question(AskedKind.SEVERITY), stated(), "Pleural effusion is moderate.", 0.9),
        (question(AskedKind.CHANGE), stated(), "Pleural effusion is new.", 0.7),
        (question(AskedKind.CHANGE, expected=("worsening",)), stated(), "No, pleural effusion is new.", 0.7),
        (question(AskedKind.CHANGE, expected=("new",)), stated(), "Yes, pleural effusion is new.", 0.7),
        (question(AskedKind.CHANGE), stated(change=Change.NOT_COMPARABLE), UNCERTAIN, None),
        (
            question(AskedKind.CHANGE),
            stated(change=None, seen=Seen.NOT_SEEN, change_probability=None),
            "Pleural effusion is seen on neither image.",
            None,
        ),
    ],
)  # fmt: skip
def test_an_answer_says_what_the_result_states(
    asked: AskedQuestion, finding: StatedFinding, text: str, certainty: float | None
) -> None:
    answer = answer_of(asked, [finding])
    assert answer.text == text
    assert answer.certainty == (None if certainty is None else pytest.approx(certainty))


def test_the_answer_to_each_closed_question_is_the_results(site: Site, client: httpx.Client) -> None:
    with site.node.database.read() as session:
        result = session.scalars(select(Result).where(Result.is_current)).one()
        findings = findings_of_result(result.prediction)
        images = {result.sop_instance_uid, result.prior_sop_instance_uid}
    for finding in findings[:3]:
        text = f"Is there {finding.key.replace('_', ' ')}?"
        given = ask(site, client, text)
        asked = understand(text, [finding.key], has_prior=True)
        wanted = answer_of(asked, findings)
        assert not given["refused"]
        assert given["demonstration"] is True
        assert given["answer"] == wanted.text
        assert given["certainty"] == wanted.certainty
        assert set(given["images"]) <= images


def test_a_refusal_is_kept_and_shown(site: Site, client: httpx.Client) -> None:
    given = ask(site, client, "How many ribs are there?")
    assert given["refused"]
    assert "not trained" in given["answer"]
    assert given["certainty"] is None
    page = client.get(f"/studies/{site.study_instance_uid}").text
    assert "How many ribs are there?" in page
    assert given["answer"] in page
    assert "The model is a demonstration, not for clinical use." in page


def test_the_form_of_the_study_page_answers_there(site: Site, client: httpx.Client) -> None:
    path = f"/studies/{site.study_instance_uid}"
    sent = {"csrf": token(client, path), "question": "What do <b>you</b> see?"}
    page = client.post(f"{path}/questions", data=sent, follow_redirects=True)
    assert page.status_code == 200
    assert "&lt;b&gt;" in page.text
    assert "<b>you</b>" not in page.text


def test_asking_is_audited_with_its_author(site: Site, client: httpx.Client) -> None:
    with site.node.database.read() as session:
        before = len(session.scalars(select(AuditEvent)).all())
    given = ask(site, client, "Is there edema?")
    with site.node.database.read() as session:
        rows = session.scalars(select(AuditEvent).order_by(AuditEvent.id)).all()[before:]
        assert any(given["author"] in row.message and site.study_instance_uid in row.message for row in rows)


def test_a_flood_is_refused_in_words(site: Site, client: httpx.Client) -> None:
    for _ in range(MAX_QUESTIONS_PER_MINUTE):
        ask(site, client, "Is there edema?")
    with pytest.raises(httpx.HTTPStatusError) as refused:
        ask(site, client, "Is there edema?")
    assert refused.value.response.status_code == 429


@pytest.mark.parametrize(
    "body", ["", "{}", '{"question": 1}', '{"question": "x", "more": 1}', '{"question": ""}', "[]"]
)
def test_a_wrong_body_is_refused(site: Site, client: httpx.Client, body: str) -> None:
    headers = {"X-CSRF-Token": client.get("/api/token").json()["csrf"]}
    answer = client.post(f"/api/studies/{site.study_instance_uid}/questions", content=body, headers=headers)
    assert answer.status_code == 400


def test_nobody_asks_without_a_log_in(site: Site) -> None:
    with site.client() as stranger:
        answer = stranger.post(f"/api/studies/{site.study_instance_uid}/questions", json={"question": "Any findings?"})
    assert answer.status_code in (401, 403)


def test_the_command_answers_and_refuses(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    data_dir, url = site.node.settings.node.data_dir, site.node.database.engine.url.render_as_string()
    config.write_text(f'[node]\ndata_dir = "{data_dir}"\n[database]\nurl = "{url}"\n', "utf-8")

    def command(*words: str) -> Ended:
        return run_command("ask", *words, "--config", str(config), folder=tmp_path)

    answered = command(site.study_instance_uid, "What do you see?", "--json")
    assert answered.returncode == 0, answered.stderr
    assert json.loads(answered.stdout)["answer"]
    assert json.loads(answered.stdout)["demonstration"] is True
    plain = command(site.study_instance_uid, "Is there edema?")
    assert "not for clinical use" in plain.stdout
    refused = command(site.study_instance_uid, "What is the weather?")
    assert refused.returncode == 1
    assert "weather" in refused.stdout
    unknown = command("1.2.3", "Is there edema?")
    assert unknown.returncode == 2
    assert "1.2.3" in unknown.stderr
