"""Helpers of many tests: free ports, waiting on a condition, real programs, the shared radiographs."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("DICOM_NODE_SHARED", REPOSITORY.parent / "shared"))
ANY_DISK = "[retention]\nkeep_free_percent = 0\nemergency_free_percent = 0\n"
"""For the configuration of a node under test: it neither warns nor removes where the disk is nearly full."""


def shared(*parts: str) -> Path:
    """A path under the folder of shared radiographs and reference tensors; skips the test where it is missing."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(
            f"{'/'.join(parts)} is not beside this checkout (it holds other people's data and is not ours to ship)"
        )
    return path


def program(name: str, *also_in: str) -> str:
    """The full path of a program; skips the test where it is not installed."""
    # pynetdicom installs a storescu, echoscu, … of its own into the virtual environment: we want DCMTK's.
    own = str(Path(sys.prefix) / "bin")
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder.rstrip("/") != own]
    search = os.pathsep.join([*folders, "/usr/sbin", "/usr/local/sbin", *also_in])
    found = shutil.which(name, path=search)
    if found is None:
        pytest.skip(f"{name} is not installed; scripts/install_test_tools.sh installs it where it may")
    return found


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], object], *, seconds: float = 60.0, what: str, closely: bool = False) -> None:
    """Wait until `condition()` is true; fails the test naming `what` was waited for.

    closely: what is waited for passes again, so look every 20 ms whatever a look costs.
    """
    deadline = time.monotonic() + seconds
    while True:
        began = time.thread_time()
        if condition():
            return
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain for {what}")
        # The one polling interval of the suite: a condition is awaited, not a time. One that opens an index or asks an
        # archive is looked at less often, else looking takes the CPU of the node that is waited for.
        time.sleep(0.02 if closely else min(0.2, max(0.05, 19 * (time.thread_time() - began))))


def slowness() -> float:
    """The factor by which work takes longer now than on an idle machine, at least 1.0.

    The load of the last minute per processor, or the wall time of a tenth of a second of work, whichever is larger.
    """
    began, worked = time.monotonic(), time.thread_time()
    while time.thread_time() - worked < 0.1:
        pass
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1), (time.monotonic() - began) / 0.1)


def assert_within(seconds: float, *, since: float) -> None:
    """Check that at most `seconds` have passed since a monotonic time; a busy machine is allowed for."""
    passed = time.monotonic() - since
    assert passed < seconds or passed < seconds * slowness(), f"took {passed:.1f} s"


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether a server accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0
