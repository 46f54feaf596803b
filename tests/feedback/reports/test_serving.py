"""`dicom-node serve` takes reports by C-STORE and by HL7; what it acknowledged is there after SIGKILL."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from sqlalchemy import select

from dicom_node.index.tables.core import Study, StudyState
from dicom_node.index.tables.reports import ReceivedReport, ReportState
from tests.support.common import free_port, wait_until
from tests.support.delivery_node import BASIC_TEXT_SR
from tests.support.node import Node, new_node, running
from tests.support.reporting import MllpPeer, oru, report_sr

RIS = '[[receive.peers]]\nae_title = "RIS"\nreport = true\n'


def found(node: Node) -> list[ReceivedReport]:
    with node.database() as database, database.read() as session:
        return list(session.scalars(select(ReceivedReport).order_by(ReceivedReport.id)))


@pytest.mark.timeout(900)
def test_reports_come_in_and_outlive_a_kill(tmp_path: Path) -> None:
    port = free_port()
    node = new_node(tmp_path, extra=f"{RIS}[hl7]\nenabled = true\nport = {port}")
    with running(node):
        ae = AE("RIS")
        ae.add_requested_context(BASIC_TEXT_SR, ExplicitVRLittleEndian)
        association = ae.associate("127.0.0.1", node.port, ae_title=node.ae_title)
        assert association.is_established
        assert association.send_c_store(report_sr()).Status == 0
        association.release()
        with MllpPeer(port) as peer:
            assert peer.ask(oru("No edema.", study_uid="")) == "MSA|AA|MSG1|"
        node.kill()
        assert len(found(node)) == 2, "both were acknowledged"
        node.start()
        wait_until(
            lambda: {row.state for row in found(node)} == {ReportState.UNMATCHED},
            seconds=120,
            what="the worker to read both reports",
        )
        assert {row.author for row in found(node)} == {"Curie^Marie"}

        def closed() -> bool:
            with node.database() as database, database.read() as session:
                return session.scalars(select(Study.state)).all() == [StudyState.COMPLETE]

        wait_until(closed, seconds=60, what="the study of the report to close")
        assert "Curie" not in node.log
        assert "Doe" not in node.log
        assert node.stop() == 0
