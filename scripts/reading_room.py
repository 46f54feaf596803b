"""Count what a radiologist would object to in the node's reports; every count must be 0 (status 1 where one is not).

    python scripts/reading_room.py [--studies FOLDER] [--phantoms N] [--viewer OHIF/package/dist] [--shots FOLDER]

--studies: DICOM studies of whole patients, for example the real ones; --phantoms: so many synthetic patients that the
bundled model has not seen. With --viewer, and Orthanc installed, the reports are opened in OHIF in Chromium too, and
the labels that it draws are measured on the screen.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.config import Settings
from dicom_node.demo.reading_room import COUNTS, read_patients
from training.phantom.dicom import write_study_pair

LONG_SIDE = 1024
FIRST_SEED = 9_100_000
"""Beyond the seeds of training, validation and test."""


def main(
    studies: Annotated[Path | None, typer.Option(help="Folder of DICOM studies.")] = None,
    phantoms: Annotated[int, typer.Option(min=0, help="Synthetic patients of two studies each.")] = 4,
    viewer: Annotated[Path | None, typer.Option(help="OHIF's built pages (npm @ohif/app, package/dist).")] = None,
    shots: Annotated[Path | None, typer.Option(help="Folder for pictures of what OHIF shows.")] = None,
) -> None:
    """Read, count, print."""
    with tempfile.TemporaryDirectory(prefix="reading-room-") as work:
        folders = [studies] if studies is not None else []
        for number in range(phantoms):
            folders.append(Path(work) / f"phantom-{number}")
            write_study_pair(folders[-1], FIRST_SEED + number, long_side=LONG_SIDE)
        reading = read_patients(folders, Settings(), say=lambda line: print(line, file=sys.stderr))
        if viewer is not None:
            from dicom_node.demo.viewer_labels import count_in_viewer  # Playwright, which is for tests alone

            count_in_viewer(reading, viewer, Path(work) / "viewer", shots=shots)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(reading.results.items()))
    print(f"{sum(reading.results.values())} results: {outcomes}")
    print(f"{reading.changes} changes stated, {reading.regions} regions drawn")
    for kind in COUNTS:
        print(f"{reading.objections[kind]:5}  {kind}")
    for line in reading.lines:
        print(f"  {line}")
    raise typer.Exit(1 if reading.lines else 0)


if __name__ == "__main__":
    typer.run(main)
