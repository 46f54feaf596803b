"""DCMTK's programs as peers: they send, echo and read as a hospital's devices do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.support.common import program

SYNTAX_OPTION = {
    JPEGBaseline8Bit: "-xy",
    JPEGExtended12Bit: "-xx",
    JPEGLosslessSV1: "-xs",
    JPEG2000Lossless: "-xv",
    JPEG2000: "-xw",
    JPEGLSLossless: "-xt",
    JPEGLSNearLossless: "-xu",
    RLELossless: "-xr",
    DeflatedExplicitVRLittleEndian: "-xd",
    ImplicitVRLittleEndian: "-xi",
}
"""Options of storescu that make it propose a file's own transfer syntax."""

ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1", "DCMDICTPATH": os.environ.get("DCMDICTPATH", "")}
"""Without TCP_NODELAY DCMTK waits some 50 ms for each object."""
if not ENVIRONMENT["DCMDICTPATH"]:
    del ENVIRONMENT["DCMDICTPATH"]


def storescu(files: Sequence[Path], port: int, *, ae_title: str = "LUMEN", calling: str = "MODALITY") -> None:
    """Send files, each on an association that proposes its own transfer syntax; a refusal is CalledProcessError."""
    binary = program("storescu")
    for path in files:
        syntax = pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID
        options = [SYNTAX_OPTION[syntax]] if syntax in SYNTAX_OPTION else []
        command = [binary, *options, "-aet", calling, "-aec", ae_title, "127.0.0.1", str(port), str(path)]
        subprocess.run(command, check=True, env=ENVIRONMENT, timeout=120, capture_output=True)


def echoscu(port: int, *, ae_title: str = "LUMEN", calling: str = "MODALITY") -> int:
    """The exit status of a C-ECHO."""
    command = [program("echoscu"), "-aet", calling, "-aec", ae_title, "127.0.0.1", str(port)]
    return subprocess.run(command, check=False, env=ENVIRONMENT, timeout=60, capture_output=True).returncode


def dsrdump(path: Path) -> str:
    """An SR document as text; raises CalledProcessError where it cannot be read."""
    command = [program("dsrdump"), "+Pc", str(path)]
    return subprocess.run(command, check=True, env=ENVIRONMENT, timeout=60, capture_output=True).stdout.decode()
