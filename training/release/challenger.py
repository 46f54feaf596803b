"""From a retrained model to a challenger: the champion's reading rules, calibrated anew on what was held back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.checkpoints.files import HEADS_FILE, MANIFEST_NAME
from model.checkpoints.manifest import Manifest, read_manifest, rewrite_manifest, write_manifest
from model.experts import film_classifier
from model.predict import load_predictor
from model.schema import StudyPair
from training.calibration.checkpoint import calibrate
from training.data.datasets import load_records, open_records, parse_spec
from training.recipe.public import public_recipe
from training.records.drops import DropReport
from training.records.record import Record
from training.release.finish import read_pointing, write_weights

FEWEST = 40
"""With fewer answers of all types together the champion's temperatures and thresholds stay."""
_OWN = frozenset({"files", "device_uid", "format_version", "metrics", "localisation", "validation"})
"""The entries of a manifest that describe its own weights; the challenger keeps all others."""


def finish_challenger(
    trained: Path,
    folder: Path,
    *,
    base: Path,
    version: str,
    recipe: Mapping[str, Any],
    snapshot: str,
    calibration: Sequence[str],
    pointing_pairs: int,
    experts: Path | None = None,
    between: Callable[[], None] = lambda: None,
) -> Manifest:
    """Write the checkpoint folder with its manifest, last; a folder that has one is done and left alone.

    Findings, question types, licence and the mark of a demonstration are the base's: nothing new is claimed. Thresholds
    and temperatures are fitted on `calibration` (data sets of `training.data.datasets`); a finding with too few answers
    there keeps the base's. Regions are offered only for what was measured again: pointing_pairs phantom pairs for a
    demonstration, else none, because the base's figures do not hold for changed weights.
    """
    if (folder / MANIFEST_NAME).is_file():
        return read_manifest(folder)
    before = read_manifest(base)
    draft = folder.with_name(f"{folder.name}.draft")
    parameters = write_weights(trained, draft)
    _copy_untrained(base, draft)
    kept = {name: getattr(before, name) for name in Manifest.model_fields if name not in _OWN}
    own = {
        "version": version,
        "base": f"{before.label} {before.device_uid}",
        "recipe": public_recipe(recipe),
        "data_snapshot": snapshot,
        "parameters": parameters,
    }
    write_manifest(draft, **(kept | own))
    _calibrate(draft, before, calibration, experts, between)
    if before.localisation and before.demonstration and pointing_pairs:
        rewrite_manifest(draft, localisation=read_pointing(draft, pointing_pairs))
    draft.rename(folder)
    return read_manifest(folder)


def _copy_untrained(base: Path, draft: Path) -> None:
    (draft / HEADS_FILE).unlink(missing_ok=True)  # untrained here: the base's outlines go with its vision tower
    # The film classifier is not trained at a site: the challenger reads films of people as the champion does.
    for name in (HEADS_FILE, film_classifier.CONFIGURATION, film_classifier.WEIGHTS):
        if (base / name).is_file():
            shutil.copyfile(base / name, draft / name)


def _calibrate(
    draft: Path, before: Manifest, calibration: Sequence[str], experts: Path | None, between: Callable[[], None]
) -> None:
    report = DropReport()

    def items() -> Iterable[tuple[Record, StudyPair]]:
        for name in calibration:
            for item in load_records(open_records(parse_spec(name), report), report):
                between()
                yield item

    fitted = calibrate(load_predictor(draft, experts=experts), items())
    if fitted.answers < FEWEST:
        return
    rewrite_manifest(draft, **fitted.manifest_values(before))
