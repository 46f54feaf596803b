"""Proof of delivery: statuses, commitment reports that come late or twice, and documents that were superseded."""

from __future__ import annotations

import io
import logging
import threading
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from sqlalchemy import select

from dicom_node import deliver
from dicom_node import notifications as notify
from dicom_node.config import LoggingSection
from dicom_node.context import NodeContext
from dicom_node.deliver.commitment import answer_report
from dicom_node.index.tables.core import Delivery, DeliveryState, Job, JobKind, JobState, Notice
from dicom_node.jobs import queue as jobs
from dicom_node.logs import configure
from tests.deliver.test_faulty_destination import assert_proven, to
from tests.support.common import free_port, wait_until
from tests.support.delivery_node import (
    COMPREHENSIVE_3D_SR,
    Clock,
    all_jobs,
    deliveries,
    make_node,
    make_result,
    run_due,
    run_until_quiet,
)
from tests.support.faulty_pacs import Fault, Pacs, running

pytestmark = pytest.mark.usefixtures("each_index")

WARNINGS = [0x0001, 0x0107, 0x0116, 0xB000, 0xB006, 0xB007, 0xB0FF]
PASSING = [0x0110, 0x0213, 0xA700, 0xA7F1]
REFUSALS = [0x0106, 0x0124, 0xA900, 0xC000, 0xC123]


@pytest.mark.parametrize("status", WARNINGS, ids=hex)
def test_a_warning_is_an_acceptance_and_the_proof_follows(tmp_path: Path, status: int) -> None:
    with running(Pacs(statuses=[status, status])) as pacs:
        node = make_node(tmp_path, Clock(), to(pacs.port, same_association_seconds=10))
        uids = make_result(node)
        assert run_due(node) == 2
        assert_proven(node, pacs, uids, proof="commitment")
        assert pacs.received == 2


@pytest.mark.parametrize("status", PASSING, ids=hex)
def test_trouble_of_the_peers_own_is_waited_for(tmp_path: Path, status: int) -> None:
    clock = Clock()
    with running(Pacs(statuses=[status] * 24)) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=10))
        uids = make_result(node)
        run_until_quiet(node, clock)
        assert_proven(node, pacs, uids, proof="commitment")


@pytest.mark.parametrize("status", REFUSALS, ids=hex)
def test_a_refusal_is_given_up_after_a_few_tries(tmp_path: Path, status: int) -> None:
    clock = Clock()
    with running(Pacs(statuses=[status] * 24)) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port))
        make_result(node)
        run_until_quiet(node, clock)
        assert {row.state for row in deliveries(node)} == {DeliveryState.DEAD}
        assert pacs.received == 2 * node.settings.delivery.refused_attempts
        assert f"{status:04X}H" in deliveries(node)[0].last_error


def test_tries_while_the_destination_was_down_are_no_refusals(tmp_path: Path) -> None:
    clock, port = Clock(), free_port()
    node = make_node(tmp_path, clock, to(port, same_association_seconds=10, documents=["machine"]))
    (uid, _) = make_result(node)
    for _ in range(8):
        run_due(node)
        clock.now = min(job.run_at for job in all_jobs(node))
    assert max(job.attempts for job in all_jobs(node)) > node.settings.delivery.refused_attempts
    few = node.settings.delivery.refused_attempts - 1
    with running(Pacs(statuses=[0xC000] * few), port=port) as pacs:
        run_until_quiet(node, clock)
        assert_proven(node, pacs, [uid], proof="commitment")
        assert pacs.received == few + 1


def test_requests_for_commitment_that_fail_for_an_hour_do_not_give_up_what_was_accepted(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(denials=16), query=False) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=10))
        uids = make_result(node)
        run_until_quiet(node, clock)
        assert_proven(node, pacs, uids, proof="commitment")
        assert pacs.received == 2, "accepted once is not sent again"


def report_on(node: NodeContext, *, failed: bool = False, number: int = 0) -> Dataset:
    """The report that the peer would send on the outstanding transaction of a delivery."""
    with node.database.read() as session:
        row = session.scalars(select(Delivery).order_by(Delivery.id).offset(number)).first()
        assert row is not None
        report, item = Dataset(), Dataset()
        report.TransactionUID = row.commitment_transaction_uid
        item.ReferencedSOPClassUID = row.accepted_sop_class_uid
        item.ReferencedSOPInstanceUID = row.document.sop_instance_uid
    if failed:
        item.FailureReason = 0x0110
        report.FailedSOPSequence = Sequence([item])
    else:
        report.ReferencedSOPSequence = Sequence([item])
    return report


def test_a_report_twice_and_an_old_one_change_nothing_more(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(faults={Fault.SILENT})) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=0))
        make_result(node)
        run_due(node)
        first = report_on(node, failed=True)
        assert answer_report(first, node.database, clock.now) == 0x0000
        state = deliveries(node)[0].state
        assert state is DeliveryState.PENDING
        assert answer_report(first, node.database, clock.now) == 0x0112, "of a transaction that is over"
        clock.forward(seconds=10)
        run_due(node)
        assert (deliveries(node)[0].state, deliveries(node)[0].attempts) == (DeliveryState.STORED, 2)
        assert answer_report(first, node.database, clock.now) == 0x0112, "the re-send has a transaction of its own"
        good = report_on(node)
        for _ in range(2):
            assert answer_report(good, node.database, clock.now) == 0x0000
        row = deliveries(node)[0]
        assert (row.state, row.proof, row.attempts) == (DeliveryState.CONFIRMED, "commitment", 2)
        assert answer_report(report_on(node, failed=True), node.database, clock.now) == 0x0000
        assert deliveries(node)[0].state is DeliveryState.CONFIRMED, "what was committed to stays proven"


def test_of_two_documents_only_the_one_that_failed_is_sent_again(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(faults={Fault.SILENT})) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=0))
        make_result(node)
        run_due(node)
        answer_report(report_on(node, number=0), node.database, clock.now)
        answer_report(report_on(node, failed=True, number=1), node.database, clock.now)
        pacs.faults.clear()
        clock.forward(seconds=10)
        run_due(node)
        assert [row.attempts for row in deliveries(node)] == [1, 2]
        assert pacs.received == 3


def test_a_report_that_comes_after_the_delivery_was_given_up_still_proves_it(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(faults={Fault.SILENT}), query=False) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=0.05))
        make_result(node)
        run_until_quiet(node, clock)
        assert {row.state for row in deliveries(node)} == {DeliveryState.DEAD}
        assert answer_report(report_on(node, failed=True), node.database, clock.now) == 0x0000
        assert deliveries(node)[0].state is DeliveryState.DEAD
        assert answer_report(report_on(node), node.database, clock.now) == 0x0000
        assert [row.state for row in deliveries(node)] == [DeliveryState.CONFIRMED, DeliveryState.DEAD]
        assert sorted(job.state for job in all_jobs(node)) == [JobState.DEAD, JobState.DONE]


def test_an_outdated_document_that_was_lost_is_not_sent_after_its_successor(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(faults={Fault.SILENT})) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=10))
        make_result(node, study_uid="1.2.99")
        run_due(node)
        answer_report(report_on(node, failed=True), node.database, clock.now)
        pacs.kept.clear()
        pacs.faults.clear()
        newer = make_result(node, study_uid="1.2.99", supersede=True)
        run_until_quiet(node, clock)
        assert sorted(pacs.kept) == sorted(newer)
    assert [row.state for row in deliveries(node)] == [DeliveryState.SUPERSEDED] * 2 + [DeliveryState.CONFIRMED] * 2


def test_a_new_document_waits_while_the_old_one_is_being_sent(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(faults={Fault.SLOW})) as pacs:
        where = to(pacs.port, verify="none", documents=["machine"])
        node = make_node(tmp_path, clock, where, delivery={"response_seconds": 30})
        (old, _) = make_result(node, study_uid="1.2.99")
        with node.database.write() as session:
            job = jobs.claim(session, kinds=[JobKind.DELIVER], owner="slow:1:x")
        assert job is not None
        sending = threading.Thread(target=deliver.handle, args=(job, node))
        sending.start()
        wait_until(lambda: pacs.received == 1, what="the old document to be on its way")
        (new, _) = make_result(node, study_uid="1.2.99", supersede=True)
        run_due(node)
        assert pacs.received == 1, "not beside it"
        pacs.faults.clear()
        pacs.patience.set()
        sending.join(30)
        run_until_quiet(node, clock)
        assert list(pacs.kept) == [old, new]
        assert {row.state for row in deliveries(node)} == {DeliveryState.CONFIRMED}


def test_what_the_peer_says_of_a_patient_is_seen_by_users_and_by_no_log_and_no_notice(tmp_path: Path) -> None:
    clock, stream = Clock(), io.StringIO()
    root = logging.getLogger()
    handlers = root.handlers[:]
    configure(LoggingSection(level="info"), stream=stream)
    try:
        with running(Pacs(statuses=[0xC000] * 24, comment="Patient WINTERBOTTOM has another ID")) as pacs:
            node = make_node(tmp_path, clock, to(pacs.port))
            make_result(node)
            run_until_quiet(node, clock)
            notify.run(node)
    finally:
        root.handlers[:] = handlers
    assert "WINTERBOTTOM" in deliveries(node)[0].last_error
    assert not any("WINTERBOTTOM" in job.last_error for job in all_jobs(node))
    with node.database.read() as session:
        texts = list(session.scalars(select(Notice.text)))
    (text,) = texts  # one notice for the destination, however many documents it refuses
    assert "deliveries to pacs" in text
    assert "WINTERBOTTOM" not in stream.getvalue() + "".join(texts)
    assert "C000H" in stream.getvalue()


def test_class_and_uid_of_what_was_sent_are_asked_for(tmp_path: Path) -> None:
    """The report names our document; one of another UID in the same transaction proves nothing."""
    clock = Clock()
    with running(Pacs(faults={Fault.SILENT})) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=0))
        make_result(node)
        run_due(node)
        other = report_on(node)
        other.ReferencedSOPSequence[0].ReferencedSOPClassUID = COMPREHENSIVE_3D_SR
        other.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3.4.5"
        assert answer_report(other, node.database, clock.now) == 0x0000
        assert deliveries(node)[0].state is DeliveryState.STORED
        with node.database.read() as session:
            assert {job.state for job in session.scalars(select(Job))} == {JobState.READY}
