"""Matching of text and person names as DICOM means it, in the SQL of each database (PS3.4 section C.2.2.2)."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Text, and_, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler


def name_condition(column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    """Each component group that the key gives must match a group of the name (PS3.4 section C.2.2.2.1)."""
    conditions = []
    for group in filter(None, value.split("=")):
        pattern = _pattern(group.rstrip("^") or "*")
        # A name has up to three groups, alphabetic=ideographic=phonetic (PS3.5 section 6.2.1): the key's group may be
        # the only one, the first, the last, or the one between.
        forms = (pattern, f"{pattern}=%", f"%={pattern}", f"%={pattern}=%")
        conditions.append(or_(*(_fold_case(column).like(form.lower(), escape="\\") for form in forms)))
    return and_(*conditions)


def like_condition(column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    """Match text with its case, as all VRs but PN are (PS3.4 section C.2.2.2.1); SQLite's LIKE folds ASCII letters."""
    if not re.search(r"[*?]", value):
        return column == value
    return _CasedLike(column, value)


class _CasedLike(ColumnElement[bool]):
    """LIKE with case: GLOB on SQLite, LIKE elsewhere."""

    inherit_cache = False

    def __init__(self, column: ColumnElement[Any], value: str) -> None:
        self.type = Boolean()
        self.as_like = column.like(_pattern(value), escape="\\")
        self.as_glob = column.op("GLOB", is_comparison=True)(_glob(value))


@compiles(_CasedLike)
def _compile_cased_like(element: _CasedLike, compiler: SQLCompiler, **arguments: Any) -> str:
    return str(compiler.process(element.as_like, **arguments))


@compiles(_CasedLike, "sqlite")
def _compile_cased_like_sqlite(element: _CasedLike, compiler: SQLCompiler, **arguments: Any) -> str:
    return str(compiler.process(element.as_glob, **arguments))


def _glob(value: str) -> str:
    """DICOM's wildcards as GLOB's, which are the same; its brackets mean themselves here."""
    return value.replace("[", "[[]")


def _fold_case(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column without case, umlauts included: SQLite's own `lower` folds ASCII only."""
    return _Folded(column)


class _Folded(ColumnElement[str]):
    """`fold_case`, which `Database` gives to SQLite, or `lower` elsewhere."""

    inherit_cache = False

    def __init__(self, column: ColumnElement[Any]) -> None:
        self.type = Text()
        self.column = column


@compiles(_Folded)
def _compile_folded(element: _Folded, compiler: SQLCompiler, **arguments: Any) -> str:
    return f"lower({compiler.process(element.column, **arguments)})"


@compiles(_Folded, "sqlite")
def _compile_folded_sqlite(element: _Folded, compiler: SQLCompiler, **arguments: Any) -> str:
    return f"fold_case({compiler.process(element.column, **arguments)})"


def _pattern(value: str) -> str:
    """DICOM's wildcards as SQL's."""
    return re.sub(r"([\\%_])", r"\\\1", value).replace("*", "%").replace("?", "_")
