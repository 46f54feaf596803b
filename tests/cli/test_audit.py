"""`dicom-node audit list`: messages by time, actor, patient and event; reading them leaves a message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from dicom_node.audit import messages
from dicom_node.cli import audit
from dicom_node.context import NodeContext
from tests.support.delivery_node import Clock, make_node

app = Typer()
audit.register(app)


@pytest.fixture
def node(tmp_path: Path) -> NodeContext:
    clock = Clock()
    node = make_node(tmp_path, clock)
    study = messages.AboutStudy(study_instance_uid="1.2.3", patient_id="P-1", patient_name="Müller^Ann <&>")
    with node.database.write() as session:
        viewer = messages.Participant(user_id="dr.weiss", requestor=True)
        messages.record(
            session, messages.AuditedEvent.INSTANCES_ACCESSED, now=clock.now, participants=(viewer,), study=study
        )
        clock.forward(hours=2)
        archive = messages.Participant(user_id="archive", ae_title="PACS", requestor=True, role="source")
        query = messages.AskedQuery(sop_class_uid="1.2", transfer_syntax_uid="1.3", identifier=b"x")
        messages.record(
            session,
            messages.AuditedEvent.QUERY,
            now=clock.now,
            participants=(archive,),
            outcome=messages.EventOutcome.MINOR_FAILURE,
            query=query,
        )
    (tmp_path / "config.toml").write_text('[database]\nurl = "sqlite:///index.db"\n', "utf-8")
    return node


def listed(folder: Path, *options: str) -> list[dict[str, Any]]:
    arguments = ["audit", "list", "--json", "--config", str(folder / "config.toml"), *options]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    lines: list[dict[str, Any]] = json.loads(done.stdout)
    return lines


@pytest.mark.parametrize(
    ("options", "events"),
    [
        ([], ["Query", "DICOM Instances Accessed"]),
        (["--limit", "1"], ["Query"]),
        (["--actor", "WEISS"], ["DICOM Instances Accessed"]),
        (["--actor", "pacs"], ["Query"]),
        (["--patient", "müller"], ["DICOM Instances Accessed"]),
        (["--patient", "<&>"], ["DICOM Instances Accessed"]),
        (["--patient", "P-2"], []),
        (["--event", "query"], ["Query"]),
        (["--event", "110103"], ["DICOM Instances Accessed"]),
        (["--since", "2026-03-01T23:00"], ["Query"]),
        (["--until", "2026-03-01T23:00+00:00"], ["DICOM Instances Accessed"]),
        (["--until", "2026-03-01"], []),
    ],
)
def test_each_filter_takes_what_fits(tmp_path: Path, node: NodeContext, options: list[str], events: list[str]) -> None:
    assert [line["event"] for line in listed(tmp_path, *options)] == events


def test_a_line_names_actor_patient_study_and_outcome(tmp_path: Path, node: NodeContext) -> None:
    query, access = listed(tmp_path)
    assert (query["actors"], query["outcome"], query["studies"]) == (["archive (PACS)"], "minor failure", [])
    assert access["patients"] == ["P-1 Müller^Ann <&>"]
    assert (access["studies"], access["actors"], access["is_sent"]) == (["1.2.3"], ["dr.weiss"], False)


def test_reading_the_audit_trail_is_written_into_it(tmp_path: Path, node: NodeContext) -> None:
    listed(tmp_path, "--patient", "nobody")
    (line,) = listed(tmp_path, "--event", "audit log used")
    assert line["event"] == "Audit Log Used"
    assert line["actors"]


@pytest.mark.parametrize("options", [["--since", "yesterday"], ["--event", "dicom"], ["--event", "party"]])
def test_what_cannot_be_read_is_refused(tmp_path: Path, node: NodeContext, options: list[str]) -> None:
    done = CliRunner().invoke(app, ["audit", "list", "--config", str(tmp_path / "config.toml"), *options])
    assert done.exit_code != 0
    assert "write" in str(done.exception)
