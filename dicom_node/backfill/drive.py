"""The leader's tick: read what became of studies, and dispatch the next ranges and studies within the run's limits.

The row of a run is locked while it is driven (another machine that believes to lead passes over it), and a job's key
holds the number of its dispatch, so nothing is dispatched twice.
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from dicom_node.backfill.keys import item_key, range_key
from dicom_node.backfill.limits import obstacle
from dicom_node.backfill.settle import settle
from dicom_node.context import NodeContext
from dicom_node.index.tables.backfill import (
    BackfillItem,
    BackfillItemState,
    BackfillRange,
    BackfillRangeState,
    BackfillRun,
    BackfillRunState,
)
from dicom_node.index.tables.core import JobKind
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.due import Priority
from dicom_node.logs import get_logger
from dicom_node.notifications import raise_notice

log = get_logger(__name__)

MAX_WAITING_ANALYSES = 50
"""Studies fetched and not yet analysed: fetching far ahead of the model would only fill the disk."""
MAX_BURST = dt.timedelta(seconds=5)
"""A rate that could not be used for longer than this is not made up for."""
TIMES_BEFORE_NOTICE = 6
"""Failed connections in a row before people are told: some five minutes."""
OPEN_ITEMS = (BackfillItemState.WAITING, BackfillItemState.FETCHING, BackfillItemState.ANALYSING)
OPEN_RANGES = (BackfillRangeState.WAITING, BackfillRangeState.ASKING)


def drive(node: NodeContext) -> bool:
    """Drive every running run one step, and follow what others have under way to its end; tell if there was a run."""
    with node.database.read() as session:
        under_way = exists().where(
            BackfillItem.run_pk == BackfillRun.id,
            BackfillItem.state.in_((BackfillItemState.FETCHING, BackfillItemState.ANALYSING)),
        )
        chosen = (BackfillRun.state == BackfillRunState.RUNNING) | under_way
        ids = list(session.scalars(select(BackfillRun.id).where(chosen).order_by(BackfillRun.id)))
    for run_pk in ids:
        with node.database.write() as session:
            _drive_run(session, run_pk, node)
    return bool(ids)


def _drive_run(session: Session, run_pk: int, node: NodeContext) -> None:
    # skip_locked: another process that drives this run is at it already.
    locked = select(BackfillRun).where(BackfillRun.id == run_pk).with_for_update(skip_locked=True)
    run = session.scalars(locked).one_or_none()
    if run is None:
        return
    now = node.clock()
    settle(session, run, now=now)
    # The day is part of the key: people are told once a day.
    if run.unreachable_times >= TIMES_BEFORE_NOTICE and run.state is BackfillRunState.RUNNING:
        text = f"The backfill {run.name!r} waits: {run.held_reason}."
        raise_notice(session, key=f"backfill:{run.id}:{now:%Y%m%d}", kind="backfill waits", text=text, now=now)
    if obstacle(run, node):
        return
    _dispatch_range(session, run, now)
    _dispatch_items(session, run, now)
    _finish(session, run, now)


def _dispatch_range(session: Session, run: BackfillRun, now: dt.datetime) -> None:
    """One range at a time, in order of date, beside the studies that are being fetched."""
    of_run = BackfillRange.run_pk == run.id
    if session.scalar(select(exists().where(of_run, BackfillRange.state == BackfillRangeState.ASKING))):
        return
    due = of_run & (BackfillRange.state == BackfillRangeState.WAITING) & (BackfillRange.due_at <= now)
    order = (BackfillRange.first_date, BackfillRange.first_time, BackfillRange.id)
    part = session.scalars(select(BackfillRange).where(due).order_by(*order).limit(1)).one_or_none()
    if part is None:
        return
    part.state = BackfillRangeState.ASKING
    part.dispatches += 1
    payload = {"run": run.id, "range": part.id, "dispatch": part.dispatches}
    jobs.enqueue(session, JobKind.BACKFILL, range_key(part), payload, priority=Priority.BULK)


def _dispatch_items(session: Session, run: BackfillRun, now: dt.datetime) -> None:
    """As many as the rate, the number at once and the analyses that wait allow; oldest studies first."""
    counts = count_items(session, run, (BackfillItemState.FETCHING, BackfillItemState.ANALYSING))
    room = min(
        run.at_once - counts.get(BackfillItemState.FETCHING, 0),
        MAX_WAITING_ANALYSES - counts.get(BackfillItemState.ANALYSING, 0),
    )
    interval = dt.timedelta(minutes=1) / run.per_minute
    next_at = max(run.next_fetch_at, now - MAX_BURST)
    due = (BackfillItem.run_pk == run.id) & (BackfillItem.state == BackfillItemState.WAITING)
    order = (BackfillItem.study_date, BackfillItem.study_time, BackfillItem.id)
    allowed = 0 if next_at > now else int((now - next_at) / interval) + 1
    if min(room, allowed) <= 0:
        return
    chosen = select(BackfillItem).where(due, BackfillItem.due_at <= now).order_by(*order).limit(min(room, allowed))
    for item in session.scalars(chosen).all():
        item.state = BackfillItemState.FETCHING
        item.dispatches += 1
        next_at += interval
        payload = {
            "run": run.id,
            "item": item.id,
            "dispatch": item.dispatches,
            "study_instance_uid": item.study_instance_uid,  # retention leaves alone what a job's payload names
        }
        jobs.enqueue(session, JobKind.BACKFILL, item_key(item), payload, priority=Priority.BULK)
    run.next_fetch_at = next_at


def _finish(session: Session, run: BackfillRun, now: dt.datetime) -> None:
    """End the run (C) when nothing of it is left; people are told once."""
    open_item = exists().where(BackfillItem.run_pk == run.id, BackfillItem.state.in_(OPEN_ITEMS))
    open_range = exists().where(BackfillRange.run_pk == run.id, BackfillRange.state.in_(OPEN_RANGES))
    if session.scalar(select(open_item | open_range)):
        return
    run.state, run.updated_at, run.ended_at = BackfillRunState.DONE, now, now
    counts = count_items(session, run, tuple(BackfillItemState))
    counted = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no study found"
    failed = select(func.count(BackfillRange.id)).where(
        BackfillRange.run_pk == run.id, BackfillRange.state == BackfillRangeState.FAILED
    )
    counted += f"; {count} date ranges failed" if (count := session.scalar(failed)) else ""
    text = f"The backfill {run.name!r} is done: {counted}. `dicom-node backfill report` lists the studies."
    raise_notice(session, key=f"backfill:{run.id}:done:{now:%Y%m%d%H%M%S}", kind="backfill done", text=text, now=now)


def count_items(
    session: Session, run: BackfillRun, states: tuple[BackfillItemState, ...]
) -> dict[BackfillItemState, int]:
    """The number of a run's studies in each of these states."""
    counted = select(BackfillItem.state, func.count()).where(
        BackfillItem.run_pk == run.id, BackfillItem.state.in_(states)
    )
    return {row[0]: row[1] for row in session.execute(counted.group_by(BackfillItem.state))}
