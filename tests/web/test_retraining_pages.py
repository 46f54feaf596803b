"""The pages of retraining and the command's refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dicom_node.index.tables.retrain import Promote, RetrainRun, RetrainSnapshot, RunState
from dicom_node.retrain.file_names import BODY_FILE, CARD_FILE
from dicom_node.retrain.types import folders_of
from model.checkpoints.files import sha256_of
from tests.support.champions import untrained
from tests.support.command_line import run_command
from tests.support.web_site import Site, running_site
from training.gate.decision import Decision, GateCheck
from training.gate.report import GateRun, body, card, page

DECISION = Decision(
    passed=False,
    champion="2.25.1",
    challenger="2.25.2",
    patients=40,
    questions=400,
    checks=(
        GateCheck(
            name="share of right answers",
            passed=False,
            words="it is <b>no</b> better | really",
            champion=0.8,
            challenger=0.79,
            limit=0.8,
            low=-0.05,
            high=0.03,
        ),
        GateCheck(name="known pairs", passed=None, words="too few"),
    ),
)
ABOUT = GateRun(
    run="20260301-220000",
    produced_at="2026-03-01T22:00:00+00:00",
    champion="a-1",
    challenger="a-2",
    base="a-1 2.25.1",
    licence="Apache-2.0",
    demonstration=True,
    snapshot="20260301-220000",
    counts={
        "patients": {"train": 100, "validate": 20, "frozen": 40},
        "images": {"train": 120, "validate": 22, "frozen": 41},
        "pairs": 150,
        "sources": {"web": 3},
        "findings": {"edema": {"present": 4}},
        "changes": {},
        "left_out": {"film | gone": 2},
    },
    losses=((1, 3.0), (2, 1.0)),
)


def add_run(site: Site, folder_has_decision: bool) -> None:
    node, name = site.node, ABOUT.run
    with node.database.write() as session:
        snapshot = RetrainSnapshot(
            name=name,
            folder=f"snapshots/{name}",
            manifest_sha256="0",
            counts=dict(ABOUT.counts),
            created_at=node.clock(),
        )
        session.add(snapshot)
        session.flush()
        session.add(
            RetrainRun(
                name=name,
                snapshot_pk=snapshot.id,
                state=RunState.REFUSED,
                promote=Promote.ASK,
                base="x",
                champion_device_uid="2.25.1",
                started_by="engineer",
                started_at=node.clock(),
                updated_at=node.clock(),
                reason="no significant improvement",
            )
        )
    if folder_has_decision:
        folder = folders_of(node).runs / name
        folder.mkdir(parents=True)
        (folder / BODY_FILE).write_text(body(DECISION, ABOUT), "utf-8")
        (folder / CARD_FILE).write_text(card(DECISION, ABOUT), "utf-8")


def test_runs_decision_and_card_are_shown_to_whoever_may_log_in(tmp_path: Path) -> None:
    with running_site(tmp_path, with_study=False) as site:
        add_run(site, folder_has_decision=True)
        with site.client() as stranger:
            assert stranger.get(f"/models/runs/{ABOUT.run}").status_code == 401
        with site.client("viewer") as client:
            assert "/models/runs" in client.get("/models").text
            listed = client.get("/models/runs").text
            assert "no significant improvement" in listed
            assert f'href="/models/runs/{ABOUT.run}"' in listed
            shown = client.get(f"/models/runs/{ABOUT.run}").text
            assert "<svg" in shown
            assert "it is &lt;b&gt;no&lt;/b&gt; better" in shown
            assert "style=" not in shown, "the site's policy allows no styles inside a page"
            assert client.get(f"/models/runs/{ABOUT.run}/card").text.startswith("# a-2")
            assert client.get("/models/runs/..%2F..%2Findex.db").status_code == 404
            assert client.get("/models/runs/nothing").status_code == 404


def test_a_run_without_a_decision_says_so(tmp_path: Path) -> None:
    with running_site(tmp_path, with_study=False) as site:
        add_run(site, folder_has_decision=False)
        with site.client("viewer") as client:
            assert "no significant improvement" in client.get(f"/models/runs/{ABOUT.run}").text
            assert client.get(f"/models/runs/{ABOUT.run}/card").status_code == 404


def test_card_and_page_stand_alone_and_cannot_be_broken_by_words() -> None:
    text = card(DECISION, ABOUT)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    tables = [row.replace("\\|", "") for row in rows]
    assert all(row.rstrip().endswith("|") for row in rows)
    assert "| patients | 100 | 20 | 40 |" in [" ".join(row.split()) for row in tables]
    assert "<b>" not in text
    assert "film \\| gone" in text
    whole = page(DECISION, ABOUT)
    assert whole.startswith("<!doctype html>")
    assert "http" not in whole.replace("http-equiv", "").split("</style>")[1]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--dry-run",), 0, "patients with labels are needed"),
        (("--release", "none"), 2, "no snapshot 'none'"),
        (("--promote", "perhaps"), 2, "perhaps"),
        (("--recipe", "missing.toml"), 2, "missing.toml"),
    ],
)
def test_the_command_refuses_in_words_and_changes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], status: int, words: str
) -> None:
    champion = untrained(tmp_path / "champion")
    before = sha256_of(champion / "manifest.json")
    config = tmp_path / "config.toml"
    config.write_text(f"[model]\nsource = {json.dumps(str(champion))}\n", "utf-8")
    ran = run_command("retrain", *arguments, "--config", str(config), folder=tmp_path)
    assert ran.returncode == status, ran.stderr
    assert words in ran.stdout + ran.stderr
    assert sha256_of(champion / "manifest.json") == before
    root = tmp_path / "data" / "retrain"
    assert not list(root.glob("snapshots/*"))
    assert not list(root.glob("runs/*"))
