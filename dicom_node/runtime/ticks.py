"""The ticks of a node: what each does, and how often. Every state is a row, so a lost tick loses nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from dicom_node import notifications as notify
from dicom_node.audit import syslog
from dicom_node.backfill.drive import drive as drive_backfills
from dicom_node.config import Settings
from dicom_node.context import NodeContext
from dicom_node.deliver import transitions
from dicom_node.deliver.queue import job_key
from dicom_node.drift.weekly import WeeklyDriftTick
from dicom_node.index.commits import CommitWatch
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Delivery, DeliveryState, Document, Job, JobKind, JobState, Study, StudyState
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.backlog import LANE_IS_GONE, find_unclaimed_work
from dicom_node.jobs.stalled_destinations import find_stalled
from dicom_node.jobs.upkeep import forget_done
from dicom_node.logs import get_logger
from dicom_node.priors.retrieval import prefetch
from dicom_node.priors.retrieval.instance_count import CountAgreement
from dicom_node.receive.recovery import recover
from dicom_node.retention import removal as retention
from dicom_node.serving.promotion import catch_up as journal_models
from dicom_node.serving.shared_pointer import follow_group
from dicom_node.studies import completion
from dicom_node.studies.received_reports import look_again as look_at_reports_again

log = get_logger(__name__)

KEEP_DONE_JOBS = dt.timedelta(days=7)
_NOT_ENDED = (DeliveryState.PENDING, DeliveryState.STORED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One thing to do every `seconds`. `leader_only`: once for all machines, not once for each."""

    name: str
    seconds: float
    action: Callable[[NodeContext], object]
    leader_only: bool = True


class UnlessUnchanged:
    """A tick that does nothing while nothing was committed since it last found nothing to do: all of a quiet night."""

    def __init__(self, action: Callable[[NodeContext], bool]) -> None:
        """`action` returns whether there was something to do, which the rows alone decide."""
        self._action = action
        self._watches: WeakKeyDictionary[Database, CommitWatch] = WeakKeyDictionary()

    def __call__(self, node: NodeContext) -> None:
        """Do it, where it may find something."""
        watch = self._watches.setdefault(node.database, CommitWatch(node.database))
        watch.look(lambda: self._action(node))


def complete_studies(node: NodeContext) -> bool:
    """Have the priors of new studies fetched; close quiet and overdue ones and enqueue their analyses: one commit.

    Returns whether a study was open.
    """
    with node.database.read() as session:  # a read costs a fifth of the statements below
        if not session.scalar(select(exists().where(Study.state == StudyState.OPEN))):
            return False
    with node.database.write() as session:
        prefetch.enqueue_for_open(session, node.settings, now=node.clock())
        closed = completion.sweep(session, completion=node.settings.completion, now=node.clock())
    if closed:
        log.info("studies complete", count=len(closed))
    return True


def rescue_jobs(node: NodeContext) -> None:
    """Bring back what dead workers held."""
    with node.database.write() as session:
        keys = jobs.rescue(session)
    if keys:
        log.warning("jobs rescued from lost workers", count=len(keys), keys=",".join(keys[:10]))


def reconcile_deliveries(node: NodeContext) -> None:
    """A delivery that is not at its end has a live job; one whose job was given up is dead. Mends both."""
    with node.database.read() as session:
        rows = session.execute(
            select(Delivery.id, Document.sop_instance_uid, Delivery.destination)
            .join(Document, Delivery.document_pk == Document.id)
            .where(Delivery.state.in_(_NOT_ENDED))
        ).all()
        keys = {job_key(uid, destination): delivery_id for delivery_id, uid, destination in rows}
        states = _job_states(session, keys)
    for key, delivery_id in keys.items():
        if states.get(key) not in (JobState.READY, JobState.RUNNING):
            with node.database.write() as session:
                _mend_delivery(session, delivery_id, key, node)


def _mend_delivery(session: Session, delivery_id: int, key: str, node: NodeContext) -> None:
    """Mend a delivery that seemed to be without a live job, if it still is.

    A worker ends a delivery and its job in one transaction. Two looks may see the delivery before that and the job
    after it, and would have a proven document sent again; behind the delivery's lock both are as one commit left them.
    """
    delivery = session.get(Delivery, delivery_id, with_for_update=True)
    if delivery is None or delivery.state not in _NOT_ENDED:
        return
    state = session.scalar(select(Job.state).where(Job.key == key))
    if state is JobState.DEAD:
        transitions.give_up(delivery, delivery.last_error, node.clock())
        log.warning("delivery given up with its job", delivery=delivery_id)
    elif state is None or state is JobState.DONE:
        jobs.restart(session, key)
        most = node.settings.delivery.max_attempts
        jobs.enqueue(session, JobKind.DELIVER, key, {"delivery_id": delivery_id}, max_attempts=most)
        log.error("delivery without a job: enqueued again", delivery=delivery_id)


def _job_states(session: Session, keys: Mapping[str, int]) -> dict[str, JobState]:
    states: dict[str, JobState] = {}
    names = list(keys)
    for start in range(0, len(names), 500):  # SQLite takes a limited number of parameters
        states.update(
            (key, state)
            for key, state in session.execute(select(Job.key, Job.state).where(Job.key.in_(names[start : start + 500])))
        )
    return states


def compare_store_and_index(node: NodeContext) -> None:
    """Recover an object store, whose listing is long: the leader, once a day. A folder's receivers do it themselves."""
    if not node.store.recovers_at_start:
        recover(node.database, node.store, clock=node.clock)


def forget_old_jobs(node: NodeContext) -> None:
    """Finished jobs of last week are only weight."""
    with node.database.write() as session:
        count = forget_done(session, age=KEEP_DONE_JOBS)
    if count:
        log.info("finished jobs forgotten", count=count)


@dataclass(slots=True)
class UnclaimedWorkTick:
    """The tick that tells of due work which no lane takes, once for each time that it begins.

    first_seen: since when a kind has been found so. After a planned stop work is overdue and no lane has reported yet:
    only what stays so for as long as a lane may be silent is told.
    """

    first_seen: dict[JobKind, dt.datetime] = field(default_factory=dict)

    def __call__(self, node: NodeContext) -> None:
        """Raise the notices that are due."""
        with node.database.read() as session:
            unclaimed = find_unclaimed_work(session)
        now = node.clock()
        self.first_seen = {waiting.kind: self.first_seen.get(waiting.kind, now) for waiting in unclaimed}
        lasting = [waiting for waiting in unclaimed if now - self.first_seen[waiting.kind] >= LANE_IS_GONE]
        texts = {f"unclaimed:{work.kind}:{work.due_since:%Y%m%d%H}": work.sentence() for work in lasting}
        _raise_notices(node, "work waits", texts)


def tell_of_stalled_destinations(node: NodeContext) -> None:
    """Raise a notice for a destination that nothing reaches, once for each time that it begins."""
    with node.database.read() as session:
        stalled = find_stalled(session)
    texts = {f"stalled:{each.destination}:{each.waiting_since:%Y%m%d%H%M}": each.sentence() for each in stalled}
    _raise_notices(node, "destination", texts)


def _raise_notices(node: NodeContext, kind: str, texts: Mapping[str, str]) -> None:
    """Raise a notice of each text under its key. A quiet night writes nothing."""
    if not texts:
        return
    with node.database.write() as session:
        for key, text in texts.items():
            notify.raise_notice(session, key=key, kind=kind, text=text, now=node.clock())


TICKS = (
    Tick(name="completion", seconds=1, action=UnlessUnchanged(complete_studies)),
    Tick(name="count", seconds=5, action=CountAgreement()),
    Tick(name="backfill", seconds=1, action=UnlessUnchanged(drive_backfills)),
    Tick(name="rescue", seconds=10, action=rescue_jobs),
    Tick(name="reports", seconds=10, action=look_at_reports_again),
    Tick(name="unclaimed", seconds=30, action=UnclaimedWorkTick()),
    Tick(name="stalled", seconds=60, action=tell_of_stalled_destinations),
    Tick(name="reconcile", seconds=60, action=reconcile_deliveries),
    Tick(name="notices", seconds=5, action=notify.run),
    Tick(name="audit", seconds=5, action=syslog.send_waiting),
    Tick(name="champion", seconds=5, action=follow_group, leader_only=False),
    Tick(name="models", seconds=5, action=journal_models),
    Tick(name="disk", seconds=30, action=retention.guard_disk, leader_only=False),
    Tick(name="retention", seconds=3600, action=retention.run),
    Tick(name="drift", seconds=600, action=WeeklyDriftTick()),
    Tick(name="jobs", seconds=3600, action=forget_old_jobs),
    Tick(name="store", seconds=3600, action=compare_store_and_index),
)


def ticks_of(settings: Settings) -> tuple[Tick, ...]:
    """All ticks, those whose pace the settings say at that pace."""
    paces = {"retention": settings.retention.every_seconds}
    return tuple(replace(tick, seconds=paces.get(tick.name, tick.seconds)) for tick in TICKS)
