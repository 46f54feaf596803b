"""The wall clock that somebody sets: how it is noticed, and what is mended in the rows afterwards."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable

from sqlalchemy import update
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.index.database import CLOCK_TOLERANCE, utc_now
from dicom_node.index.tables.core import (
    CommitmentRequest,
    CommitmentState,
    Delivery,
    DeliveryState,
    Notice,
)
from dicom_node.jobs.upkeep import shift_times
from dicom_node.studies.completion import bring_open_studies_to_now

CLOCK_LOOK_SECONDS = 1.0


class SteadyClock:
    """Compares the wall clock with the steady one and tells when somebody set it."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="steady-clock", daemon=True)
        self._tell: Callable[[dt.datetime, dt.datetime], None] = lambda _before, _now: None
        self._is_held_up: Callable[[], bool] = lambda: False

    def watch(self, tell: Callable[[dt.datetime, dt.datetime], None], is_held_up: Callable[[], bool]) -> None:
        """Begin to look each second, and call `tell(before, now)` after a jump.

        A clock that was set forward and back between two looks shows no jump: `is_held_up` says whether something was
        planned by the clock in between.
        """
        self._tell, self._is_held_up = tell, is_held_up
        self._thread.start()

    def stop(self) -> None:
        """End the looking."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        # The scheduler goes by this machine's clock whatever the node's clock is (PostgreSQL: the server's).
        clocks = (self._node.clock, utc_now)
        walls, steady = [clock() for clock in clocks], time.monotonic()
        while not self._ended.wait(CLOCK_LOOK_SECONDS):
            now, steady_now = [clock() for clock in clocks], time.monotonic()
            passed = dt.timedelta(seconds=steady_now - steady)
            jumps = [abs(after - (before + passed)) for before, after in zip(walls, now, strict=True)]
            if max(jumps) > CLOCK_TOLERANCE or self._is_held_up():
                self._tell(walls[0] + passed, now[0])
            walls, steady = now, steady_now


def mend_after_setback(session: Session, *, before: dt.datetime, now: dt.datetime) -> None:
    """The clock went back from `before` to `now`: what was due stays due, and no lease or study lies in the future."""
    shift_times(session, before=before, now=now)
    bring_open_studies_to_now(session, now)
    # The time-out of a proof runs from these, and counts from now where they lie in the future.
    for since in (Delivery.stored_at, Delivery.commitment_asked_at):
        session.execute(
            update(Delivery).where(Delivery.state == DeliveryState.STORED, since > now).values({since: now})
        )
    for table, waits in (
        (Notice, Notice.sent_at.is_(None)),
        (CommitmentRequest, CommitmentRequest.state == CommitmentState.PENDING),
    ):
        session.execute(update(table).where(waits, table.next_attempt_at > now).values(next_attempt_at=now))
