"""Content of the pages and effects of their forms."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.index.tables.core import AuditEvent, Delivery, DeliveryState, Feedback, Job, JobKind, JobState, Verdict
from model.images.sandbox import decode_in_child
from tests.support.delivery_node import run_due
from tests.support.faulty_pacs import Fault, Pacs, running
from tests.support.web_site import Site, running_site, token


@pytest.fixture(scope="module")
def pacs() -> Iterator[Pacs]:
    with running(Pacs(faults={Fault.REFUSES})) as pacs:
        yield pacs


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, pacs: Pacs) -> Iterator[Site]:
    where = {"name": "pacs", "port": pacs.port, "ae_title": "FAULTY", "verify": "find"}
    with running_site(tmp_path_factory.mktemp("site"), where, delivery={"refused_attempts": 1}) as site:
        yield site


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[httpx.Client]:
    with site.client("administrator") as client:
        yield client


def post(client: httpx.Client, path: str, **fields: str) -> httpx.Response:
    return client.post(path, data={"csrf": token(client, "/jobs"), **fields})


def test_the_work_list_finds_a_study_by_what_one_knows_of_it(site: Site, client: httpx.Client) -> None:
    link = f'href="/studies/{site.study_instance_uid}"'
    family = site.patient_name.split("^")[0]
    for query in ("", f"?q={family}", f"?q={site.patient_id}", "?state=analysed&outcome=compared", "?delivery=pending"):
        assert link in client.get(f"/{query}").text, query
    for query in ("?urgency=new or worse", "?order=received", "?order=study time"):
        assert link in client.get(f"/{query}").text, query
    for query in (
        "?urgency=critical",
        "?q=nobody",
        "?state=open",
        "?outcome=not analysed",
        "?delivery=confirmed",
        "?date=1999-01-01",
    ):
        assert link not in client.get(f"/{query}").text, query
    assert link not in client.get("/?delivery=confirmed").text
    assert "new: pleural effusion" in client.get("/").text
    assert client.get("/?state=flying").status_code == 400
    assert client.get("/?urgency=hot").status_code == 400
    assert client.get("/?offset=-1").status_code == 400


def test_the_study_page_tells_the_whole_story_and_looking_is_audited(site: Site, client: httpx.Client) -> None:
    text = client.get(f"/studies/{site.study_instance_uid}").text
    for words in ("pleural effusion", "93 %", "The most recent frontal chest", "first image received", "result stored"):
        assert words in text
    opening, _, rest = text.partition('id="viewer"')
    assert ": moderate left pleural effusion" in opening, "the report's first sentence stands before the films"
    assert "emonstration, not for clinical use" in opening
    assert "New since " not in rest
    regions = json.loads(re.search(r"data-regions='([^']+)'", text)[1])  # type: ignore[index]
    assert [len(one) for one in regions] == [1, 0, 0]
    sites = dict(re.findall(r'id="finding-(\w+)">.*?<td data-label="Site">([^<]*)</td>', text, re.DOTALL))
    assert sites == {"pleural_effusion": "left", "pneumothorax": "", "cardiomegaly": ""}, "no side of what is possible"
    with site.node.database.read() as session:
        message = session.scalars(
            select(AuditEvent.message).where(AuditEvent.event_id == "110110").order_by(AuditEvent.id.desc())
        ).first()
    assert message is not None
    assert site.study_instance_uid in message
    assert 'UserID="administrator"' in message
    assert client.get("/studies/1.2.3.999").status_code == 404
    assert client.get("/studies/..%2f..%2fetc%2fpasswd").status_code == 404


def test_explain_prior_lists_every_candidate_and_is_audited(site: Site, client: httpx.Client) -> None:
    with site.node.database.read() as session:
        before = len(session.scalars(select(AuditEvent.id).where(AuditEvent.event_id == "110110")).all())
    text = client.get(f"/studies/{site.study_instance_uid}/priors").text
    for words in ("Possible prior by the headers", "patient ID and issuer", "Same person"):
        assert words in text
    assert text.count('class="chosen"') == 1
    with site.node.database.read() as session:
        after = len(session.scalars(select(AuditEvent.id).where(AuditEvent.event_id == "110110")).all())
    assert after == before + 1
    assert client.get("/studies/1.2.3.999/priors").status_code == 404


def test_a_job_says_in_words_what_it_is_about(site: Site, client: httpx.Client) -> None:
    text = client.get("/jobs?state=ready").text
    assert "AI reading → pacs" in text
    assert f'href="/studies/{site.study_instance_uid}"' in text


def test_the_pixels_are_the_display_image_with_its_place_in_the_film(site: Site, client: httpx.Client) -> None:
    answer = client.get(f"/images/{site.current_sop}/pixels")
    rows, columns = int(answer.headers["X-Rows"]), int(answer.headers["X-Columns"])
    values = np.frombuffer(answer.content, "<u2").reshape(rows, columns) / 65535
    with site.node.database.read() as session:
        from dicom_node.index.tables.core import Instance

        path = session.scalars(select(Instance.path).where(Instance.sop_instance_uid == site.current_sop)).one()
    expected = decode_in_child(site.node.store.path(path))
    np.testing.assert_allclose(values, expected.pixels, atol=1e-5)
    assert json.loads(answer.headers["X-Geometry"])["columns"] == expected.geometry.columns
    assert client.get(f"/images/{site.current_sop}/picture.png").content.startswith(b"\x89PNG")
    assert client.get("/images/1.2.3/pixels").status_code == 404
    assert client.get("/images/no-uid/pixels").status_code == 404


def test_a_radiologists_word_is_kept_with_who_and_when_and_what_was_said(site: Site) -> None:
    with site.client("radiologist") as client:
        page = f"/studies/{site.study_instance_uid}"
        result = re.search(r'name="result" value="(\d+)"', client.get(page).text)[1]  # type: ignore[index]
        said = {"result": result, "finding": "pleural_effusion", "aspect": "change", "csrf": token(client, page)}
        good = client.post(f"{page}/feedback", data={**said, "verdict": "correct", "value": "worsening"})
        assert good.status_code == 303
        assert "worsening" in client.get(good.headers["location"]).text
        for wrong in ({"value": "exploding"}, {"finding": "dragons"}, {"aspect": "mood"}, {"verdict": "maybe"}):
            answer = client.post(f"{page}/feedback", data={**said, "verdict": "correct", "value": "new", **wrong})
            assert answer.status_code == 400, wrong
    with site.node.database.read() as session:
        (row,) = session.scalars(select(Feedback)).all()
        assert (row.finding, row.aspect, row.verdict, row.value) == (
            "pleural_effusion",
            "change",
            Verdict.CORRECT,
            "worsening",
        )
        assert (row.stated, row.author, row.role, row.source) == ("new", "radiologist", "radiologist", "web")
        assert row.created_at == site.clock.now
        assert row.sop_instance_uid == site.current_sop


def test_what_people_write_is_shown_as_text_and_does_nothing(site: Site, client: httpx.Client) -> None:
    page = f"/studies/{site.study_instance_uid}"
    result = re.search(r'name="result" value="(\d+)"', client.get(page).text)[1]  # type: ignore[index]
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    fields = {"result": result, "aspect": "result", "verdict": "wrong", "comment": evil}
    assert post(client, f"{page}/feedback", **fields).status_code == 303
    text = client.get(page).text
    assert evil not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_reprocess_makes_one_job_of_the_next_generation(site: Site, client: httpx.Client) -> None:
    page = f"/studies/{site.study_instance_uid}"
    assert post(client, f"{page}/reprocess").status_code == 303
    assert post(client, f"{page}/reprocess").status_code == 303
    with site.node.database.read() as session:
        (job,) = session.scalars(select(Job).where(Job.kind == JobKind.ANALYSE)).all()
        assert job.payload == {"study_instance_uid": site.study_instance_uid, "revision": 1, "generation": 2}
    assert client.post("/studies/1.2.3/reprocess", data={"csrf": token(client, "/jobs")}).status_code == 400


def test_a_dead_letter_is_seen_retried_and_then_proven(site: Site, client: httpx.Client, pacs: Pacs) -> None:
    run_due(site.node)
    text = client.get("/jobs").text
    assert "Retry all 2 failed jobs" in text
    assert "C000H" in text
    assert 'class="attention"' in client.get("/").text
    pacs.faults.clear()
    with site.node.database.read() as session:
        one = session.scalars(select(Job.id).where(Job.state == JobState.DEAD)).first()
    assert post(client, "/jobs/retry", job=str(one)).status_code == 303
    assert post(client, "/jobs/retry").status_code == 303
    assert post(client, "/jobs/retry", job="999999").status_code == 404
    run_due(site.node)
    with site.node.database.read() as session:
        assert set(session.scalars(select(Delivery.state))) == {DeliveryState.CONFIRMED}
    assert "proven delivered" in client.get(f"/studies/{site.study_instance_uid}").text
    assert post(client, f"/studies/{site.study_instance_uid}/resend").status_code == 303
    run_due(site.node)
    assert set(pacs.kept.values()) == {2}, "sent again, and still one object each"


def test_echo_says_what_the_destination_accepts(client: httpx.Client) -> None:
    answer = post(client, "/destinations/pacs/echo")
    assert "storage commitment" in answer.text
    assert post(client, "/destinations/nowhere/echo").status_code == 404


def test_metrics_are_read_from_the_rows(site: Site, client: httpx.Client) -> None:
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    samples = {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples[("dicom_node_instances", ())] == 2
    assert samples[("dicom_node_results", ("compared",))] == 1
    assert samples[("dicom_node_prior_hit_ratio", ())] == 1
    assert samples[("dicom_node_finding_ratio", ("pleural_effusion",))] == 1
    assert samples[("dicom_node_certainty_mean", ("pleural_effusion",))] == pytest.approx(0.86)
    assert "dicom_node_disk_bytes" in families
    assert site.patient_id not in client.get("/metrics").text


def test_metrics_are_for_their_scraper_and_for_users_only(tmp_path: Path) -> None:
    web = {"port": 0, "metrics_addresses": ["10.9.8.7/32"]}
    with running_site(tmp_path, with_study=False, web=web) as site, site.client() as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/health/live").status_code == 200


def test_readiness_says_what_is_missing(tmp_path: Path) -> None:
    full = {"emergency_free_percent": 50, "keep_free_percent": 50}
    with running_site(tmp_path, with_study=False, retention=full) as site, site.client() as client:
        from dicom_node.retention.disk import disk_usage

        plenty = disk_usage(site.node).free_percent >= 50
        assert client.get("/health/ready").status_code == (200 if plenty else 503)
        from sqlalchemy import text

        with site.node.database.write() as session:
            session.execute(text("DELETE FROM alembic_version"))
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert "schema" in answer.json()["troubles"][0]


def test_readiness_waits_for_every_process_of_the_node(tmp_path: Path) -> None:
    waiting = ["receive-0"]
    with running_site(tmp_path, with_study=False, not_ready=lambda: waiting) as site, site.client() as client:
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json()["troubles"] == ["start: receive-0 has not begun its work"]
        waiting.clear()
        assert client.get("/health/ready").status_code == 200


def test_deliveries_name_the_patient_and_the_study(site: Site, client: httpx.Client) -> None:
    text = client.get("/deliveries").text
    assert site.patient_id in text
    assert "AI reading" in text


def test_correction_that_names_nothing_is_refused_in_words(site: Site) -> None:
    with site.client("radiologist") as client:
        page = f"/studies/{site.study_instance_uid}"
        fields = {"csrf": token(client, page), "result": "1", "finding": "pleural_effusion", "verdict": "corrections"}
        answer = client.post(f"{page}/feedback", data=fields)
    assert answer.status_code == 400
    assert "choose what is right in at least one field" in answer.text


def test_thumbnail_is_a_small_jpeg(site: Site, client: httpx.Client) -> None:
    answer = client.get(f"/images/{site.current_sop}/thumbnail.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    assert max(Image.open(BytesIO(answer.content)).size) == 240


def test_a_study_s_report_is_shown_by_its_uid(site: Site, tmp_path: Path) -> None:
    """`dicom-node report show STUDY_UID`: nobody knows where the file lies."""
    config = tmp_path / "config.toml"
    folder = site.node.settings.node.data_dir
    config.write_text(
        f'[node]\ndata_dir = "{folder}"\n[database]\nurl = "{site.node.settings.database.url}"\n', "utf-8"
    )
    asked = ["report", "show", site.study_instance_uid, "--config", str(config)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "Impression" in done.stdout
    assert "Pleural effusion" in CliRunner().invoke(app, [*asked, "--kind", "machine"]).stdout
    unknown = CliRunner().invoke(app, ["report", "show", "1.2.3", "--config", str(config)])
    assert "no reading report of a study 1.2.3" in str(unknown.exception)
