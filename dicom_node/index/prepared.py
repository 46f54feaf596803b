"""Statements of the receiver's path, compiled once and handed to the driver as text.

SQLAlchemy spends several times as long on each execution of a statement (look-up of the compiled form, execution
context, result object) as SQLite on running it. A statement that runs for each received instance is therefore compiled
here once for each dialect; types are converted by their own processors, and errors are mapped as ever.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Dialect, Select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.types import TypeEngine

DRIVER_CONNECTION: Final = "driver_connection"
"""Key of `Session.info`: the driver's connection (SQLite) on which the session's transaction was begun already."""
_Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _CompiledStatement:
    """A statement for one dialect."""

    text: str
    order: tuple[str, ...] | None
    """Names of the parameters as the text has them; None where the driver takes them by name."""
    constants: Mapping[str, Any]
    """Values that the statement itself brings, as the driver takes them."""
    converters: Mapping[str, _Convert]
    """By parameter, for types that the driver does not take as they are."""
    results: tuple[_Convert | None, ...]
    """By column of the result."""


class PreparedStatement:
    """A SELECT, INSERT or UPDATE that is compiled once for each dialect.

    Parameters
    ----------
    statement
        Its variable values are bind parameters.
    columns
        Of an INSERT: the columns that it is given.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]] | UpdateBase, columns: Iterable[str] | None = None) -> None:
        self._statement = statement
        self._columns = None if columns is None else list(columns)
        self._by_dialect: dict[str, _CompiledStatement] = {}
        names = [str(column.key) for column in statement.exported_columns]
        self._row: Callable[..., Any] = namedtuple("_Row", names)  # type: ignore[misc]  # names known at run time

    def execute(self, session: Session, values: Mapping[str, Any]) -> list[Any]:
        """Run it in the session's transaction; returns its rows as named tuples, [] where it returns none."""
        dialect = session.get_bind().dialect
        compiled = self._by_dialect.get(dialect.name)
        if compiled is None:
            compiled = self._by_dialect[dialect.name] = self._compile(dialect)
        bound = {**compiled.constants, **values}
        for name, convert in compiled.converters.items():
            bound[name] = convert(bound[name])
        given = bound if compiled.order is None else tuple([bound[name] for name in compiled.order])
        raw = session.info.get(DRIVER_CONNECTION)
        if raw is not None:
            fetched = run_on_driver(raw, compiled.text, given)
        else:
            result = session.connection().exec_driver_sql(compiled.text, given)
            fetched = list(result.fetchall()) if compiled.results else []
        rows = [[_converted(*pair) for pair in zip(compiled.results, row, strict=True)] for row in fetched]
        return [self._row(*row) for row in rows]

    def _compile(self, dialect: Dialect) -> _CompiledStatement:
        compiled = self._statement.compile(dialect=dialect, column_keys=self._columns)
        assert isinstance(compiled, SQLCompiler)
        # A default that Python computes would be left out: an INSERT names all of its columns.
        assert not compiled.insert_prefetch
        assert not compiled.update_prefetch
        converters = {name: _bind_converter(bind.type, dialect) for name, bind in compiled.binds.items()}
        constants = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
        return _CompiledStatement(
            text=str(compiled),
            order=tuple(compiled.positiontup or ()) if compiled.positional else None,
            constants={name: _converted(converters[name], value) for name, value in constants.items()},
            converters={
                name: convert for name, convert in converters.items() if convert is not None and name not in constants
            },
            results=tuple(_result_converter(column.type, dialect) for column in self._statement.exported_columns),
        )


def run_on_driver(connection: sqlite3.Connection, text: str, values: Any = ()) -> list[Any]:
    """Run a statement past SQLAlchemy and fetch its rows. Raises what SQLAlchemy would."""
    try:
        return connection.execute(text, values).fetchall()
    except sqlite3.Error as error:
        raise DBAPIError.instance(text, None, error, sqlite3.Error, hide_parameters=True) from error


def _converted(convert: _Convert | None, value: Any) -> Any:
    return value if convert is None else convert(value)


def _bind_converter(kind: TypeEngine[Any], dialect: Dialect) -> _Convert | None:
    return kind.dialect_impl(dialect).bind_processor(dialect)


def _result_converter(kind: TypeEngine[Any], dialect: Dialect) -> _Convert | None:
    return kind.dialect_impl(dialect).result_processor(dialect, None)
