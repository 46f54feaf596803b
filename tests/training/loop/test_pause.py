"""A training's breaks: it waits while the file is there, and a sign to stop ends the wait as well."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.support.common import wait_until
from training.loop.pause import PAUSE_VARIABLE, TrainingPauses, breaks_from_environment


def test_without_file_and_sign_it_goes_straight_on(tmp_path: Path) -> None:
    breaks = TrainingPauses(pause_file=tmp_path / "pause")
    assert not breaks()
    assert breaks.paused == 0.0


@pytest.mark.parametrize("stopped", [False, True], ids=["goes on", "stops"])
def test_it_waits_for_the_file_to_go_or_for_the_sign(tmp_path: Path, stopped: bool) -> None:
    pause = tmp_path / "pause"
    pause.touch()
    breaks = TrainingPauses(pause_file=pause)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(breaks()))
    thread.start()
    thread.join(0.5)
    assert thread.is_alive(), "it waits"
    breaks.stop.set() if stopped else pause.unlink()
    wait_until(lambda: answers == [stopped], what="the break to end")
    thread.join()
    assert breaks.paused > 0.0


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PAUSE_VARIABLE, raising=False)
    assert breaks_from_environment().pause_file is None
    monkeypatch.setenv(PAUSE_VARIABLE, str(tmp_path / "pause"))
    assert breaks_from_environment().pause_file == tmp_path / "pause"
