"""The scheduler, APScheduler, which only ticks: every state is a row, so a lost tick loses nothing (`runtime.ticks`).

A tick that comes late runs once, not as often as it was missed; one that still runs is not started again. On PostgreSQL
one sweeper of all machines leads (`dicom_node.system.leader_election`).
"""

from __future__ import annotations

import datetime as dt

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from dicom_node.audit import messages as audit
from dicom_node.context import NodeContext
from dicom_node.errors import NodeError
from dicom_node.index.database import CLOCK_TOLERANCE
from dicom_node.logs import bound, get_logger
from dicom_node.runtime.clock_jumps import SteadyClock, mend_after_setback
from dicom_node.runtime.steady_interval import SteadyInterval
from dicom_node.runtime.ticks import Tick, ticks_of
from dicom_node.system.leader_election import Leadership

log = get_logger(__name__)


def note_activity(node: NodeContext, event_type: audit.EventType) -> None:
    """Audit that the node starts or stops (PS3.15 section A.5.3.1). An index that is away does not hinder either."""
    try:
        with node.database.write() as session:
            audit.record(
                session,
                audit.AuditedEvent.APPLICATION_ACTIVITY,
                event_type=event_type,
                now=node.clock(),
                participants=(audit.this_node(node.settings.node.ae_title),),
                site=node.settings.audit.site,
            )
    except NodeError as error:
        log.error("start or stop not audited", error=str(error))


class Sweeper:
    """The scheduler of one node. `start`, then `stop`."""

    def __init__(self, node: NodeContext, ticks: tuple[Tick, ...] | None = None) -> None:
        self._node = node
        self._ticks = ticks if ticks is not None else ticks_of(node.settings)
        self._leadership = Leadership(node)
        self._clock = SteadyClock(node)
        self._scheduler = BackgroundScheduler(
            timezone=dt.UTC,
            executors={"default": ThreadPoolExecutor(4), "steady": ThreadPoolExecutor(1)},
            # Missed ticks become one, however long the machine slept; none is dropped for being late.
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self) -> None:
        """Begin to tick, each action at once for the first time."""
        now = dt.datetime.now(dt.UTC)
        for tick in self._ticks:
            self._scheduler.add_job(
                self._run, SteadyInterval(tick.seconds), args=(tick,), id=tick.name, next_run_time=now
            )
        self._scheduler.start()
        note_activity(self._node, audit.EventType.APPLICATION_START)
        self._clock.watch(self._clock_was_set, self._is_held_up)

    def stop(self) -> None:
        """Wait for running ticks, then give up the lead."""
        self._clock.stop()
        self._scheduler.shutdown(wait=True)
        self._leadership.give_up()
        note_activity(self._node, audit.EventType.APPLICATION_STOP)

    def _run(self, tick: Tick) -> None:
        """Run one tick here, unless another machine leads."""
        if self._node.stop.is_set() or (tick.leader_only and not self._leadership.take_or_keep()):
            return
        with bound(tick=tick.name):
            try:
                tick.action(self._node)
            except NodeError as error:
                log.error("tick failed", error=str(error))

    def _is_held_up(self) -> bool:
        """Tell whether a tick is planned for later than its pace allows: a clock was ahead for a moment."""
        now = dt.datetime.now(dt.UTC)
        latest = {tick.name: now + dt.timedelta(seconds=tick.seconds) + CLOCK_TOLERANCE for tick in self._ticks}
        return any(job.next_run_time > latest[job.id] for job in self._scheduler.get_jobs())

    def _clock_was_set(self, before: dt.datetime, now: dt.datetime) -> None:
        """After a jump the scheduler's next times are of the old clock: begin anew, and mend what rows hold of it."""
        log.warning("the clock was set", seconds=round((now - before).total_seconds()))
        # Only set back does harm to rows: their times then lie in the future, and nothing would be due for that long.
        # One process mends them, the leader.
        if now < before - CLOCK_TOLERANCE and self._leadership.take_or_keep():
            try:
                with self._node.database.write() as session:
                    mend_after_setback(session, before=before, now=now)
            except NodeError as error:
                log.error("rows not mended after the clock was set back", error=str(error))
        for tick in self._ticks:
            self._scheduler.reschedule_job(tick.name, trigger=SteadyInterval(tick.seconds))
            self._scheduler.modify_job(tick.name, next_run_time=dt.datetime.now(dt.UTC))
