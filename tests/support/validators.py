"""Verdicts of other programs on our files: dciodvfy, PixelMed's SR validator, DCMTK's readers."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom import Dataset

from tests.support.common import REPOSITORY, program

JAVA_FOLDER = Path("/usr/share/java")
VALIDATE_MANY = Path(__file__).with_name("ValidateMany.java")
COMPILED_STYLESHEETS = REPOSITORY / "build" / "pixelmed"
"""Kept from one run to the next."""
# XPath limits: the validator's stylesheet is larger than newer Java allows.
JAVA_OPTIONS = (
    "-XX:TieredStopAtLevel=1",  # a short run gains nothing from the second compiler and pays for it
    "-XX:+UseSerialGC",
    "-Djdk.xml.xpathExprGrpLimit=0",
    "-Djdk.xml.xpathExprOpLimit=0",
    "-Djdk.xml.xpathTotalOpLimit=0",
)


def save(dataset: Dataset, path: Path) -> Path:
    """The data set as a DICOM file."""
    dataset.save_as(path, enforce_file_format=True)
    return path


def dciodvfy_errors(files: list[Path]) -> dict[str, list[str]]:
    """File name → the lines in which dciodvfy (dicom3tools) names an error; only files that have some."""
    binary = program("dciodvfy")

    def check(path: Path) -> tuple[str, list[str]]:
        done = subprocess.run([binary, str(path)], capture_output=True, timeout=60)
        lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
        # Its first line names the IOD that it recognised: without one nothing was checked.
        known = any(line and not line.startswith(("Error", "Warning", "(0x")) for line in lines)
        errors = [line for line in lines if line.startswith("Error") and not _counts_bytes(line)]
        if errors == [_SOME_VALUE] and any(map(_counts_bytes, lines)):
            errors = []
        return path.name, errors + ([] if known else ["no IOD found"])

    with ThreadPoolExecutor(2) as pool:
        return {name: errors for name, errors in pool.map(check, files) if errors}


_TOO_LONG = re.compile(
    r"Error - Value invalid for this VR .* = <(.*)> - Length invalid for this VR = \d+, expected <= (\d+)"
)
_SOME_VALUE = "Error - Dicom dataset contains invalid data values for Value Representations"
"""The closing line that it prints when it named a value."""


def _counts_bytes(line: str) -> bool:
    """Tell whether it counted bytes for a length that PS3.5 table 6.2-1 counts in characters, and that is allowed."""
    match = _TOO_LONG.match(line)
    return match is not None and max(map(len, match[1].split("="))) <= int(match[2])


def pixelmed_errors(files: list[Path]) -> dict[str, list[str]]:
    """File name → the lines in which PixelMed's DicomSRValidator names an error; only files that have some.

    All files in one Java process, because reading the validator's templates takes longer than checking a report.
    """
    if not (JAVA_FOLDER / "pixelmed.jar").is_file():
        pytest.skip("PixelMed is not installed (Debian package libpixelmed-java)")
    program("javac")  # a source file is run: that needs a JDK (Debian package default-jdk-headless)
    command = [
        program("java"),
        *JAVA_OPTIONS,
        "-cp",
        str(JAVA_FOLDER / "pixelmed.jar"),
        str(VALIDATE_MANY),
        str(COMPILED_STYLESHEETS),
        *map(str, files),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    found: dict[str, list[str]] = {}
    name = ""
    complete = 0
    for line in done.stdout.splitlines():
        if line.startswith("FILE "):
            name = Path(line.removeprefix("FILE ")).name
        elif line.startswith("Error"):
            found.setdefault(name, []).append(line)
        complete += line == "IOD validation complete"
    assert (done.returncode, complete) == (0, len(files)), done.stdout[-2000:] + done.stderr[-2000:]
    return found


def dsrdump(path: Path) -> str:
    """DCMTK's text of a report, with codes; fails the test where DCMTK cannot read it."""
    return _dcmtk([program("dsrdump"), "--print-all-codes", "--print-long-values"], path, [])


def dsr2html(path: Path, page: Path) -> str:
    """DCMTK's page of a report."""
    _dcmtk([program("dsr2html"), "--convert-to-utf8"], path, [str(page)])
    return page.read_text("utf-8")


def _dcmtk(command: list[str], path: Path, rest: list[str]) -> str:
    done = subprocess.run([*command, str(path), *rest], capture_output=True, timeout=60)
    said = done.stdout.decode("utf-8") + done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, said
    assert "\nE: " not in "\n" + said, said
    return done.stdout.decode("utf-8")
