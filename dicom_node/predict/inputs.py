"""The files of a run: below folders and prefixes, or named by tables, in a stable order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dicom_node.errors import UsageError
from dicom_node.predict.locations import SCHEME, Locations
from dicom_node.predict.table import TABLE_SUFFIXES, TableRow, read_table


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One file, and what a table says of it; "" where nothing does.

    stamp: size and time, so that a changed file is noticed. priors: locations of the only files that may be its prior;
    None: whatever of the run may be. is_analysed: False for a file that a table names as a prior only.
    """

    location: str
    stamp: str
    study: str = ""
    patient: str = ""
    date: str = ""
    priors: tuple[str, ...] | None = None
    is_analysed: bool = True


def list_inputs(inputs: Sequence[str], locations: Locations, *, out: Path) -> list[InputFile]:
    """List the files that `inputs` name, each once. out: the folder of results, which is never an input.

    Raises UsageError where a path is not there or a table is wrong, StoreUnavailableError where a bucket is not.
    """
    by_location: dict[str, InputFile] = {}
    for text in inputs:
        for file in _files_of(text, locations, out.resolve()):
            known = by_location.get(file.location)
            if known is not None and known.is_analysed and file.is_analysed and known != file:
                raise UsageError(f"{file.location} stands in the inputs twice, with different columns")
            # Named both as a study and as another's prior: it is analysed.
            if known is None or not known.is_analysed:
                by_location[file.location] = file
    if not any(file.is_analysed for file in by_location.values()):
        raise UsageError(f"no file in {', '.join(inputs)}")
    return list(by_location.values())


def _files_of(text: str, locations: Locations, out: Path) -> Iterator[InputFile]:
    if text.startswith(SCHEME):
        for location, stamp in locations.objects_below(text):
            yield InputFile(location=location, stamp=stamp)
        return
    path = Path(text)
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        yield from _files_of_rows(read_table(path), path.parent, locations, out)
        return
    if not path.exists():
        raise UsageError(f"{text}: no such file or folder; inputs are folders, files, tables and {SCHEME} prefixes")
    for location, stamp in _walk(path, out):
        yield InputFile(location=location, stamp=stamp)


def _files_of_rows(rows: Iterable[TableRow], base: Path, locations: Locations, out: Path) -> Iterator[InputFile]:
    listed: dict[str, list[tuple[str, str]]] = {}

    def files(text: str) -> list[tuple[str, str]]:
        # A prior that many rows name is listed once.
        if text not in listed:
            listed[text] = list(locations.objects_below(text) if text.startswith(SCHEME) else _walk(base / text, out))
        return listed[text]

    for row in rows:
        priors = files(row.prior) if row.prior else []
        # An empty column "prior" means "without a comparison"; no such column at all leaves the choice to the node.
        only = tuple(location for location, _ in priors) if row.prior is not None else None
        given = InputFile(location="", stamp="", study=row.study, patient=row.patient, date=row.date, priors=only)
        for location, stamp in files(row.path):
            yield replace(given, location=location, stamp=stamp)
        for location, stamp in priors:
            yield InputFile(location=location, stamp=stamp, is_analysed=False)


def _walk(path: Path, out: Path) -> Iterator[tuple[str, str]]:
    """Every file at or below a path, in order. What a table names and is not there is listed: it gets a row."""
    if not path.is_dir():
        yield str(path), _stamp(path)
        return
    with os.scandir(path) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        child = Path(entry.path)
        # No links to folders: two of them can go round in a circle.
        if entry.is_dir(follow_symlinks=False):
            if child.resolve() != out:
                yield from _walk(child, out)
        elif entry.is_file():
            yield str(child), _stamp(child)


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "not there"
    return f"{status.st_size} {status.st_mtime_ns}"
