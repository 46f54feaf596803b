"""Locks of several rows at once, taken in one order everywhere, so that two transactions never wait for each other."""

from __future__ import annotations

from sqlalchemy import ARRAY, BigInteger, ColumnElement, any_, literal, select
from sqlalchemy.orm import Session

from dicom_node.index.tables.core import Job, Study


def lock_rows(
    session: Session, table: type[Study] | type[Job], chosen: ColumnElement[bool], *, skip_locked: bool = False
) -> ColumnElement[bool]:
    """Lock the rows that `chosen` holds of, lowest primary key first, until the transaction ends.

    An UPDATE of several rows takes its locks in the order in which it meets the rows, which changes with the plan and
    with each new version of a row: two of them at once deadlock. SQLite locks the whole index and needs none of this.

    Parameters
    ----------
    skip_locked
        Leave out rows that another transaction is changing instead of waiting for it.

    Returns
    -------
    ColumnElement[bool]
        A condition that holds of the locked rows, for the WHERE of the UPDATE.
    """
    if session.get_bind().dialect.name != "postgresql":
        return chosen
    rows = select(table.id).where(chosen).order_by(table.id)
    ids = list(session.scalars(rows.with_for_update(skip_locked=skip_locked)))
    return table.id == any_(literal(ids, ARRAY(BigInteger)))  # one parameter, however many rows there are
