"""Whoever looks at a patient by the pages or the JSON routes is audited, and every message is one by the Standard."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from dicom_node.audit.messages import EventType
from dicom_node.context import NodeContext
from dicom_node.index.tables.core import AuditEvent, Job, JobState, Study
from dicom_node.retention import removal as retention
from dicom_node.runtime.scheduler import note_activity
from tests.support.audit_schema import faults
from tests.support.delivery_node import run_due
from tests.support.faulty_pacs import Pacs, running
from tests.support.web_site import Site, running_site, token

RECORD, IMAGE, TRANSFER, DELETED = "110110", "110103", "110104", "110105"


def kept(node: NodeContext) -> list[tuple[str, str]]:
    """(event, message), oldest first."""
    with node.database.read() as session:
        rows = session.execute(select(AuditEvent.event_id, AuditEvent.message).order_by(AuditEvent.id))
        return [(row.event_id, row.message) for row in rows]


@pytest.mark.parametrize(
    ("path", "event"),
    [
        ("/studies/{study}", RECORD),
        ("/studies/{study}/priors", RECORD),
        ("/api/studies/{study}", RECORD),
        ("/images/{image}/pixels", IMAGE),
        ("/images/{image}/picture.png", IMAGE),
    ],
)
def test_each_way_to_a_patient_leaves_one_message(tmp_path: Path, path: str, event: str) -> None:
    with running_site(tmp_path) as site, site.client("viewer") as client:
        before = len(kept(site.node))
        assert client.get(path.format(study=site.study_instance_uid, image=site.current_sop)).status_code == 200
        ((found, message),) = kept(site.node)[before:]
        assert found == event
        assert 'EventActionCode="R"' in message
        user = ET.fromstring(message).findall("ActiveParticipant")[0].attrib
        assert (user["UserID"], user["UserIsRequestor"], user["NetworkAccessPointID"]) == (
            "viewer",
            "true",
            "127.0.0.1",
        )
        assert site.study_instance_uid in message
        assert site.patient_id in message


def test_every_message_of_a_node_is_one_by_the_standards_schema(tmp_path: Path) -> None:
    with (
        running(Pacs()) as pacs,
        running_site(
            tmp_path,
            {"name": "pacs", "host": "localhost", "port": pacs.port, "ae_title": "FAULTY", "verify": "find"},
            audit={"site": "St. Vitus"},
            retention={"keep_days": 1, "keep_as_prior_days": 0},
        ) as site,
        site.client("administrator") as client,
    ):
        note_activity(site.node, EventType.APPLICATION_START)
        client.post("/login", data={"name": "nobody", "password": "wrong", "csrf": token(client, "/jobs")})
        client.get(f"/studies/{site.study_instance_uid}")
        client.get(f"/images/{site.current_sop}/picture.png")
        run_due(site.node)
        client.post(f"/studies/{site.study_instance_uid}/reprocess", data={"csrf": token(client, "/jobs")})
        remove_all(site)
        note_activity(site.node, EventType.APPLICATION_STOP)
        messages = kept(site.node)
    assert {event for event, _ in messages} == {"110100", "110114", RECORD, IMAGE, TRANSFER, DELETED}
    assert [fault for _, message in messages for fault in faults(message)] == []
    sent = next(ET.fromstring(message) for event, message in messages if event == TRANSFER)
    we, they = (one.attrib for one in sent.findall("ActiveParticipant"))
    assert (we["AlternativeUserID"], they["AlternativeUserID"]) == ("AETITLES=LUMEN", "AETITLES=FAULTY")
    assert (they["NetworkAccessPointID"], they["NetworkAccessPointTypeCode"]) == ("localhost", "1"), (
        "a name, no address"
    )
    changed = [message for event, message in messages if event == RECORD and 'EventActionCode="U"' in message]
    assert len(changed) == 1, "reprocessing changes the record"


def remove_all(site: Site) -> None:
    """Let retention take the study, whose patient has no name and no ID meanwhile."""
    with site.node.database.write() as session:
        session.execute(delete(Job).where(Job.state != JobState.DONE))
        session.execute(update(Study).values(patient_name="", patient_id="", accession_number="", state="analysed"))
    site.clock.forward(days=400)
    retention.run(site.node)
