"""CheXTemporal (arXiv 2605.11304): pairs of films with the progression of findings, of three parent corpora.

Two tables, Parquet as published or the same columns as CSV: `gold_progression_pairs` (labels by experts; a test set)
with patient_id, study_id_prev, study_id_curr, img_path_prev, img_path_curr, disease_name, progression, dataset; and
`silver_findings` (labels by a language model from reports; marked as such) with dataset, patient_id, study_id_curr,
study_id_prev, finding, progression, parent_image_curr, parent_image_prev and others that are not read. One row for each
pair and finding. Paths are relative to a folder that holds `chexpert/`, `mimic/` and `rexgradient/`; no image is
part of the release. The columns are those of the release's README; no row of it was seen. Annotations: CC BY-NC 4.0.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model.schema import Change
from training.readers.labels import chexpert_keys
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef, Record, Split
from training.records.truth import FindingTruth, ImageTruth, PairTruth

GOLD, SILVER = "gold_progression_pairs", "silver_findings"
PROGRESSIONS = {
    "new": Change.NEW,
    "worse": Change.WORSENING,
    "stable": Change.STABLE,
    "improved": Change.IMPROVING,
    "resolved": Change.RESOLVED,
}
_COLUMNS = {
    GOLD: ("disease_name", "img_path_prev", "img_path_curr"),
    SILVER: ("finding", "parent_image_prev", "parent_image_curr"),
}
_SHARED = ("dataset", "patient_id", "study_id_prev", "study_id_curr", "progression")
_Pair = tuple[str, str, str, str, str, str]
"""Data set, patient, prior study, current study, prior path, current path."""


@dataclass(slots=True, kw_only=True)
class _Labels:
    """The findings of one pair as they come; contradicted: those that two rows disagree on."""

    changes: dict[str, Change] = field(default_factory=dict)
    contradicted: set[str] = field(default_factory=set)


def read_chextemporal(
    folder: Path, images: Path, report: DropReport, *, table: str = GOLD, check_images: bool = True
) -> Iterator[Record]:
    """A record for each pair. table: GOLD (TEST) or SILVER (TRAIN, proxy labels). Raises DataError for a missing
    table or column, and for Parquet where pyarrow is not installed."""
    pairs: dict[_Pair, _Labels] = {}
    for row in _rows(folder, table):
        _note(row, table, pairs, report)
    for (dataset, patient, before, now, *paths), labels in pairs.items():
        pair_name = f"{dataset}/{patient}/{now} against {before}"
        prior, current = (
            ImageRef(key=str(images / path), image_id=f"{dataset}/{path}", study_id=study)
            for path, study in zip(paths, (before, now), strict=True)
        )
        missing = next(
            (image.key for image in (prior, current) if check_images and not Path(image.key).is_file()), None
        )
        # Labels that contradict each other settle nothing for their finding; the pair's other findings count.
        findings = {
            key: _truth(key, change) for key, change in labels.changes.items() if key not in labels.contradicted
        }
        if prior.key == current.key:
            report.drop("pair of an image with itself", pair_name)
        elif missing is not None:
            report.drop("image file missing", missing)
        elif not findings:
            report.drop("no finding with one label", pair_name)
        else:
            report.keep()
            yield Record(
                truth=PairTruth(
                    pair_id=f"chextemporal/{pair_name}".replace(" against ", "/"),
                    # The number that the readers of MIMIC use, so that a split by patient holds over all of its sets.
                    patient_id=f"{dataset}/{patient.removeprefix('p') if dataset == 'mimic' else patient}",
                    findings=findings,
                    proxy=table == SILVER,
                ),
                current=current,
                prior=prior,
                split=Split.TRAIN if table == SILVER else Split.TEST,
            )


def _note(row: Mapping[str, str], table: str, pairs: dict[_Pair, _Labels], report: DropReport) -> None:
    """Put one row to its pair, or drop it with its reason."""
    name, before_path, now_path = (row[column].strip() for column in _COLUMNS[table])
    dataset, patient, before, now, progression = (row[column].strip() for column in _SHARED)
    label_name = f"{dataset}/{patient}/{now}: {name} {progression}"
    key, change = (
        chexpert_keys().get(" ".join(name.replace("_", " ").split()).title()),
        PROGRESSIONS.get(progression.lower()),
    )
    if not (before_path and now_path):
        report.drop("no image path", label_name)
    elif key is None:
        report.drop("unknown finding", label_name)
    elif change is None:
        report.drop("unknown progression label", label_name)
    else:
        # The key names the two image files too: one study may have several, and each pair of files is a record of its
        # own.
        labels = pairs.setdefault((dataset, patient, before, now, before_path, now_path), _Labels())
        if labels.changes.setdefault(key, change) is not change:
            # The first word stays in `changes`, but the finding is left out of the pair: neither of two words is more
            # true.
            labels.contradicted.add(key)
            report.drop("two labels of one finding", label_name)


def _truth(key: str, change: Change) -> FindingTruth:
    """The states of the two images by a progression: a new finding was absent, a resolved one is."""
    return FindingTruth(
        key=key,
        current=ImageTruth(present=change is not Change.RESOLVED),
        prior=ImageTruth(present=change is not Change.NEW),
        change=change,
    )


def _rows(folder: Path, table: str) -> Iterator[Mapping[str, str]]:
    columns = (*_SHARED, *_COLUMNS[table])
    parquet, text = folder / f"{table}.parquet", folder / f"{table}.csv"
    if parquet.is_file():
        yield from _parquet_rows(parquet, columns)
    elif text.is_file():
        with text.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            _check_columns(text, columns, reader.fieldnames or ())
            yield from ({column: row[column] or "" for column in columns} for row in reader)
    else:
        raise DataError(f"{folder}: holds neither {parquet.name} nor {text.name} of CheXTemporal")


def _parquet_rows(path: Path, columns: tuple[str, ...]) -> Iterator[Mapping[str, str]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(
            f"{path}: reading Parquet needs pyarrow (pip install 'dicom-node[parquet]'); or write the table as "
            f"{path.with_suffix('.csv').name} with the same columns"
        ) from error
    try:
        file = parquet.ParquetFile(path)
        _check_columns(path, columns, file.schema_arrow.names)
        for batch in file.iter_batches(columns=list(columns)):
            for row in batch.to_pylist():
                yield {column: "" if row[column] is None else str(row[column]) for column in columns}
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: is no readable Parquet table: {error}") from error


def _check_columns(path: Path, columns: tuple[str, ...], there: object) -> None:
    names = set(there) if isinstance(there, (list, tuple)) else set()
    if missing := [column for column in columns if column not in names]:
        raise DataError(f"{path}: lacks the column {missing[0]}; there are {sorted(names)}")
