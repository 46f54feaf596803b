"""Counters for what leaves no row of its own (refused associations and instances): one row each, for all processes."""

from __future__ import annotations

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from dicom_node.index.tables.core import Tally


def add(session: Session, name: str, label: str = "", by: int = 1) -> None:
    """Count in the caller's transaction. name: what happened; label: of what kind, from a small fixed set.

    A label must never be a peer's free text: each one is a row and a time series for ever.
    """
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    made = insert(Tally).values(name=name, label=label, value=by)
    session.execute(
        made.on_conflict_do_update(index_elements=["name", "label"], set_={"value": Tally.value + made.excluded.value})
    )
