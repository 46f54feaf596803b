"""Tables of inputs: CSV or Parquet with a column `path`, and what the files' headers do not say."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dicom_node.errors import UsageError

TABLE_SUFFIXES: Final = (".csv", ".parquet")
COLUMNS: Final = ("path", "study", "patient", "date", "prior")
_DATES: Final = ("%Y-%m-%d", "%Y%m%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y%m%d%H%M%S")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One row. path: file, folder or s3:// prefix, relative to the table. study, patient, date: for files whose headers
    name none; "" where the table does not either. date: YYYYMMDD or YYYYMMDDHHMMSS. prior: what alone it may be
    compared with; "" nothing; None where the table has no such column, so that the prior is looked for."""

    path: str
    study: str = ""
    patient: str = ""
    date: str = ""
    prior: str | None = None


def read_table(path: Path) -> Iterator[TableRow]:
    """Read a table. Raises UsageError naming the row and what is allowed."""
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    for number, row in enumerate(rows, 1):
        if "path" not in row:
            raise UsageError(f"{path} has no column `path`; its columns: {', '.join(row)}; read: {', '.join(COLUMNS)}")
        values = {name: "" if row.get(name) is None else str(row[name]).strip() for name in COLUMNS}
        if not values["path"]:
            raise UsageError(f"{path}: row {number} has no path")
        date = _date(values["date"])
        if date is None:
            raise UsageError(f"{path}: row {number}: date {values['date']!r}; allowed are {', '.join(_DATES)}")
        # None is "no such column", "" is "none for this row": the two mean different things, see `InputFile.priors`.
        prior = values["prior"] if "prior" in row else None
        yield TableRow(path=values["path"], study=values["study"], patient=values["patient"], date=date, prior=prior)


def _date(text: str) -> str | None:
    """YYYYMMDD, with HHMMSS where a time is given; "" of nothing; None of what is no date."""
    if not text:
        return ""
    for form in _DATES:
        try:
            moment = dt.datetime.strptime(text, form)  # noqa: DTZ007 - DICOM dates are local
        except ValueError:
            continue
        return moment.strftime("%Y%m%d%H%M%S" if "%H" in form else "%Y%m%d")
    return None


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        # utf-8-sig: spreadsheets write a byte order mark, which would become part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                # What DictReader does with a row of another length: surplus fields under None, missing ones as None.
                if None in row or None in row.values():
                    raise UsageError(f"{path}: line {reader.line_num} has another number of fields than the first line")
                yield {(name or "").strip(): value for name, value in row.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as CSV: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    from dicom_node.predict.rows import pyarrow_of

    arrow = pyarrow_of()
    try:
        with arrow.parquet.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name in COLUMNS]
            for batch in file.iter_batches(columns=names or None):
                yield from batch.to_pylist()
    except (OSError, arrow.lib.ArrowException) as error:
        raise UsageError(f"{path} cannot be read as Parquet: {error}") from error
