"""Beginning, pausing, resuming and ending a run by a person's word, each audited; every transition of its row but C."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.audit import messages as audit
from dicom_node.backfill.spans import months
from dicom_node.config import QueryPeer, Settings
from dicom_node.errors import UsageError
from dicom_node.index.tables.backfill import (
    ENDED_RUN_STATES,
    BackfillItem,
    BackfillItemState,
    BackfillRange,
    BackfillRangeState,
    BackfillRun,
    BackfillRunState,
)
from dicom_node.index.upsert import insert_if_absent
from dicom_node.jobs import queue as jobs
from dicom_node.logs import get_logger

log = get_logger(__name__)

MAX_NAME = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillLimits:
    """A run's limits towards the archive; see the columns of `BackfillRun`."""

    per_minute: float = 10.0
    at_once: int = 1
    hours: str = ""
    timezone: str = ""


def peer_named(settings: Settings, name: str) -> QueryPeer:
    """The [[query]] peer of this name, or the only one for "". Raises UsageError."""
    names = [peer.name for peer in settings.query]
    if not names:
        raise UsageError("no archive is configured: add a [[query]] table to the configuration file")
    if not name and len(names) > 1:
        raise UsageError(f"name one of the archives with --archive: {', '.join(names)}")
    chosen = next((peer for peer in settings.query if peer.name == (name or names[0])), None)
    if chosen is None:
        raise UsageError(f"--archive: there is no [[query]] peer {name!r}; there are {', '.join(names)}")
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run as a person asks for it: dates, or a list of studies; see the columns of `BackfillRun`."""

    name: str
    archive: str
    dates: tuple[dt.date, dt.date] | None = None
    studies: Sequence[str] = ()
    sends_reports: bool = False
    limits: BackfillLimits = BackfillLimits()
    most_answers: int = 100


def start_run(session: Session, new: NewRun, *, settings: Settings, now: dt.datetime, who: str) -> BackfillRun:
    """Make a run with its ranges or items, in the caller's transaction. Raises UsageError for a name that is taken."""
    if not 1 <= len(new.name) <= MAX_NAME or not new.name.isprintable() or new.name != new.name.strip():
        raise UsageError(f"a run's name has 1 to {MAX_NAME} printable characters and no space at its ends")
    if session.scalar(select(BackfillRun.id).where(BackfillRun.name == new.name)) is not None:
        raise UsageError(f"there is a run {new.name!r} already; `dicom-node backfill status {new.name}` shows it")
    first, last = (f"{day:%Y%m%d}" for day in new.dates) if new.dates else ("", "")
    run = BackfillRun(
        name=new.name,
        archive=new.archive,
        first_date=first,
        last_date=last,
        sends_reports=new.sends_reports,
        per_minute=new.limits.per_minute,
        at_once=new.limits.at_once,
        hours=new.limits.hours,
        timezone=new.limits.timezone,
        most_answers=new.most_answers,
        started_by=who,
        created_at=now,
        updated_at=now,
        next_fetch_at=now,
    )
    session.add(run)
    session.flush()
    for span in months(*new.dates) if new.dates else ():
        session.add(BackfillRange(run_pk=run.id, first_date=span.first_date, last_date=span.last_date, due_at=now))
    for uid in new.studies:
        add_item(session, run, uid, now=now)
    _record(session, settings, run, "started", now=now, who=who)
    return run


def add_item(
    session: Session, run: BackfillRun, study_instance_uid: str, *, date: str = "", time: str = "", now: dt.datetime
) -> bool:
    """Add a study to a run; False where the run has it already."""
    values = {
        "run_pk": run.id,
        "study_instance_uid": study_instance_uid,
        "study_date": date,
        "study_time": time,
        "state": BackfillItemState.WAITING,
        "reason": "",
        "detail": "",
        "due_at": now,
        "attempts": 0,
        "dispatches": 0,
        "fetched": 0,
        "found_at": now,
    }
    return insert_if_absent(session, BackfillItem, values, unique=["run_pk", "study_instance_uid"]) is not None


def pause_run(session: Session, name: str, *, settings: Settings, now: dt.datetime, who: str) -> None:
    """Transition A. Raises UsageError where the run is not running."""
    run = run_named(session, name, lock=True)
    if run.state is not BackfillRunState.RUNNING:
        raise UsageError(f"the run {name!r} is {run.state}; only a running one is paused")
    _change(session, run, BackfillRunState.PAUSED, settings, now=now, who=who)


def resume_run(
    session: Session, name: str, *, limits: BackfillLimits | None, settings: Settings, now: dt.datetime, who: str
) -> None:
    """Transition B, and new limits for a paused or a running run. An archive that was away is asked at once."""
    run = run_named(session, name, lock=True)
    if run.state in ENDED_RUN_STATES:
        raise UsageError(f"the run {name!r} is {run.state}; `dicom-node backfill retry {name}` tries again what failed")
    if limits is not None:
        run.per_minute, run.at_once = limits.per_minute, limits.at_once
        run.hours, run.timezone = limits.hours, limits.timezone
    run.held_until, run.held_reason, run.unreachable_times, run.next_fetch_at = None, "", 0, now
    _change(session, run, BackfillRunState.RUNNING, settings, now=now, who=who)


def cancel_run(session: Session, name: str, *, settings: Settings, now: dt.datetime, who: str) -> None:
    """Transition D. What is being fetched or analysed comes to its end; the rest stays as it is in the report."""
    run = run_named(session, name, lock=True)
    if run.state in ENDED_RUN_STATES:
        raise UsageError(f"the run {name!r} is {run.state} already")
    run.ended_at = now
    _change(session, run, BackfillRunState.CANCELLED, settings, now=now, who=who)


def retry_run(session: Session, name: str, *, settings: Settings, now: dt.datetime, who: str) -> tuple[int, int]:
    """Transition E where the run has ended: failed ranges and studies wait again; returns how many of each."""
    run = run_named(session, name, lock=True)
    again = {"attempts": 0, "due_at": now}
    ranges = session.execute(
        update(BackfillRange)
        .where(BackfillRange.run_pk == run.id, BackfillRange.state == BackfillRangeState.FAILED)
        .values(state=BackfillRangeState.WAITING, **again)
        .returning(BackfillRange.id)
    ).all()
    items = session.execute(
        update(BackfillItem)
        .where(BackfillItem.run_pk == run.id, BackfillItem.state == BackfillItemState.FAILED)
        .values(state=BackfillItemState.WAITING, ended_at=None, reason="", detail="", **again)
        .returning(BackfillItem.id)
    ).all()
    run.ended_at = None
    _change(session, run, BackfillRunState.RUNNING, settings, now=now, who=who)
    return len(ranges), len(items)


def run_named(session: Session, name: str, *, lock: bool = False) -> BackfillRun:
    """The run of this name, with `lock` until the transaction ends. Raises UsageError naming those that there are."""
    chosen = select(BackfillRun).where(BackfillRun.name == name)
    run = session.scalars(chosen.with_for_update() if lock else chosen).one_or_none()
    if run is None:
        names = ", ".join(session.scalars(select(BackfillRun.name).order_by(BackfillRun.name))) or "none"
        raise UsageError(f"there is no run {name!r}; there are: {names}")
    return run


def hold_run(run: BackfillRun, why: str, *, now: dt.datetime) -> None:
    """The archive cannot be reached: ask nothing of it for a while, longer each time. Counts against no study."""
    run.unreachable_times += 1
    run.held_until = now + jobs.back_off(run.unreachable_times)
    run.held_reason = why
    log.warning("backfill held", run=run.name, why=why, times=run.unreachable_times)


def _change(
    session: Session, run: BackfillRun, state: BackfillRunState, settings: Settings, *, now: dt.datetime, who: str
) -> None:
    run.state, run.updated_at = state, now
    _record(session, settings, run, str(state), now=now, who=who)


def _record(session: Session, settings: Settings, run: BackfillRun, word: str, *, now: dt.datetime, who: str) -> None:
    """Audit what a person had done to a run: a restricted function (PS3.15 section A.5.3.11, Security Alert)."""
    audit.record(
        session,
        audit.AuditedEvent.SECURITY_ALERT,
        event_type=audit.EventType.USE_OF_RESTRICTED_FUNCTION,
        now=now,
        participants=(audit.Participant(user_id=who, requestor=True), audit.this_node(settings.node.ae_title)),
        alert=f"backfill {run.name!r} of the archive {run.archive!r}: {word}",
        site=settings.audit.site,
    )
    log.info("backfill changed", run=run.name, change=word)
