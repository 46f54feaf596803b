"""The reference page of the configuration, made from the settings classes."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dicom_node.config.settings import Settings
from dicom_node.config.template import section_class, summary, toml_value, unit_of

HEAD = """\
# Configuration

The node reads one TOML file: the one given by `--config`, else by the variable `DICOM_NODE_CONFIG`, else
`./config.toml`. `dicom-node init` writes it with all defaults. Paths are relative to the file. A wrong or unknown key
stops the start; the message names the key and what is allowed.

This page is written by `scripts/write_configuration.py` from the settings classes in `dicom_node/config/`.
"""
SIGNS = {Ge: "at least", Gt: "more than", Le: "at most", Lt: "less than"}


def reference_page() -> str:
    """The page in Markdown: one table for each table of the file."""
    return HEAD + "".join(
        part
        for name, field in Settings.model_fields.items()
        for part in _section(name, field, repeated=bool(field.examples))
    )


def _section(name: str, field: FieldInfo, *, repeated: bool) -> Iterator[str]:
    section = section_class(field.annotation)
    assert section is not None, f"{name} is not a table"
    brackets = f"[[{name}]]" if repeated else f"[{name}]"
    optional = " (optional)" if repeated or field.default is None else ""
    yield f"\n## `{brackets}`{optional}\n\n{summary(section)}\n\n"
    yield "| key | value | default | unit | meaning |\n|---|---|---|---|---|\n"
    inner = []
    for key, each in section.model_fields.items():
        table = section_class(each.annotation)
        if table is not None and each.default == ():
            inner.append((f"{name}.{key}", each))
            continue
        yield _row(key, each, table)
    # Tables within tables behind the keys of their parent, as TOML wants them.
    for key, each in inner:
        yield from _section(key, each, repeated=True)


def _row(key: str, field: FieldInfo, table: type[BaseModel] | None) -> str:
    if table is not None:
        value = "table with " + ", ".join(f"`{name}`" for name in table.model_fields)
    else:
        value = ", ".join(filter(None, [values_in_words(field.annotation), *limits_of(field)]))
    if field.is_required():
        default = "required"
    elif field.default in (None, ""):
        default = ""
    else:
        default = f"`{toml_value(field.default)}`"
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{key}` | {value} | {default} | {unit_of(key, field)} | {meaning} |\n"


def values_in_words(annotation: Any) -> str:
    """The kind of value in words, or the values themselves."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{toml_value(value)}`" for value in arguments)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{toml_value(value)}`" for value in annotation)
    if origin is tuple:
        return f"list of {values_in_words(arguments[0])}"
    if origin is types.UnionType or str(origin) == "typing.Union":
        return values_in_words(next(each for each in arguments if each is not type(None)))
    if hasattr(annotation, "__metadata__"):
        return values_in_words(arguments[0])
    return _WORDS.get(annotation, "text")


_WORDS: Mapping[Any, str] = {bool: "true or false", int: "whole number", float: "number", Path: "path"}


def limits_of(field: FieldInfo) -> Iterator[str]:
    """Bounds of a number, those of its type included."""
    for bound in field.metadata:
        for kind, words in SIGNS.items():
            if isinstance(bound, kind):
                yield f"{words} {next(iter(vars(bound).values())) if hasattr(bound, '__dict__') else _bound(bound):g}"


def _bound(bound: Any) -> float:
    return float(getattr(bound, type(bound).__name__.lower()))
