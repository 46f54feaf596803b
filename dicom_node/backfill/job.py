"""The BACKFILL job: list one date range of an archive, or bring one study with its priors and have it analysed.

Each ends in one transaction that holds the job's end and the row's next state. An archive that cannot be reached holds
the whole run and counts against nothing; what it refuses is tried again, then told.
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.backfill.fetching import Ending, bring
from dicom_node.backfill.limits import obstacle
from dicom_node.backfill.listing import SpanListing, ask
from dicom_node.backfill.runs import add_item, hold_run, peer_named
from dicom_node.backfill.settle import end_item
from dicom_node.backfill.spans import Span
from dicom_node.context import NodeContext
from dicom_node.errors import ArchiveUnreachableError, RetrieveError, UsageError
from dicom_node.index.tables.backfill import (
    BackfillItem,
    BackfillItemState,
    BackfillRange,
    BackfillRangeState,
    BackfillReason,
    BackfillRun,
    BackfillRunState,
)
from dicom_node.index.upsert import insert_if_absent
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.logs import bound, get_logger
from dicom_node.priors.retrieval.fetch import open_archive

log = get_logger(__name__)

MAX_ATTEMPTS = 5
"""A range or a study that an archive answered with a failure so often is told as failed."""


def handle(job: ClaimedJob, node: NodeContext) -> None:
    """Do one BACKFILL job and end it."""
    with bound(job=job.key):
        if "range" in job.payload:
            _list_range(job, node)
        else:
            _bring_study(job, node)


def _list_range(job: ClaimedJob, node: NodeContext) -> None:
    with node.database.read() as session:
        part = session.get_one(BackfillRange, int(job.payload["range"]))
        run = session.get_one(BackfillRun, part.run_pk)
        session.expunge_all()
    if part.dispatches != job.payload["dispatch"] or part.state is not BackfillRangeState.ASKING:
        _leave(job, node)
        return
    span = Span(
        first_date=part.first_date, last_date=part.last_date, first_time=part.first_time, last_time=part.last_time
    )
    answer: SpanListing | None = None
    failure: RetrieveError | UsageError | None = None
    if not obstacle(run, node):
        try:
            answer = ask(open_archive(peer_named(node.settings, run.archive), node), span, most=run.most_answers)
        except (RetrieveError, UsageError) as error:
            failure = error
    if node.stop.is_set() and failure is not None:
        raise failure  # the worker gives the job back: what failed is the stopping, not the archive
    with node.database.write() as session:
        jobs.complete(session, job)
        run = _lock_run(session, run.id)
        part = session.get_one(BackfillRange, part.id)
        if answer is not None:
            _keep_answer(session, run, part, span, answer, node)
        elif failure is not None and not _is_of_archive(failure):
            part.attempts += 1
            part.last_error = str(failure)
            part.due_at = node.clock() + jobs.back_off(part.attempts)
            given_up = part.attempts >= MAX_ATTEMPTS
            part.state = BackfillRangeState.FAILED if given_up else BackfillRangeState.WAITING
        else:
            part.state = BackfillRangeState.WAITING
            if failure is not None:
                hold_run(run, str(failure), now=node.clock())


def _keep_answer(
    session: Session, run: BackfillRun, part: BackfillRange, span: Span, answer: SpanListing, node: NodeContext
) -> None:
    """Make items of what was listed; where it was cut short, the halves are asked as well."""
    now = node.clock()
    # An answer, whatever it says, means that the archive is there again.
    run.unreachable_times, run.held_until, run.held_reason = 0, None, ""
    # Kept even where the answer was cut short: the halves name them again, and an item is made once.
    for study in answer.radiographs:
        add_item(session, run, study.study_instance_uid, date=study.study_date, time=study.study_time, now=now)
    part.listed, part.others = len(answer.radiographs), answer.others
    # An archive that ignores the dates would give the same answer for every half, and halving would never end.
    halves = span.halves() if answer.cut and not answer.is_deaf else None
    if not answer.cut:
        part.state, part.last_error = BackfillRangeState.LISTED, ""
    elif halves is None:
        part.state = BackfillRangeState.FAILED
        why = "it ignores the date or the time of a query" if answer.is_deaf else "this part is too short to be halved"
        part.last_error = f"the archive {answer.cut}, and {why}: some of its studies may be missing"
    else:
        part.state = BackfillRangeState.SPLIT
        for half in halves:
            _add_range(session, run, half, now)
    log.info("backfill range asked", run=run.name, state=part.state, studies=part.listed, others=part.others)


def _add_range(session: Session, run: BackfillRun, span: Span, now: dt.datetime) -> None:
    bounds = {
        "run_pk": run.id,
        "first_date": span.first_date,
        "last_date": span.last_date,
        "first_time": span.first_time,
        "last_time": span.last_time,
    }
    counts = {"attempts": 0, "dispatches": 0, "listed": 0, "others": 0}
    values = {**bounds, **counts, "state": BackfillRangeState.WAITING, "due_at": now, "last_error": ""}
    insert_if_absent(session, BackfillRange, values, unique=list(bounds))


def _bring_study(job: ClaimedJob, node: NodeContext) -> None:
    with node.database.read() as session:
        item = session.get_one(BackfillItem, int(job.payload["item"]))
        run = session.get_one(BackfillRun, item.run_pk)
        session.expunge_all()
    # A dead job that a person revived finds its study failed, and is done all the same.
    is_revived = item.state is BackfillItemState.FAILED and run.state is BackfillRunState.RUNNING
    at_work = item.state is BackfillItemState.FETCHING or is_revived
    if item.dispatches != job.payload["dispatch"] or not at_work:
        _leave(job, node)
        return
    ending: Ending | None = None
    failure: RetrieveError | UsageError | None = None
    if not obstacle(run, node):
        try:
            peer = peer_named(node.settings, run.archive)
            ending = bring(item, peer, node, is_last_try=item.attempts + 1 >= MAX_ATTEMPTS)
        except (RetrieveError, UsageError) as error:
            failure = error
    if node.stop.is_set() and failure is not None:
        raise failure
    with node.database.write() as session:
        jobs.complete(session, job)
        run = _lock_run(session, run.id)
        item = session.get_one(BackfillItem, item.id)
        if ending is not None:
            ending.commit(session, run, item, now=node.clock())
        else:
            _put_back(run, item, failure, node)


def _put_back(run: BackfillRun, item: BackfillItem, failure: Exception | None, node: NodeContext) -> None:
    """The study waits again (D), or has failed as often as it may."""
    now = node.clock()
    item.state, item.ended_at = BackfillItemState.WAITING, None
    if failure is None:  # paused, or out of hours
        return
    item.detail = str(failure)
    if _is_of_archive(failure):
        item.reason = BackfillReason.UNREACHABLE
        hold_run(run, str(failure), now=now)
        return
    item.attempts += 1
    item.reason = BackfillReason.REFUSED
    item.due_at = now + jobs.back_off(item.attempts)
    if item.attempts >= MAX_ATTEMPTS:
        end_item(item, BackfillItemState.FAILED, reason=BackfillReason.REFUSED, detail=str(failure), now=now)


def _is_of_archive(failure: Exception) -> bool:
    """Tell whether this would fail for every study: nobody answers, or the archive is configured no longer."""
    return isinstance(failure, ArchiveUnreachableError | UsageError)


def _lock_run(session: Session, run_pk: int) -> BackfillRun:
    return session.scalars(select(BackfillRun).where(BackfillRun.id == run_pk).with_for_update()).one()


def _leave(job: ClaimedJob, node: NodeContext) -> None:
    """End a job whose row has gone on without it."""
    with node.database.write() as session:
        jobs.complete(session, job)
