"""Calibrate a checkpoint folder on a data set: a foreign one gets its manifest, one of ours new reading rules.

Until then a checkpoint without a manifest states presence alone, and every report says "uncalibrated model" first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoints.files import MANIFEST_NAME, refuse_unsafe_files
from model.checkpoints.manifest import Manifest, rewrite_manifest, write_manifest
from model.errors import CheckpointError
from model.predict import load_predictor
from model.schema import StudyPair
from training.calibration.checkpoint import calibrate
from training.data.datasets import load_records, open_records, parse_spec
from training.records.drops import DataError, DropReport
from training.records.record import Record, Split

FEWEST_ANSWERS = 200
"""With fewer answers of known truth nothing is written: chance would stand in the manifest as a measurement."""
_OWN = frozenset({"files", "device_uid", "format_version"})
_FITTED = frozenset({"calibration", "thresholds", "joint", "certainty_floor", "calibrated_on", "validation"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedFolder:
    """The manifest as it now stands; defaulted: findings whose threshold stays 0.5 for want of cases; pairs: asked."""

    manifest: Manifest
    defaulted: tuple[str, ...]
    pairs: int
    coverage: float | None
    accuracy: float | None


def calibrate_folder(
    folder: Path,
    data: str,
    report: DropReport,
    *,
    findings: Sequence[str] = (),
    split: Split | None = None,
    limit: int | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] = lambda _done: None,
) -> CalibratedFolder:
    """Fit temperatures, thresholds, joint weights and certainty floor, and write them into the folder's manifest.

    The manifest is written last and in one step: a run that is cut off changes nothing. findings: what a checkpoint
    without a manifest may be asked. progress is told the pairs that were asked. Raises CheckpointError for a folder
    that cannot be loaded or holds pickles or code, DataError for data that cannot be read or say too little.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder; a checkpoint of the Hub must be downloaded first")
    refuse_unsafe_files(folder)
    records = open_records(parse_spec(data), report)
    predictor = load_predictor(folder, findings=findings, device=device)
    asked = _Counted(progress)
    fitted = calibrate(predictor, asked.each(load_records(records, report, split=split, limit=limit)))
    if fitted.answers < FEWEST_ANSWERS:
        raise DataError(
            f"{data}: only {fitted.answers} answers have a known truth, at least {FEWEST_ANSWERS} are needed; give "
            "more pairs, or a data set that knows the findings asked: " + ", ".join(predictor.findings)
        )
    return CalibratedFolder(
        manifest=_write(folder, predictor.manifest, fitted.manifest_values(predictor.manifest), data),
        defaulted=tuple(finding for finding in predictor.findings if finding not in fitted.thresholds),
        pairs=asked.count,
        coverage=fitted.coverage,
        accuracy=fitted.accuracy,
    )


def _write(folder: Path, manifest: Manifest, values: dict[str, Any], data: str) -> Manifest:
    if (folder / MANIFEST_NAME).is_file():
        return rewrite_manifest(folder, **values)
    kept = {name: getattr(manifest, name) for name in Manifest.model_fields if name not in _OWN | _FITTED}
    return write_manifest(folder, **kept | values | {"data_snapshot": f"calibrated on {data}"})


class _Counted:
    """Counts the pairs that pass, and tells it on."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        self.count = 0
        self._progress = progress

    def each(self, items: Iterator[tuple[Record, StudyPair]]) -> Iterator[tuple[Record, StudyPair]]:
        for item in items:
            yield item
            self.count += 1
            self._progress(self.count)
