"""Destinations that nothing reaches: deliveries wait, each attempt fails, and nobody would hear of it for two days.

A delivery is given up, and told of, after `delivery.max_attempts`; a PACS that is down is told of much earlier here.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.index.clock import database_time
from dicom_node.index.tables.core import Delivery, DeliveryState

STALLED_AFTER = dt.timedelta(minutes=15)
"""Shorter breaks are a restart of the PACS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StalledDestination:
    """A destination that has taken nothing for `STALLED_AFTER` although deliveries to it were tried."""

    destination: str
    waiting_since: dt.datetime
    waiting: int
    error: str
    """Of the latest attempt; may quote what the peer said."""

    def sentence(self) -> str:
        """Say it for a notice and `dicom-node status`, without what the peer said: it may name a patient."""
        since = f"{self.waiting_since:%Y-%m-%d %H:%M} UTC"
        waiting = "1 delivery waits" if self.waiting == 1 else f"{self.waiting} deliveries wait"
        why = self.error.partition(":")[0][:200]
        return f"nothing has reached {self.destination} since {since}; {waiting}: {why}"


def find_stalled(session: Session) -> list[StalledDestination]:
    """Return the destinations to which deliveries were tried in vain and which have taken none since, by name.

    waiting_since: when the oldest of them was made, or the last one before it arrived, whichever is later.
    """
    # By the database's clock, which also set the times that are compared.
    old = session.scalars(select(database_time(session, -STALLED_AFTER))).one()
    tried = (Delivery.state == DeliveryState.PENDING) & (Delivery.last_error != "")
    rows = session.execute(
        select(Delivery.destination, func.min(Delivery.created_at))
        .where(tried)
        .group_by(Delivery.destination)
        .having(func.min(Delivery.created_at) <= old)
        .order_by(Delivery.destination)
    ).all()
    stalled = []
    for destination, oldest in rows:
        is_there = Delivery.destination == destination
        arrived = session.scalar(select(func.max(Delivery.stored_at)).where(is_there))
        since = max(oldest, arrived) if arrived is not None else oldest
        if since > old:
            continue
        waiting = session.scalar(select(func.count()).where(is_there, Delivery.state == DeliveryState.PENDING)) or 0
        error = session.scalar(
            select(Delivery.last_error).where(is_there, tried).order_by(Delivery.updated_at.desc()).limit(1)
        )
        stalled.append(
            StalledDestination(destination=destination, waiting_since=since, waiting=waiting, error=error or "")
        )
    return stalled
