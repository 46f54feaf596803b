"""Whatever the destination does: in the end exactly one copy of each document is there, proven."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dicom_node.context import NodeContext
from dicom_node.deliver.commitment import answer_report
from dicom_node.deliver.queue import resend
from dicom_node.index.tables.core import DeliveryState, JobState
from dicom_node.receive import Receiver
from dicom_node.report.sr.fallback_classes import variant_uid
from tests.support.common import free_port
from tests.support.delivery_node import (
    BASIC_TEXT_SR,
    COMPREHENSIVE_3D_SR,
    Clock,
    all_jobs,
    deliveries,
    make_node,
    make_result,
    run_due,
    run_until_quiet,
)
from tests.support.faulty_pacs import STORAGE, Fault, Pacs, Report, cutting_wire, running

pytestmark = pytest.mark.usefixtures("each_index")


def to(port: int, **more: Any) -> dict[str, Any]:
    return {"name": "pacs", "ae_title": "FAULTY", "host": "127.0.0.1", "port": port, **more}


def assert_proven(node: NodeContext, pacs: Pacs, uids: list[str], *, proof: str) -> None:
    """Every document is at the PACS, once, and its row and job say so."""
    assert sorted(pacs.kept) == sorted(uids)
    assert [(row.state, row.proof) for row in deliveries(node)] == [(DeliveryState.CONFIRMED, proof)] * len(uids)
    assert {job.state for job in all_jobs(node)} == {JobState.DONE}


@contextmanager
def report_listener(node: NodeContext) -> Iterator[int]:
    """The node's own receiver, for reports on new associations."""
    here = node.settings.node.model_copy(update={"host": "127.0.0.1", "port": 0})
    receiver = Receiver(node.settings.model_copy(update={"node": here}), node.database, node.store)
    receiver.start()
    try:
        yield receiver.port
    finally:
        receiver.stop()


@pytest.mark.parametrize(("verify", "proof"), [("none", "none"), ("find", "find"), ("commitment", "commitment")])
def test_a_sound_destination_gets_each_document_once(tmp_path: Path, verify: str, proof: str) -> None:
    clock = Clock()
    with running(Pacs()) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, verify=verify, same_association_seconds=10))
        uids = make_result(node)
        assert run_due(node) == 2
        assert_proven(node, pacs, uids, proof=proof)
        assert set(pacs.kept.values()) == {1}


@pytest.mark.parametrize("report", [Report.NEW, Report.EARLY])
def test_the_report_may_come_on_a_new_association_even_before_the_answer(tmp_path: Path, report: Report) -> None:
    clock = Clock()
    with running(Pacs(report=report)) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=0))
        with report_listener(node) as port:
            pacs.report_to = ("127.0.0.1", port)
            uids = make_result(node)
            run_due(node)
            for thread in pacs.threads:
                thread.join(10)
            run_due(node)
        assert_proven(node, pacs, uids, proof="commitment")
        assert pacs.received == 2


def test_down_for_a_day_only_delays(tmp_path: Path) -> None:
    clock = Clock()
    port = free_port()
    node = make_node(tmp_path, clock, to(port, same_association_seconds=10))
    uids = make_result(node) + make_result(node)
    back = clock.now.replace(day=clock.now.day + 1)
    tries = 0
    while clock.now < back:
        tries += run_due(node)
        clock.now = min(job.run_at for job in all_jobs(node))
    assert {row.state for row in deliveries(node)} == {DeliveryState.PENDING}
    assert {job.state for job in all_jobs(node)} == {JobState.READY}
    assert tries < 120, "a destination that is down is asked by one job at a time, not by all of them"
    with running(Pacs(), port=port) as pacs:
        run_due(node)
        assert_proven(node, pacs, uids, proof="commitment")


@pytest.mark.parametrize(
    "fault", [Fault.REJECTS, Fault.REFUSES, Fault.FULL, Fault.LOSES, Fault.SLOW, Fault.ABORTS, Fault.DENIES]
)
def test_a_fault_that_passes(tmp_path: Path, fault: Fault) -> None:
    clock = Clock()
    with running(Pacs(faults={fault})) as pacs:
        node = make_node(
            tmp_path,
            clock,
            to(pacs.port, same_association_seconds=10),
            delivery={"connect_seconds": 2, "response_seconds": 0.5},
        )
        uids = make_result(node)
        run_due(node)
        assert DeliveryState.CONFIRMED not in {row.state for row in deliveries(node)}
        assert any(row.last_error for row in deliveries(node))
        pacs.faults.clear()
        pacs.patience.set()
        run_until_quiet(node, clock)
        assert_proven(node, pacs, uids, proof="commitment")


def test_a_wire_that_is_cut_in_mid_dataset(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs()) as pacs, cutting_wire(pacs.port, after_bytes=3000, times=3) as wire:
        node = make_node(tmp_path, clock, to(wire, same_association_seconds=10))
        uids = make_result(node)
        run_due(node)
        assert pacs.kept == {}
        run_until_quiet(node, clock)
        assert_proven(node, pacs, uids, proof="commitment")


def test_accepted_and_lost_for_ever_is_a_dead_letter_and_a_retry_revives_it(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(faults={Fault.LOSES})) as pacs:
        node = make_node(
            tmp_path,
            clock,
            to(pacs.port, same_association_seconds=10),
            delivery={"connect_seconds": 2, "response_seconds": 2, "max_attempts": 3},
        )
        uids = make_result(node)
        run_until_quiet(node, clock)
        assert [(row.state, row.attempts) for row in deliveries(node)] == [(DeliveryState.DEAD, 3)] * 2
        assert {job.state for job in all_jobs(node)} == {JobState.DEAD}
        pacs.faults.clear()
        from dicom_node.jobs import queue as jobs

        with node.database.write() as session:
            assert len(jobs.retry_dead(session)) == 2
        run_until_quiet(node, clock)
        assert_proven(node, pacs, uids, proof="commitment")


def test_refused_for_ever_is_a_dead_letter_after_a_few_tries(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(faults={Fault.REFUSES})) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port))
        make_result(node)
        run_until_quiet(node, clock)
        assert pacs.received == 2 * node.settings.delivery.refused_attempts
        assert all("C000H" in row.last_error for row in deliveries(node))
        assert {row.state for row in deliveries(node)} == {DeliveryState.DEAD}


def test_a_report_that_never_comes_is_asked_for_again_and_then_the_query_decides(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(faults={Fault.SILENT})) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=0.05))
        uids = make_result(node)
        run_until_quiet(node, clock)
        assert_proven(node, pacs, uids, proof="find")
        assert pacs.actions == 6, "three requests for each document"
        assert pacs.received == 2, "what the PACS lists is not sent again"


def test_lost_after_acceptance_with_a_silent_pacs_is_sent_again(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(faults={Fault.SILENT})) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=0.05))
        uids = make_result(node)
        run_due(node)
        pacs.kept.clear()
        clock.forward(seconds=901)
        pacs.faults.clear()
        run_until_quiet(node, clock)
        assert_proven(node, pacs, uids, proof="commitment")
        assert pacs.received == 4


def test_without_any_proof_to_be_had_the_delivery_is_not_called_delivered(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(faults={Fault.SILENT}), query=False) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=0.05))
        make_result(node)
        run_until_quiet(node, clock)
        assert {row.state for row in deliveries(node)} == {DeliveryState.DEAD}


def test_a_peer_without_commitment_is_proven_by_query_and_recorded_as_such(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(), commitment=False) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port))
        uids = make_result(node)
        run_due(node)
        assert_proven(node, pacs, uids, proof="find")


def test_a_forged_report_confirms_nothing(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(faults={Fault.SILENT, Fault.LOSES})) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=0))
        uids = make_result(node)
        run_due(node)
    from pydicom import Dataset
    from pydicom.sequence import Sequence

    forged, item = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = COMPREHENSIVE_3D_SR, uids[0]
    forged.TransactionUID, forged.ReferencedSOPSequence = "1.2.3.999", Sequence([item])
    assert answer_report(forged, node.database, clock.now) == 0x0112
    assert {row.state for row in deliveries(node)} == {DeliveryState.STORED}
    assert answer_report(Dataset(), node.database, clock.now) == 0x0115


def test_an_outdated_document_that_never_left_is_not_sent_after_its_successor(tmp_path: Path) -> None:
    clock = Clock()
    port = free_port()
    node = make_node(tmp_path, clock, to(port, same_association_seconds=10))
    make_result(node, study_uid="1.2.99")
    run_due(node)
    newer = make_result(node, study_uid="1.2.99", supersede=True)
    with running(Pacs(), port=port) as pacs:
        run_until_quiet(node, clock)
        assert sorted(pacs.kept) == sorted(newer)
    assert [row.state for row in deliveries(node)] == [DeliveryState.SUPERSEDED] * 2 + [DeliveryState.CONFIRMED] * 2


@pytest.mark.parametrize("refused", ["not negotiated", "0122H"])
def test_one_sop_class_rejected_goes_down_the_ladder_and_is_proven_as_sent(tmp_path: Path, refused: str) -> None:
    clock = Clock()
    faults = {Fault.NO_3D} if refused == "0122H" else set()
    storage = STORAGE if refused == "0122H" else STORAGE[1:]
    with running(Pacs(faults=faults), storage=storage) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=10))
        machine, reading = make_result(node)
        run_due(node)
        as_sent = variant_uid(machine, STORAGE[1])
        assert_proven(node, pacs, [as_sent, reading], proof="commitment")
        assert [row.accepted_sop_class_uid for row in deliveries(node)] == [STORAGE[1], BASIC_TEXT_SR]
        # The archive learns the richer class later: a resend still leaves one object.
        pacs.faults.clear()
        with node.database.write() as session:
            resend(session, [row.id for row in deliveries(node)], now=clock.now, settings=node.settings.delivery)
        run_due(node)
        assert_proven(node, pacs, [as_sent, reading], proof="commitment")


def test_a_destination_without_any_fitting_class_is_a_dead_letter_that_says_so(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(), storage=STORAGE[:1]) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=10))
        make_result(node)
        run_until_quiet(node, clock)
        states = [row.state for row in deliveries(node)]
        assert states == [DeliveryState.CONFIRMED, DeliveryState.DEAD]
        assert "none of the SOP classes" in deliveries(node)[1].last_error


def test_rules_say_which_document_of_which_outcome_goes_where(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(
        tmp_path,
        clock,
        {"name": "viewer", "documents": ["reading"]},
        {"name": "registry", "documents": ["machine"], "outcomes": ["findings only"]},
        {"name": "changes", "outcomes": ["compared"]},
    )
    make_result(node)
    assert sorted((row.destination, row.document_pk) for row in deliveries(node)) == [("registry", 1), ("viewer", 2)]
