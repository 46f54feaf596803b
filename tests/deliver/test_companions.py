"""The documents of one result to one destination: one association, one request, and each still ends by itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event, select

from dicom_node import deliver
from dicom_node.context import NodeContext
from dicom_node.deliver.commitment import ReportReceiver, answer_report
from dicom_node.deliver.rows import end, fail, mark_stored
from dicom_node.deliver.task import begin
from dicom_node.errors import DeliveryError
from dicom_node.index.tables.core import DeliveryState, Document, JobKind, JobState
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import ClaimedJob
from tests.deliver.test_faulty_destination import assert_proven, to
from tests.deliver.test_proof import report_on
from tests.support.common import free_port
from tests.support.delivery_node import Clock, all_jobs, deliveries, make_node, make_result, run_until_quiet
from tests.support.faulty_pacs import Fault, Pacs, running

pytestmark = pytest.mark.usefixtures("each_index")


def claim(node: NodeContext) -> ClaimedJob | None:
    """Claim as the worker does."""
    with node.database.write() as session:
        job = jobs.claim(session, kinds=[JobKind.DELIVER], owner="test:1:deliver")
        return None if job is None else deliver.add_companions(session, job)


def deliver_next(node: NodeContext) -> int:
    """Run the next delivery with its companions; returns how many these are."""
    job = claim(node)
    assert job is not None
    deliver.handle(job, node)
    return len(job.companions)


@pytest.mark.parametrize("proof", ["none", "find", "commitment"])
def test_both_documents_of_a_result_are_sent_and_proven_together(tmp_path: Path, proof: str) -> None:
    with running(Pacs()) as pacs:
        node = make_node(tmp_path, Clock(), to(pacs.port, verify=proof, same_association_seconds=10))
        uids = make_result(node)
        assert deliver_next(node) == 1
        assert_proven(node, pacs, uids, proof=proof)
        assert set(pacs.kept.values()) == {1}
        assert pacs.actions == (proof == "commitment"), "one request for commitment to both"
        assert [job.attempts for job in all_jobs(node)] == [1, 1]


def test_documents_of_other_results_and_destinations_are_no_companions(tmp_path: Path) -> None:
    node = make_node(tmp_path, Clock(), to(free_port()), {**to(free_port()), "name": "other", "documents": ["machine"]})
    make_result(node)
    make_result(node)
    claimed = [job for _ in range(4) if (job := claim(node)) is not None]
    assert [len(job.companions) for job in claimed] == [1, 0, 1, 0]
    assert claim(node) is None
    with node.database.read() as session:
        assert {job.lease_owner for job in all_jobs(node)} == {"test:1:deliver"}
        documents = {row.id: row.result_pk for row in session.scalars(select(Document))}
    rows = {row.id: row for row in deliveries(node)}
    for job in claimed:
        together = [rows[each.payload["delivery_id"]] for each in (job, *job.companions)]
        assert len({(row.destination, documents[row.document_pk]) for row in together}) == 1


@pytest.mark.parametrize("refused", [0, 1])
def test_a_refused_document_does_not_hold_up_the_other(tmp_path: Path, refused: int) -> None:
    clock = Clock()
    statuses = [0xC000] if refused == 0 else [0x0000, 0xC000]
    with running(Pacs(statuses=statuses)) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=10))
        uids = make_result(node)
        deliver_next(node)
        attempts = [job.attempts for job in all_jobs(node)]
        assert attempts[refused] == 1
        assert attempts[1 - refused] == 0, "not tried, or waiting for its proof without an attempt"
        states = [row.state for row in deliveries(node)]
        assert states == (
            [DeliveryState.PENDING] * 2 if refused == 0 else [DeliveryState.STORED, DeliveryState.PENDING]
        )
        assert "C000H" in deliveries(node)[refused].last_error
        run_until_quiet(node, clock)
        assert_proven(node, pacs, uids, proof="commitment")
        assert set(pacs.kept.values()) == {1}


def test_a_document_whose_file_is_gone_is_given_up_and_the_other_is_proven(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs()) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=10))
        uids = make_result(node)
        with node.database.read() as session:
            path = session.scalars(select(Document.path).where(Document.sop_instance_uid == uids[1])).one()
        (node.documents_dir / path).unlink()
        deliver_next(node)
        run_until_quiet(node, clock)
        assert [row.state for row in deliveries(node)] == [DeliveryState.CONFIRMED, DeliveryState.DEAD]
        assert list(pacs.kept) == uids[:1]


@pytest.mark.parametrize("fault", [Fault.REJECTS, Fault.ABORTS, Fault.SLOW, Fault.DENIES])
def test_a_fault_that_passes_costs_neither_document(tmp_path: Path, fault: Fault) -> None:
    clock = Clock()
    with running(Pacs(faults={fault})) as pacs:
        where = to(pacs.port, same_association_seconds=10)
        node = make_node(tmp_path, clock, where, delivery={"connect_seconds": 2, "response_seconds": 0.5})
        uids = make_result(node)
        deliver_next(node)
        assert DeliveryState.CONFIRMED not in {row.state for row in deliveries(node)}
        assert {job.state for job in all_jobs(node)} == {JobState.READY}
        pacs.faults.clear()
        pacs.patience.set()
        run_until_quiet(node, clock)
        assert_proven(node, pacs, uids, proof="commitment")


def test_a_report_on_both_that_fails_one_has_only_that_one_sent_again(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs(faults={Fault.SILENT})) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=0))
        uids = make_result(node)
        deliver_next(node)
        report = report_on(node, number=0)
        report.FailedSOPSequence = report_on(node, failed=True, number=1).FailedSOPSequence
        assert len({row.commitment_transaction_uid for row in deliveries(node)}) == 1
        assert answer_report(report, node.database, clock.now) == 0x0000
        assert [row.state for row in deliveries(node)] == [DeliveryState.CONFIRMED, DeliveryState.PENDING]
        pacs.faults.clear()
        run_until_quiet(node, clock)
        assert_proven(node, pacs, uids, proof="commitment")
        assert [row.attempts for row in deliveries(node)] == [1, 2]


def test_what_was_superseded_meanwhile_is_not_sent_with_the_companions(tmp_path: Path) -> None:
    clock = Clock()
    with running(Pacs()) as pacs:
        node = make_node(tmp_path, clock, to(pacs.port, same_association_seconds=10))
        make_result(node, study_uid="1.2.99")
        job = claim(node)
        newer = make_result(node, study_uid="1.2.99", supersede=True)
        assert job is not None
        deliver.handle(job, node)
        assert {row.state for row in deliveries(node)[:2]} == {DeliveryState.SUPERSEDED}
        run_until_quiet(node, clock)
        assert sorted(pacs.kept) == sorted(newer)
        assert [job.state for job in all_jobs(node)] == [JobState.DONE] * 4


def test_what_was_not_tried_waits_with_the_first_until_the_destination_may_answer(tmp_path: Path) -> None:
    node = make_node(tmp_path, Clock(), to(free_port()))
    make_result(node)
    deliver_next(node)
    first, other = all_jobs(node)
    assert [first.attempts, other.attempts] == [1, 0]
    assert other.run_at == first.run_at, "one of them finds out for all"


def test_a_request_that_fails_after_its_report_leaves_what_is_proven(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock, to(free_port()), delivery={"max_attempts": 1})
    make_result(node)
    job = claim(node)
    assert job is not None
    proven, failed = begin(job, node)
    mark_stored(proven, failed, transaction_uid="1.2.3")
    assert answer_report(report_on(node), node.database, clock.now) == 0x0000
    for task in (proven, failed):
        fail(task, DeliveryError("no answer to the request for storage commitment"))
    assert [row.state for row in deliveries(node)] == [DeliveryState.CONFIRMED, DeliveryState.DEAD]
    assert deliveries(node)[0].last_error == ""
    assert [job.state for job in all_jobs(node)] == [JobState.DONE, JobState.DEAD]


def test_reports_on_each_document_by_itself_are_all_waited_for(tmp_path: Path) -> None:
    clock = Clock()
    node = make_node(tmp_path, clock, to(free_port()))
    uids = make_result(node)
    job = claim(node)
    assert job is not None
    mark_stored(*begin(job, node), transaction_uid="1.2.3")
    reports = ReportReceiver(node.database, clock)
    reports.expect(uids)
    unknown = report_on(node)
    unknown.TransactionUID = "1.2.4"
    for report, status, is_all in (
        (unknown, 0x0112, False),
        (report_on(node, number=0), 0x0000, False),
        (report_on(node, number=1, failed=True), 0x0000, True),
    ):
        told: Any = SimpleNamespace(event_information=report)
        assert (reports(told), reports.came.is_set()) == (status, is_all)
    assert [row.state for row in deliveries(node)] == [DeliveryState.CONFIRMED, DeliveryState.PENDING]


def test_the_rows_are_locked_in_the_order_of_a_report(tmp_path: Path) -> None:
    node = make_node(tmp_path, Clock(), to(free_port()))
    make_result(node)
    job = claim(node)
    assert job is not None
    tasks = begin(job, node)
    mark_stored(*tasks)
    looked_at: list[object] = []

    @event.listens_for(node.database.engine, "before_cursor_execute")
    def _note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith("SELECT") and "WHERE delivery.id" in statement:
            looked_at.append(next(iter(parameters.values() if isinstance(parameters, dict) else parameters)))

    end(*sorted(tasks, key=lambda task: -task.delivery_id))
    assert looked_at == [row.id for row in deliveries(node)]
