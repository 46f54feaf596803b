"""Against a PACS that others wrote: Orthanc takes the documents, commits to them, and lists each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.deliver import peer
from dicom_node.deliver.queue import resend
from dicom_node.deliver.stow import check
from dicom_node.index.tables.core import DeliveryState
from dicom_node.receive import Receiver
from tests.support.common import wait_until
from tests.support.delivery_node import Clock, deliveries, make_node, make_result, run_due
from tests.support.orthanc import Orthanc, running_orthanc


def sop_instance_uids(pacs: Orthanc) -> list[str]:
    """The instances that the archive holds."""
    return sorted(item["MainDicomTags"]["SOPInstanceUID"] for item in pacs.instances())


def test_orthanc_commits_to_each_document_by_a_report_to_our_own_receiver(tmp_path: Path) -> None:
    clock = Clock()
    known = {"name": "pacs", "ae_title": "ORTHANC", "port": 1}  # a report counts from the destination that was asked
    node = make_node(tmp_path, clock, known, node={"data_dir": tmp_path / "data", "host": "127.0.0.1", "port": 0})
    receiver = Receiver(node.settings, node.database, node.store)
    receiver.start()
    try:
        with running_orthanc(tmp_path / "orthanc", modalities={"LUMEN": ("127.0.0.1", receiver.port)}) as pacs:
            where = {"name": "pacs", "ae_title": "ORTHANC", "port": pacs.dicom_port, "same_association_seconds": 0}
            node = make_node(tmp_path, clock, where, delivery={"connect_seconds": 5, "response_seconds": 20})
            uids = make_result(node) + make_result(node)
            run_due(node)
            wait_until(
                lambda: {row.state for row in deliveries(node)} == {DeliveryState.CONFIRMED},
                seconds=30,
                what="Orthanc's commitment reports",
            )
            assert {row.proof for row in deliveries(node)} == {"commitment"}
            assert sop_instance_uids(pacs) == sorted(uids)
            result = peer.echo(node.settings.destinations[0], node.settings.delivery, calling_ae_title="LUMEN")
            assert "storage commitment" in result.services
    finally:
        receiver.stop()


@pytest.mark.parametrize(("verify", "proof"), [("find", "find"), ("none", "stow")])
def test_the_same_by_stow_and_qido_and_twice_is_still_one_copy(tmp_path: Path, verify: str, proof: str) -> None:
    clock = Clock()
    with running_orthanc(tmp_path / "orthanc") as pacs:
        where = {"name": "web", "url": pacs.dicomweb_url, "verify": verify}
        node = make_node(tmp_path, clock, where)
        check(node.settings.destinations[0], node.settings.delivery)
        uids = make_result(node)
        run_due(node)
        assert [(row.state, row.proof) for row in deliveries(node)] == [(DeliveryState.CONFIRMED, proof)] * 2
        with node.database.write() as session:
            resend(session, [row.id for row in deliveries(node)], now=clock.now, settings=node.settings.delivery)
        run_due(node)
        assert {row.state for row in deliveries(node)} == {DeliveryState.CONFIRMED}
        assert sop_instance_uids(pacs) == sorted(uids)
