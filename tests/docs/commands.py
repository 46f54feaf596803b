"""The commands that README and docs print: blocks of shell lines, each with the mark that stands above it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.common import REPOSITORY

MARK = re.compile(r"<!-- (needs|tested): (.+) -->")
PAGES = (
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted(
        path
        for path in (REPOSITORY / "docs").rglob("*.md")
        if "adr" not in path.parts and path.name != "command-line.md"  # decisions are history, the other is generated
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block of shell commands. marker: "needs", "tested" or "" for none; words: what the mark says."""

    page: Path
    line: int
    marker: str
    words: str
    commands: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The shell blocks of a page, in order. A mark stands on the line above its block."""
    lines = page.read_text("utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if start is None and line.strip() == "```sh":
            start = number
        elif start is not None and line.strip() == "```":
            mark = MARK.fullmatch(lines[start - 1].strip()) if start else None
            marker, words = (mark[1], mark[2]) if mark else ("", "")
            commands = tuple(commands_of(lines[start + 1 : number]))
            yield Block(page=page, line=start + 1, marker=marker, words=words, commands=commands)
            start = None


def commands_of(lines: list[str]) -> Iterator[str]:
    """Whole commands: continued lines joined, comments and what stands around a command taken away."""
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    for line in joined.splitlines():
        bare = re.sub(r"(?:^|\s+)#.*$", "", line).strip()
        if bare:
            yield bare
