"""The job that is due next: the order of urgency, and the one form of query that finds it however long the queue is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from enum import IntEnum
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, bindparam, case, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from dicom_node.index.clock import given_clock, server_time
from dicom_node.index.prepared import PreparedStatement
from dicom_node.index.tables.base import UtcDateTime
from dicom_node.index.tables.core import Job, JobKind, JobState, Study

CLAIMS_OF_ANALYSES = 7_310_018
"""PostgreSQL's advisory lock of whoever claims an analysis: any number that no other lock of the index has."""
LONGEST_CLAIM = "10s"
"""A machine that stands still in the middle of a claim is cut off after so long, and its lock is free."""


class Priority(IntEnum):
    """Lower runs first. A job of lower urgency is claimed only while no more urgent one of its kind is due.

    A claim asks for each of these in turn, so a job of any other priority would wait for ever.
    """

    ROUTINE = 100
    BULK = 200
    """Reprocessing, resending and backfill of many studies: never before what came from the modality tonight, however
    long it has waited. Routine work that never ends holds it up for ever, which is the order that a hospital wants."""
    SHADOW = 300
    """A challenger's answers, which nobody waits for."""


def next_due(
    column: InstrumentedAttribute[Any],
    kinds: Collection[JobKind],
    priority: Priority,
    *,
    by: ColumnElement[dt.datetime],
) -> Select[Any]:
    """Select a column of the ready job of one priority that is the first of those due `by` then: one entry of an index.

    An analysis is passed over while one of the same person runs: the later film's report rests on the earlier one's,
    and side by side the later film would be reported twice. So more entries are read where a person has many that wait.

    The kind and the priority are compared as equal, and the order is that of ix_job_next, so that its first entry is
    the answer however many jobs wait, now or later, on both databases. It must not be left to the planner: after
    ANALYZE of a queue of one kind, SQLite takes a condition without this order for one that holds of nearly all rows,
    and reads the table.
    """
    of_kind = or_(*(Job.kind == kind for kind in kinds))
    # Due times are the database's: the clocks of two machines differ, and neither may start a job early.
    is_due = of_kind & (Job.state == JobState.READY) & (Job.priority == priority) & (Job.run_at <= by)
    if JobKind.ANALYSE in kinds:
        is_free = _person_of(Job).not_in(_persons_in_hand())
        is_due &= is_free if len(kinds) == 1 else (Job.kind != JobKind.ANALYSE) | is_free
    return select(column).where(is_due).order_by(Job.run_at, Job.id).limit(1)


def given_times(session: Session, **after: dt.timedelta) -> dict[str, dt.datetime]:
    """Compute the parameters of the given names for statements that are built once: none where the server has a clock.

    after: how long after the present each of them is.
    """
    clock = given_clock(session)
    if clock is None:
        return {}
    now = clock()
    return {name: now + later for name, later in after.items()}


def time_parameter(name: str, on_server: bool, after: dt.timedelta = dt.timedelta(0)) -> ColumnElement[dt.datetime]:
    """Build the expression of a time of `given_times` in a statement that is built once."""
    return server_time(after) if on_server else bindparam(name, type_=UtcDateTime())


@lru_cache(maxsize=128)
def looks(kinds: tuple[JobKind, ...], within: dt.timedelta, on_server: bool) -> PreparedStatement:
    """Build the question for the due time of the next job of each kind and priority, due `by` then, and the present.

    Built once: to build it takes many times as long as to ask it, and a busy node asks it some ten times a study.
    """
    by = time_parameter("by", on_server, within)
    asked = [next_due(Job.run_at, (kind,), urgency, by=by).scalar_subquery() for kind in kinds for urgency in Priority]
    named = [column.label(f"first_{number}") for number, column in enumerate(asked)]
    return PreparedStatement(select(*named, time_parameter("present", on_server).label("database_time")))


@lru_cache(maxsize=32)
def first_due(kind: JobKind, urgency: Priority, on_server: bool) -> PreparedStatement:
    """Build the question for the first `most` jobs of a kind that are due `by` then. Built once, as `looks`."""
    by = time_parameter("by", on_server)
    return PreparedStatement(next_due(Job.id, (kind,), urgency, by=by).limit(bindparam("most", type_=Integer)))


def claim_analyses_alone(session: Session) -> None:
    """Wait until no other claim of an analysis is under way: two that do not see each other would take one person's.

    Only on PostgreSQL, in its own statement: the next one sees what was committed meanwhile. SQLite has one writer.
    """
    if session.get_bind().dialect.name == "postgresql":
        limit = func.set_config("idle_in_transaction_session_timeout", LONGEST_CLAIM, True)
        session.execute(select(limit, func.pg_advisory_xact_lock(CLAIMS_OF_ANALYSES)))


def _persons_in_hand() -> Select[Any]:
    """Select the persons of the analyses that run now, on whatever worker: a few rows of the index."""
    running = aliased(Job)
    in_hand = (running.kind == JobKind.ANALYSE) & (running.state == JobState.RUNNING)
    # In the order of the index, as `next_due` says.
    return select(_person_of(running)).where(in_hand).order_by(running.priority, running.run_at, running.id)


def _person_of(job: type[Job]) -> ColumnElement[str]:
    """Say whose analysis a job is: the study's patient ID, else the study, else the job itself.

    Whoever issued the ID: an unknown issuer may be any, and another person of the same ID only waits for a moment. IDs
    that only the site's list of merged ones says to be one person's are not known here: such films may be read side by
    side, and the later one is then reported anew.
    """
    study = aliased(Study)
    person = case((study.patient_id != "", "P" + study.patient_id), else_="S" + study.study_instance_uid)
    looked_up = select(person).where(study.study_instance_uid == job.payload["study_instance_uid"].as_string())
    return func.coalesce(looked_up.correlate(job).scalar_subquery(), "J" + job.key)
