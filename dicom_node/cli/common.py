"""Shared by all commands: the --config and --json options, the console, and opening a node's index and store."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len

from dicom_node.cli.console import LineConsole, Style
from dicom_node.config import Settings, config_path, load_settings
from dicom_node.context import NodeContext
from dicom_node.index import schema
from dicom_node.index.clock import clock_of
from dicom_node.index.database import Database
from dicom_node.logs import configure
from dicom_node.storage.opening import open_store

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file (default: $DICOM_NODE_CONFIG, else ./config.toml)."),
]
ProcessesOption = Annotated[int, typer.Option(min=0, help="Processes; 0: as many as cores and memory allow.")]
RayOption = Annotated[str, typer.Option("--ray", help='Ray cluster: HOST:PORT, "auto", or "local" for a trial.')]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

console = LineConsole()
errors = LineConsole(is_error=True)


def settings_from(config: Path | None) -> Settings:
    """The settings of the given, the environment's or the default file; raises ConfigurationError."""
    return load_settings(config_path(config))


def optional_settings(config: Path | None) -> Settings:
    """The settings of the named file, the environment's or ./config.toml where there is one; else the defaults."""
    path = config_path(config)
    if config is None and not path.exists():
        return Settings()
    return load_settings(path)


@contextmanager
def open_node(config: Path | None, *, need_schema: bool = True) -> Iterator[NodeContext]:
    """A node's index and store for a command that does its work beside a running node."""
    settings = settings_from(config)
    configure(settings.logging)  # to standard error, and behind the fence that keeps patient data out
    database = Database(settings.database.url)
    try:
        if need_schema:
            if database.is_sqlite:
                schema.upgrade(database)
            schema.require_current(database)
        store = open_store(settings)
        yield NodeContext(settings=settings, database=database, store=store, clock=clock_of(database))
    finally:
        database.close()


def printable(text: str) -> str:
    """A stranger's text without what would steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing of a list: short cells in columns, and below them what must stay whole: UIDs, sentences."""

    cells: tuple[str, ...]
    below: tuple[str, ...] = ()
    style: Style | None = None


def print_rows(heads: Sequence[str], rows: Sequence[Row]) -> None:
    """A list that is readable on 80 columns and whose UIDs can be copied: nothing is cut, whatever the width."""
    widths = [max(map(cell_len, column)) for column in zip(heads, *(row.cells for row in rows), strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    console.print(printable(line(heads)), style="bold")
    for row in rows:
        console.print(printable(line(row.cells)), style=row.style)
        for text in filter(None, row.below):
            console.print(_indent(printable(text)), style=row.style)


def _indent(text: str) -> str:
    """A sentence in lines of the terminal's width; a UID, a path or a key stays in one piece."""
    return textwrap.fill(
        text,
        max(console.width, 40),
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def print_json(value: Any) -> None:
    """One JSON document on standard output, nothing else; in ASCII, which every terminal and pipe takes."""
    global _has_printed_json
    _has_printed_json = True
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


_has_printed_json = False


def print_error_as_json(error: Exception) -> None:
    """For a program that asked for JSON: what went wrong, unless a document went out before it did."""
    if not _has_printed_json:
        print_json({"error": str(error)})
