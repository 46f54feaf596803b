"""The consoles of the commands: lines for people, coloured on a terminal; rich draws the bars of long commands.

rich takes a tenth of a second and more to import, which a command that prints lines need not wait for.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, Literal, TextIO

if TYPE_CHECKING:
    from rich.console import Console

Style = Literal["bold", "red", "green", "yellow"]

_CODES: Final[dict[str, str]] = {"bold": "1", "red": "31", "green": "32", "yellow": "33"}
"""ECMA-48 Select Graphic Rendition, the numbers that rich writes for these names."""
_STEERING: Final = dict.fromkeys([*(code for code in range(0x20) if chr(code) not in "\t\n"), *range(0x7F, 0xA0)])
"""The control codes of ISO/IEC 6429 (C0 and C1, escape among them) but tab and line feed: a text from a stranger, as a
patient's name, could else write over the lines before it, colour them, or set the terminal's title."""
_DEFAULT_WIDTH: Final = 80


class LineConsole:
    """Standard output or standard error, as it is at the time of each line.

    What the environment says of colours is taken as rich takes it: NO_COLOR, FORCE_COLOR, TTY_COMPATIBLE, TERM.
    """

    def __init__(self, *, is_error: bool = False) -> None:
        self._is_error = is_error

    @property
    def file(self) -> TextIO:
        return sys.stderr if self._is_error else sys.stdout

    @property
    def is_terminal(self) -> bool:
        forced = os.environ.get("FORCE_COLOR")
        compatible = os.environ.get("TTY_COMPATIBLE", "")
        if compatible in ("0", "1"):
            return compatible == "1"
        if forced is not None:
            return forced != ""
        return not self.file.closed and self.file.isatty()

    @property
    def width(self) -> int:
        """Columns of the terminal, also where the output goes into a pipe; $COLUMNS goes before it."""
        told = os.environ.get("COLUMNS", "")
        if told.isdecimal():
            return int(told) or _DEFAULT_WIDTH
        if _is_dumb():
            return _DEFAULT_WIDTH
        for descriptor in (0, 1, 2):
            try:
                return os.get_terminal_size(descriptor).columns or _DEFAULT_WIDTH
            except OSError:
                continue
        return _DEFAULT_WIDTH

    def print(self, text: str = "", *, style: Style | None = None, end: str = "\n") -> None:
        """Write a text as it is: no markup is read out of it and nothing of it is wrapped or cut."""
        text = text.translate(_STEERING)
        code = self._code(style)
        if code and text:
            text = "\n".join(f"\x1b[{code}m{line}\x1b[0m" if line else line for line in text.split("\n"))
        try:
            self.file.write(text + end)
        except UnicodeEncodeError as error:  # the name of a file that is not UTF-8, or a terminal that is not
            self.file.write((text + end).encode(error.encoding, "backslashreplace").decode(error.encoding))
        self.file.flush()

    def rich(self) -> Console:
        """The same console for what only rich draws."""
        from rich.console import Console

        # No markup and no emoji: names and errors come from strangers, and "[/b]" in one would be an error of rich's.
        return Console(stderr=self._is_error, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def _code(self, style: Style | None) -> str:
        if style is None or not self.is_terminal or _is_dumb():
            return ""
        return "" if style != "bold" and os.environ.get("NO_COLOR") else _CODES[style]


def _is_dumb() -> bool:
    """Tell whether the terminal knows no control sequences."""
    return os.environ.get("TERM", "").strip().lower() in ("dumb", "unknown")
