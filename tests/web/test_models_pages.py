"""The pages of models, shadow and drift: what they show, who may change what, and what is refused in words."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from dicom_node.drift.baselines import VALIDATION
from dicom_node.drift.prognosis import CAME_TRUE, STATED
from dicom_node.index.tables.core import Outcome, Result
from dicom_node.index.tables.models import DriftFigure, ModelServing, ShadowResult
from dicom_node.index.tables.retrain import RetrainRun, RetrainSnapshot, RunState
from dicom_node.serving import promotion as models
from model.checkpoints.registry import rewrite_manifest
from tests.support.checkpoints import paper_checkpoint
from tests.support.web_site import Site, running_site, token


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site"), retrain={"schedule": "01:00-05:00", "timezone": "UTC"}) as site:
        for number, name in enumerate(("first", "second")):
            paper_checkpoint(site.node.models_dir / name, seed=number)
        yield site


def test_an_administrator_promotes_shadows_and_goes_back(site: Site) -> None:
    with site.client("administrator") as client:
        before = client.get("/models").text
        assert "Roll back" not in before
        assert "the next window of 01:00-05:00 opens 2026-03-02 01:00 UTC" in before
        form = {"csrf": token(client, "/models"), "folder": "first"}
        answer = client.post("/models/promote", data=form, follow_redirects=True)
        assert "first is the champion" in answer.text
        assert "Roll back" in answer.text
        assert models.champion(site.node.models_dir) == "first"
        assert (
            "in the shadow"
            in client.post("/models/shadow", data=form | {"folder": "second"}, follow_redirects=True).text
        )
        refused = client.post("/models/shadow", data=form)
        assert refused.status_code == 400
        assert "it would only agree with itself" in refused.text
        assert client.post("/models/promote", data=form | {"folder": "nobody"}).status_code == 400
        back = client.post("/models/rollback", data={"csrf": form["csrf"]}, follow_redirects=True)
        assert "the configured model answers again" in back.text
        for kind in ("promoted", "rolled back", "shadow on"):
            assert kind in back.text
        assert client.post("/models/rollback", data={"csrf": form["csrf"]}).status_code == 400
    with site.client("radiologist") as client:
        assert "Promote" not in client.get("/models").text
        assert client.post("/models/promote", data={"csrf": token(client, "/"), "folder": "first"}).status_code == 403


def test_disagreements_drift_and_troubles_are_shown_and_counted(site: Site) -> None:
    now = site.clock.now
    with site.node.database.write() as session:
        result = session.scalars(select(Result)).first()
        assert result is not None
        said = {
            "champion": "present",
            "challenger": "absent",
            "champion_probability": 0.93,
            "challenger_probability": 0.2,
        }
        session.add(
            ShadowResult(
                result_pk=result.id,
                folder="second",
                device_uid="1.2.3",
                differences=[{"finding": "pleural_effusion", "aspect": "presence", **said}],
                disagreements=1,
                created_at=now,
            )
        )
        limits = {"n": 90, "value": 0.5, "low": 0.1, "high": 0.3, "created_at": now}
        week = dt.date(2026, 2, 16)
        for figure, detail in (("rate of edema", VALIDATION), ("not analysed", "")):
            drifted = DriftFigure(week=week, figure=figure, device_uid="1.2.3", alarm=True, detail=detail, **limits)
            session.add(drifted)
        for band, observed in (("", 0.5), (", stated 60% to 80%", 0.4)):
            came = {"figure": f"{CAME_TRUE}{band}", "baseline": 0.72, "alarm": False, "detail": STATED}
            session.add(DriftFigure(week=week, device_uid="1.2.3", **(limits | came | {"value": observed})))
        session.add(
            ModelServing(
                worker=f"{0:012}/17/{0:016}/ward",
                wanted="second",
                device_uid="1.2.3",
                since=now,
                seen_at=now,
                error="no such weights",
            )
        )
    with site.client("administrator") as client:
        page = client.get("/models/second/disagreements").text
        assert "pleural effusion" in page
        assert "93 %" in page
        drift = client.get("/drift").text
        assert "rate of edema" in drift
        assert '<td data-label="Against">validation</td>' in drift
        assert '<td data-label="Against">first-weeks</td>' in drift, "as rows of earlier releases are"
        assert '<td data-label="Figure">prognosis' not in drift, "what came of prognoses has a table of its own"
        for cell in ('Predicted">72 %', 'Observed">50 %', 'Observed">40 %', 'Stated probability">60% to 80%'):
            assert f'<td data-label="{cell}</td>' in drift
        text = client.get("/models").text
        assert "no such weights" in text
        assert "ward, process 17 has used" in text
        metrics = client.get("/metrics").text
    for line in (
        'dicom_node_model_not_loaded{folder="second"} 1.0',
        'dicom_node_shadow_results{folder="second",outcome="differs"} 1.0',
        'dicom_node_drift_against{baseline="validation",figure="rate of edema",of="1.2.3"} 1.0',
        'dicom_node_drift_against{baseline="first-weeks",figure="not analysed",of="1.2.3"} 1.0',
        'dicom_node_drift_alarm{figure="rate of edema",of="1.2.3"} 1.0',
        'dicom_node_drift_limit{figure="rate of edema",of="1.2.3",side="high"} 0.3',
    ):
        assert line in metrics


def test_the_validation_set_stands_beside_the_live_figures(site: Site) -> None:
    counts = {
        "pairs": 10,
        "with_prior": 0,
        "present": {"edema": 3},
        "abstained": 0,
        "changes": {},
        "pair_changes": {},
        "certainty_edges": [0.3],
        "certainty": [4, 6],
    }
    manifest = rewrite_manifest(site.node.models_dir / "first", validation=counts)
    with site.client("administrator") as client:
        assert manifest.device_uid not in client.get("/metrics").text, "it answers nothing"
        with site.node.database.write() as session:
            result = session.scalars(select(Result).where(Result.is_current)).first()
            assert result is not None
            result.device_uid, result.created_at, result.outcome = manifest.device_uid, site.clock.now, Outcome.COMPARED
            result.prediction = {"findings": [{"key": "edema", "presence": "present", "probability": 0.9}]}
        metrics = client.get("/metrics").text
    named = f'device_uid="{manifest.device_uid}"'
    for labels, value in (
        ('finding="edema",of="validation"', 0.3),
        ('finding="edema",of="live"', 1.0),
    ):
        assert f"dicom_node_checkpoint_finding_ratio{{{named},{labels}}} {value}" in metrics
    for bin, of, value in (
        ("0 to 0.3", "validation", 0.4),
        ("0.3 to 1", "validation", 0.6),
        ("0 to 0.3", "live", 0.0),
        ("0.3 to 1", "live", 1.0),
    ):
        assert f'dicom_node_checkpoint_certainty_ratio{{bin="{bin}",{named},of="{of}"}} {value}' in metrics


def test_checkpoints_and_the_decisions_on_them_link_each_other(site: Site) -> None:
    now = site.clock.now
    with site.node.database.write() as session:
        locked = RetrainSnapshot(name="s", folder="s", manifest_sha256="0", created_at=now)
        for name in ("run-1", "run-2"):
            session.add(
                RetrainRun(
                    name=name,
                    snapshot=locked,
                    state=RunState.REFUSED,
                    base="first",
                    champion_device_uid="",
                    challenger="second",
                    started_at=now,
                    updated_at=now,
                )
            )
    with site.client("radiologist") as client:
        overview = client.get("/models").text
        assert '<a href="/models/runs/run-2">Decision</a>' in overview, "the newest one on it"
        assert overview.count("Decision</a>") == 1
        assert 'id="second"' in overview
        for page in ("/models/runs", "/models/runs/run-1"):
            assert 'href="/models#second"' in client.get(page).text
