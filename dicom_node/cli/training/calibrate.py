"""`models calibrate`: thresholds, temperatures and a certainty floor for a checkpoint that has none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.cli.common import ConfigOption, JsonOption, console, print_json, settings_from
from dicom_node.cli.progress import Progress
from dicom_node.cli.training.options import DataOption, SplitOption, no_bars_in_files, our_errors, split_of
from dicom_node.errors import UsageError
from training.records.drops import DropReport

if TYPE_CHECKING:
    from training.calibration.folder import CalibratedFolder


def calibrate_command(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of a checkpoint, with or without a manifest.")
    ],
    data: DataOption,
    findings: Annotated[
        str,
        typer.Option(help="Findings of a checkpoint without a manifest, comma-separated; default: `model.findings`."),
    ] = "",
    split: SplitOption = "all",
    limit: Annotated[int | None, typer.Option(min=1, help="Greatest number of pairs.")] = None,
    device: Annotated[str, typer.Option(help='"cpu" or "cuda".')] = "cpu",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a checkpoint's thresholds and temperatures and write them to its manifest.

    Until then a foreign checkpoint states presence alone, and reports open with "uncalibrated model". The data must be
    neither its training data nor the data of its evaluation.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder; a checkpoint of the Hub must be downloaded first")
    named = _findings_to_ask(findings, folder, config)
    report = DropReport()
    with our_errors():
        no_bars_in_files()
        calibrated = _calibrate(folder, data, report, findings=named, split=split, limit=limit, device=device)
    if as_json:
        print_json(_as_values(calibrated))
        return
    for line in report.lines():
        console.print(line)
    _show(calibrated)
    console.print(f"written: {folder / 'manifest.json'} (Device UID {calibrated.manifest.device_uid})")


def _calibrate(
    folder: Path,
    data: str,
    report: DropReport,
    *,
    findings: tuple[str, ...],
    split: str,
    limit: int | None,
    device: str,
) -> CalibratedFolder:
    """Calibrate behind a bar of progress."""
    from training.calibration.folder import calibrate_folder
    from training.data.datasets import parse_spec, record_count

    with Progress() as progress:
        progress.begin("calibrating")
        total = record_count(parse_spec(data), split=split_of(split), limit=limit)
        return calibrate_folder(
            folder,
            data,
            report,
            findings=findings,
            split=split_of(split),
            limit=limit,
            device=device,
            progress=lambda done: progress.step("calibrating", done, total),
        )


def _findings_to_ask(findings: str, folder: Path, config: Path | None) -> tuple[str, ...]:
    """The findings that were named, else those of the configuration for a checkpoint without a manifest."""
    named = tuple(name.strip() for name in findings.split(",") if name.strip())
    if not named and not (folder / "manifest.json").is_file():
        return tuple(settings_from(config).model.findings)
    return named


def _as_values(calibrated: CalibratedFolder) -> dict[str, Any]:
    manifest = calibrated.manifest
    values = manifest.model_dump(
        mode="json", include={"name", "version", "device_uid", "thresholds", "calibration", "certainty_floor"}
    )
    more = {"pairs": calibrated.pairs, "answers": manifest.calibrated_on, "defaulted": list(calibrated.defaulted)}
    return values | more


def _show(calibrated: CalibratedFolder) -> None:
    manifest, accuracy = calibrated.manifest, calibrated.accuracy
    console.print(
        f"{manifest.name} {manifest.version}: calibrated on {manifest.calibrated_on} answers "
        f"of {calibrated.pairs} pairs"
    )
    for finding in manifest.findings:
        note = "  (too few cases: not measured)" if finding in calibrated.defaulted else ""
        console.print(f"  {finding:28} seen from {manifest.thresholds.get(finding, 0.5):.2f}{note}")
    changes = "" if accuracy is None else f"; {accuracy:.0%} of the changes stated there are right"
    console.print(f"  {'certainty floor':28} {manifest.certainty_floor:.2f}{changes}")
