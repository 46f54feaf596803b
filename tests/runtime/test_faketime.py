"""The clock of a running node is set, by libfaketime: back by hours and forward by days, no study waits for it."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.runtime.steady_interval import SteadyInterval
from tests.support.common import REPOSITORY


@pytest.fixture
def library() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed")
    return found[0]


class FakedClock:
    """The process and the file that sets its clock."""

    def __init__(self, process: subprocess.Popen[str], setting: Path) -> None:
        self._process, self._setting = process, setting

    def set(self, offset: str) -> None:
        """An offset from the true time, as libfaketime reads it."""
        self._setting.write_text(offset, "ascii")

    def arrive(self, name: str) -> None:
        """Have a study arrive."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        self.expect(f"arrived {name}")

    def expect(self, text: str) -> None:
        """Wait for a line; the lines before are the log's."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == text:
                return
        pytest.fail(f"the process ended without {text!r}")


@pytest.fixture
def clock(library: Path, tmp_path: Path) -> Iterator[FakedClock]:
    setting = tmp_path / "clock"
    setting.write_text("+0", "ascii")
    faked = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(setting),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.faked_clock", str(tmp_path / "node")],
        env={**os.environ, **faked},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield FakedClock(process, setting)
        finally:
            process.kill()


def test_clock_that_is_set_back_or_forward_holds_no_study_up(clock: FakedClock) -> None:
    """Without the mending, a study whose last image lies two hours or three days ahead would wait for as long."""
    clock.arrive("a")
    clock.set("-2h")
    clock.expect("closed a")
    clock.arrive("b")
    clock.set("+3d")
    clock.expect("closed b")
    clock.arrive("c")
    clock.set("+0")
    clock.expect("closed c")


def test_clock_that_comes_from_1970_leaves_one_time_to_make_up() -> None:
    """APScheduler asks for each missed time in turn: of a tick every second there would be 1.8 thousand million."""
    every_second = SteadyInterval(1.0)
    boot, now = dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 3, 1, 22, 0, 0, 250_000, tzinfo=dt.UTC)
    assert every_second.get_next_fire_time(boot, now) == now + dt.timedelta(seconds=1)
    assert every_second.get_next_fire_time(None, now) == now + dt.timedelta(seconds=1)
    last = now - dt.timedelta(seconds=0.25)
    assert every_second.get_next_fire_time(last, now) == last + dt.timedelta(seconds=1), "in step where none was missed"
