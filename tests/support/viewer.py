"""The demonstration's viewer for tests: OHIF's pages, fetched once by name, and skips where a part cannot be had."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicom_node.demo.viewer import ViewerMissingError, orthanc_program, running_dicomweb, running_viewer, upload
from tests.support.common import REPOSITORY, program

__all__ = ["ohif_pages", "orthanc", "upload", "viewer"]

OHIF_VERSION = "3.13.2"
OHIF = REPOSITORY / ".cache" / "ohif"

viewer = running_viewer


def ohif_pages() -> Path:
    """The viewer's built pages; fetched once by name from the npm registry, the test skips where that is refused."""
    pages = OHIF / "package" / "dist"
    if not (pages / "index.html").is_file():
        npm = program("npm")
        OHIF.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            [npm, "pack", f"@ohif/app@{OHIF_VERSION}"], cwd=OHIF, capture_output=True, text=True, timeout=240
        )
        archives = sorted(OHIF.glob("ohif-app-*.tgz"))
        if packed.returncode != 0 or not archives:
            pytest.skip("npm cannot fetch @ohif/app here")
        shutil.unpack_archive(archives[0], OHIF, "gztar", filter="data")
        archives[0].unlink()
    return pages


@contextmanager
def orthanc(folder: Path) -> Iterator[int]:
    """An Orthanc with DICOMweb; gives its HTTP port, and skips the test where it is not installed."""
    try:
        orthanc_program()
    except ViewerMissingError as error:
        pytest.skip(str(error))
    with running_dicomweb(folder) as port:
        yield port
