"""The console of the commands writes what rich would write, and no more than the text where no terminal is."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from dicom_node.cli.console import LineConsole, Style

TEXTS = ("plain", "two\n\nlines", "", "[b]no markup[/b] :smile:", "bell\a back\b return\r\n", "Müller^Jörg=山田^太郎")
_VARIABLES = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "TERM", "COLUMNS", "COLORTERM")


class Terminal(io.StringIO):
    """A terminal that keeps what was written to it."""

    def isatty(self) -> bool:
        return True


def written_by_rich(text: str, style: Style | None, file: io.StringIO) -> str:
    """The output of rich for a line, with the options that the commands used to pass."""
    Console(file=file, highlight=False, soft_wrap=True, markup=False, emoji=False).print(text, style=style)
    return file.getvalue()


@pytest.mark.parametrize(
    "environment",
    [
        {"TERM": "xterm-256color"},
        {"TERM": "xterm", "NO_COLOR": "1"},
        {"TERM": "dumb"},
        {"TERM": "xterm", "FORCE_COLOR": "1"},
        {"TERM": "xterm", "TTY_COMPATIBLE": "0"},
    ],
    ids=lambda environment: " ".join(f"{key}={value}" for key, value in environment.items()),
)
@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_lines_and_colours_are_those_of_rich(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], kind: type[io.StringIO]
) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    styles: tuple[Style | None, ...] = (None, "bold", "red", "green", "yellow")
    for style in styles:
        for text in TEXTS:
            out = kind()
            with monkeypatch.context() as patch:
                patch.setattr("sys.stdout", out)
                LineConsole().print(text, style=style)
            assert out.getvalue() == written_by_rich(text, style, kind()), (style, text)


def test_width_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "132")
    assert LineConsole().width == Console().width == 132
    monkeypatch.setenv("COLUMNS", "0")
    assert LineConsole().width == 80  # rich would wrap at each character


def test_errors_go_to_standard_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    LineConsole(is_error=True).print(f"{tmp_path}: no such file")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"{tmp_path}: no such file\n"


@pytest.mark.parametrize("code", ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\x00", "\x7f"], ids=ascii)
def test_a_text_from_a_stranger_does_not_steer_the_terminal(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    LineConsole().print(f"Doe{code}^Jane\tF\n1")
    written = capsys.readouterr().out
    assert written.startswith("Doe")
    assert written.endswith("^Jane\tF\n1\n")
    assert all(char.isprintable() or char in "\t\n" for char in written)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_the_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    LineConsole().print("b\udcfcrste.dcm")
    assert raw.getvalue() == b"b\\udcfcrste.dcm\n"
