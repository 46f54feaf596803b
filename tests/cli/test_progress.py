"""Progress of long commands: the time that is left, from the first step on, with and without a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from dicom_node.cli.progress import Progress


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_there_are_plain_lines_from_the_first_step_on() -> None:
    out, clock = io.StringIO(), Seconds()
    with Progress(console=Console(file=out, width=120), clock=clock) as progress:
        progress.begin("evaluating", 20)
        for done in range(1, 21):
            clock.now += 4.0
            progress.step("evaluating", done, 20)
    lines = out.getvalue().splitlines()
    assert lines[0] == "evaluating 1 of 20, 76 s left"
    assert lines[1] == "evaluating 4 of 20, 64 s left"  # ten seconds later at the earliest
    assert lines[-1] == "evaluating 20 of 20, done in 80 s"
    assert len(lines) == 8
    assert "\x1b" not in out.getvalue()


def test_a_stage_that_ends_at_once_says_nothing() -> None:
    out = io.StringIO()
    with Progress(console=Console(file=out), clock=Seconds()) as progress:
        assert list(progress.watch("importing", "abc", 3)) == ["a", "b", "c"]
    assert out.getvalue() == ""


def test_without_a_total_it_says_how_far_and_for_how_long() -> None:
    out, clock = io.StringIO(), Seconds()
    with Progress(console=Console(file=out), clock=clock) as progress:
        for _ in progress.watch("reading", range(5)):
            clock.now += 60.0
    assert out.getvalue().splitlines() == [
        "reading 1, 60 s so far",
        "reading 2, 2 min so far",
        "reading 3, 3 min so far",
        "reading 4, 4 min so far",
        "reading 5, 5 min so far",
        "reading 5 of 5, done in 5 min",
    ]


def test_a_terminal_gets_a_bar_that_ends_full() -> None:
    out = io.StringIO()
    with Progress(console=Console(file=out, force_terminal=True, width=100)) as progress:
        assert sum(1 for _ in progress.watch("backing up", range(30), 30)) == 30
    assert "backing up" in out.getvalue()
    assert "30/30" in out.getvalue()
