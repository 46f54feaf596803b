"""The job that is due next: the order of urgency, and the one form of query that finds it however long the queue is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from enum import IntEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import InstrumentedAttribute

from dicom_node.index.tables.core import Job, JobKind, JobState


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

    The kind and the priority are compared as equal, and the order is that of ix_job_next, so that its first entry is
    the answer however many jobs wait, now or later, on both databases. It must not be left to the planner: after
    ANALYZE of a queue of one kind, SQLite takes a condition without this order for one that holds of nearly all rows,
    and reads the table.
    """
    of_kind = Job.kind == next(iter(kinds)) if len(kinds) == 1 else Job.kind.in_(list(kinds))
    # Due times are the database's: the clocks of two machines differ, and neither may start a job early.
    is_due = of_kind & (Job.state == JobState.READY) & (Job.priority == priority) & (Job.run_at <= by)
    return select(column).where(is_due).order_by(Job.run_at, Job.id).limit(1)
