"""CSV files, plain or gzipped, read row by row: columns by name, cut-off files refused, malformed rows counted."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from training.records.drops import DataError, DropReport

csv.field_size_limit(1 << 20)
"""A field beyond a megabyte is no label or answer but a broken quote."""


def find_table(folder: Path, name: str) -> Path:
    """`name` or `name`.gz in the folder; raises DataError naming both and what CSV files there are."""
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    present = sorted(path.name for path in folder.iterdir() if ".csv" in path.name)
    raise DataError(f"{folder} holds neither {name} nor {name}.gz; its tables are: {', '.join(present) or 'none'}")


def read_rows(
    path: Path, columns: Sequence[str], report: DropReport, *, optional: Sequence[str] = ()
) -> Iterator[list[str]]:
    """The values of `columns` and then of `optional` of each row, stripped; "" for an optional column that is missing.

    Raises DataError for a missing column, an unreadable file, and a file that ends inside a row or a gzip stream.
    A row in the middle with another number of fields than the header is dropped and counted.
    """
    try:
        with _open(path) as file:
            yield from _read_rows(file, path, columns, optional, report)
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path.name} is cut off or damaged: {error}") from error
    except gzip.BadGzipFile as error:
        raise DataError(f"{path.name} is no gzip file: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text: {error}") from error
    except csv.Error as error:
        raise DataError(f"{path.name} is cut off inside a quoted field or is no CSV: {error}") from error
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open("r", encoding="utf-8-sig", newline="")


def _read_rows(
    file: TextIO, path: Path, columns: Sequence[str], optional: Sequence[str], report: DropReport
) -> Iterator[list[str]]:
    reader = csv.reader(file, strict=True)
    header = [name.strip() for name in next(reader, [])]
    missing = [name for name in columns if name not in header]
    if missing:
        raise DataError(f"{path.name} lacks the columns {missing}; it has {header or 'no header'}")
    places: list[int | None] = [header.index(name) for name in columns]
    places += [header.index(name) if name in header else None for name in optional]
    held: tuple[int, list[str]] | None = None  # a short row is an error only where it is the last one
    for row in reader:
        if held is not None:
            report.drop(f"{path.name}: row with another number of fields", f"line {held[0]}")
            held = None
        if not row:
            continue
        if len(row) != len(header):
            held = (reader.line_num, row)
            continue
        yield ["" if column is None else row[column].strip() for column in places]
    if held is not None:
        raise DataError(f"{path.name} is cut off: its last line {held[0]} has {len(held[1])} of {len(header)} fields")
