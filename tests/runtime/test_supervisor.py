"""The supervisor and its children: one that lives and does not move is killed and started again."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.synchronize import Event as ProcessEvent
from pathlib import Path

import pytest

from dicom_node.config import NodeSection, Settings
from dicom_node.runtime import supervisor
from dicom_node.system.pulse import Pulse
from tests.support.common import wait_until


def beat(_settings: Settings, ready: ProcessEvent, pulse: Pulse, stop: threading.Event) -> None:
    """A child that does nothing but live."""
    ready.set()
    while not stop.wait(0.1):
        pulse.beat()


def test_a_child_that_lives_and_does_not_move_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(node=NodeSection(data_dir=tmp_path))
    child = supervisor._Child(name="stuck", main=beat)
    supervisor._start(child, settings)
    try:
        assert child.ready.wait(120)
        first = child.process
        assert first is not None
        assert first.pid is not None
        supervisor._keep_running(child, settings)
        assert child.process is first, "a child that moves is left alone"
        os.kill(first.pid, signal.SIGSTOP)
        monkeypatch.setattr(supervisor, "MAX_SILENCE_SECONDS", 1.0)

        def is_replaced() -> bool:
            supervisor._keep_running(child, settings)
            return child.process is not first

        wait_until(is_replaced, seconds=60, what="another process in its place")
        assert first.exitcode == -signal.SIGKILL
        assert child.ready.wait(120), "the new one works"
    finally:
        monkeypatch.undo()
        supervisor._end([child])
