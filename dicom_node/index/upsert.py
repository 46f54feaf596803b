"""Insert-or-leave and insert-or-update: the one place that knows how SQLite and PostgreSQL spell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import ClauseElement, Table
from sqlalchemy.orm import Session

from dicom_node.index.prepared import PreparedStatement
from dicom_node.index.tables.core import Base

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite


def insert_if_absent(
    session: Session, table: type[Base], values: Mapping[str, Any], *, unique: Sequence[str]
) -> Any | None:
    """Insert a row unless one with the same `unique` columns exists.

    Parameters
    ----------
    values
        By column name, plain or SQL expressions; a column that is not named takes its default.
    unique
        The columns of one unique constraint or index of the table.

    Returns
    -------
    Any | None
        The new row's primary key (its first column), or None where the row existed.
    """
    dialect = session.get_bind().dialect.name
    statement = _statement(dialect, table, tuple(unique))
    if any(isinstance(value, ClauseElement) for value in values.values()):
        return session.execute(statement.values(dict(values))).scalar_one_or_none()
    if len(values) == len(_table(table).columns) - 1 and next(iter(_table(table).primary_key)).name not in values:
        # Every column but the key is given, as for a received instance: no default is left for SQLAlchemy to compute.
        rows = _prepared(dialect, table, tuple(unique), tuple(values)).execute(session, values)
        return rows[0][0] if rows else None
    return session.execute(statement, dict(values)).scalar_one_or_none()


def insert_or_update(
    session: Session,
    table: type[Base],
    values: Mapping[str, Any],
    *,
    unique: Sequence[str],
    update: Mapping[str, Any],
) -> Any:
    """Insert a row, or change the columns of `update` in the one that has the same `unique` columns.

    `update` may hold expressions of the existing row (``{"value": Tally.value + 1}``). Returns the row's primary key.
    """
    target = _table(table)
    statement = _insert(session.get_bind().dialect.name, table).values(dict(values))
    return session.execute(
        statement.on_conflict_do_update(index_elements=list(unique), set_=dict(update)).returning(
            next(iter(target.primary_key))
        )
    ).scalar_one()


@cache
def _statement(dialect: str, table: type[Base], unique: tuple[str, ...]) -> Any:
    """Build each statement once: building it anew would cost more than its execution on the receiver's path."""
    return (
        _insert(dialect, table)
        .on_conflict_do_nothing(index_elements=list(unique))
        .returning(next(iter(_table(table).primary_key)))
    )


@cache
def _prepared(dialect: str, table: type[Base], unique: tuple[str, ...], columns: tuple[str, ...]) -> PreparedStatement:
    return PreparedStatement(_statement(dialect, table, unique), columns)


def _insert(dialect: str, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    # Imported where it is used: PostgreSQL's dialect takes a tenth of a second that a SQLite node need not wait.
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(_table(table))
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(_table(table))


def _table(table: type[Base]) -> Table:
    return cast(Table, table.__table__)
