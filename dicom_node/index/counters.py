"""Counters for what leaves no row of its own (refused associations and instances): one row each, for all processes."""

from __future__ import annotations

from sqlalchemy.orm import Session

from dicom_node.index.tables.core import Tally
from dicom_node.index.upsert import insert_or_update


def add(session: Session, name: str, label: str = "", by: int = 1) -> None:
    """Count in the caller's transaction. name: what happened; label: of what kind, from a small fixed set.

    A label must never be a peer's free text: each one is a row and a time series for ever.
    """
    values = {"name": name, "label": label, "value": by}
    # The database adds: read here and written back, the count of another process would be lost.
    insert_or_update(session, Tally, values, unique=["name", "label"], update={"value": Tally.value + by})
