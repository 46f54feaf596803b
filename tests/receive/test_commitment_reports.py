"""Commitment reports on our documents, sent by a PACS on an association of its own to the node's real receiver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pynetdicom import AE
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.context import NodeContext
from dicom_node.index.tables.core import DeliveryState, JobState
from dicom_node.receive import Receiver
from tests.deliver.test_proof import report_on
from tests.support.delivery_node import Clock, all_jobs, deliveries, make_node, make_result, run_due
from tests.support.faulty_pacs import Fault, Pacs, running

pytestmark = pytest.mark.usefixtures("each_index")

ALL_COMMITTED, FAILURES_EXIST = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A node whose two documents were accepted and whose reports are outstanding, and its receiver's port."""

    node: NodeContext
    port: int

    def send(self, report: Dataset, event_type: int) -> int:
        """The status that the receiver answers."""
        entity = AE(ae_title="FAULTY")
        entity.add_requested_context(StorageCommitmentPushModel)
        association = entity.associate("127.0.0.1", self.port, ae_title="LUMEN")
        assert association.is_established
        answer, _ = association.send_n_event_report(
            report, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        association.release()
        return int(answer.Status)

    def states(self) -> list[DeliveryState]:
        return [row.state for row in deliveries(self.node)]


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    with running(Pacs(faults={Fault.SILENT})) as pacs:
        where = {"name": "pacs", "ae_title": "FAULTY", "port": pacs.port, "same_association_seconds": 0}
        node = make_node(tmp_path, Clock(), where, node={"data_dir": tmp_path / "data", "host": "127.0.0.1", "port": 0})
        make_result(node)
        run_due(node)
        receiver = Receiver(node.settings, node.database, node.store)
        receiver.start()
        try:
            yield Waiting(node=node, port=receiver.port)
        finally:
            receiver.stop()


def test_success_for_one_and_failure_for_the_other(waiting: Waiting) -> None:
    assert waiting.send(report_on(waiting.node), ALL_COMMITTED) == 0x0000
    assert waiting.send(report_on(waiting.node, failed=True, number=1), FAILURES_EXIST) == 0x0000
    assert waiting.states() == [DeliveryState.CONFIRMED, DeliveryState.PENDING]
    assert "commitment failed: 0110H processing failure" in deliveries(waiting.node)[1].last_error
    assert [job.state for job in all_jobs(waiting.node)] == [JobState.DONE, JobState.READY]


def test_one_report_that_holds_both_lists(waiting: Waiting) -> None:
    """A peer that lists one object as committed and as failed has not taken responsibility for it."""
    both = report_on(waiting.node)
    both.FailedSOPSequence = report_on(waiting.node, failed=True).FailedSOPSequence
    assert waiting.send(both, FAILURES_EXIST) == 0x0000
    assert waiting.states() == [DeliveryState.PENDING, DeliveryState.STORED]


def test_what_is_not_ours_or_no_report_changes_nothing(waiting: Waiting) -> None:
    strange = report_on(waiting.node)
    strange.TransactionUID = "1.2.3.999"
    assert waiting.send(strange, ALL_COMMITTED) == 0x0000, "taken, so that the peer does not send it for ever"
    assert waiting.send(report_on(waiting.node), 3) == 0x0113, "no such event type"
    nameless = report_on(waiting.node)
    del nameless.TransactionUID
    assert waiting.send(nameless, ALL_COMMITTED) == 0x0115
    empty = report_on(waiting.node)
    empty.ReferencedSOPSequence = Sequence([Dataset()])
    assert waiting.send(empty, ALL_COMMITTED) == 0x0000
    assert waiting.states() == [DeliveryState.STORED] * 2
