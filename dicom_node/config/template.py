"""The template that `dicom-node init` writes, made from the settings classes: each key with its default and meaning."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dicom_node.config.settings import Settings

HEAD = """\
# dicom-node configuration. Every key is optional unless its table says otherwise; the values here are the defaults.
# Keys behind a # have no default, or an example. Paths are relative to this file. An unknown key is refused by name.
"""
WIDTH = 120
COLUMN = 36
"""Descriptions of keys begin at this column where the key and its value leave room."""
UNITS = {
    "seconds": "seconds",
    "hours": "hours",
    "days": "days",
    "weeks": "weeks",
    "percent": "percent",
    "bytes": "bytes",
    "kib": "KiB",
    "mib": "MiB",
    "gigabytes": "gigabytes",
    "port": "port number",
}
"""The unit of a number by the last word of its key."""


def template() -> str:
    """The whole file."""
    return HEAD + "".join("\n" + "\n".join(_table(name, field)) + "\n" for name, field in Settings.model_fields.items())


def unit_of(name: str, field: FieldInfo) -> str:
    """The unit of a number: what its field says, else the last word of its name; "" for anything else."""
    extra = field.json_schema_extra
    if isinstance(extra, Mapping):
        return str(extra["unit"])
    return UNITS.get(name.rpartition("_")[2], "")


def section_class(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside `X`, `X | None` or `tuple[X, ...]`; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (section_class(argument) for argument in getattr(annotation, "__args__", ()))
    return next((each for each in inner if each is not None), None)


def summary(section: type[BaseModel]) -> str:
    """The first paragraph of a class's docstring on one line."""
    return " ".join((section.__doc__ or "").split("\n\n")[0].split())


def toml_value(value: Any) -> str:
    """A value as TOML. Raises TypeError for None, which TOML has not: such a key needs an example in its class."""
    if value is None:
        raise TypeError("a key without a default needs an example")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(each) for each in value) + "]"
    # Before int: True is one in Python.
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return toml_value(value.value)
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else f"{int(value)}"
    return json.dumps(value.as_posix() if isinstance(value, Path) else str(value), ensure_ascii=False)


def _table(name: str, field: FieldInfo) -> Iterator[str]:
    section = section_class(field.annotation)
    assert section is not None, f"{name} is not a table"
    yield from _comment(summary(section))
    if field.examples:
        for number, example in enumerate(field.examples):
            yield from _example_table(f"[[{name}]]", section, example, described=number == 0)
        return
    commented = "# " if field.default is None else ""
    yield f"{commented}[{name}]"
    nested = []
    for key, inner in section.model_fields.items():
        table = section_class(inner.annotation)
        if table is not None and inner.default == ():
            nested.append((key, table, inner))
        else:
            yield from _key(key, inner, optional=bool(commented))
    for key, table, inner in nested:
        yield ""
        yield from _comment(summary(table))
        for example in (inner.examples or [[]])[0]:
            yield from _example_table(f"[[{name}.{key}]]", table, example, described=True)


def _example_table(
    head: str, section: type[BaseModel], example: Mapping[str, Any], *, described: bool
) -> Iterator[str]:
    yield f"# {head}"
    for key, value in example.items():
        text = section.model_fields[key].description or ""
        yield from _line(f"# {key} = {toml_value(value)}", text if described else "")


def _key(name: str, field: FieldInfo, *, optional: bool) -> Iterator[str]:
    text = field.description or ""
    if field.examples or optional:
        value = field.examples[0] if field.examples else field.default
        yield from _line(f"# {name} = {toml_value(value)}", text)
    else:
        yield from _line(f"{name} = {toml_value(field.default)}", text)


def _line(assignment: str, text: str) -> Iterator[str]:
    """One key with its description beside it, or above it where both are too long for one line."""
    beside = f"{assignment:{COLUMN - 1}} # {text}"
    if not text:
        yield assignment
    elif len(beside) <= WIDTH:
        yield beside
    else:
        yield from _comment(text)
        yield assignment


def _comment(text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )
