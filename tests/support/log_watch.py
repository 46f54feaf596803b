"""Keeps every line that our code logs in this test session, here and in its children, and looks for patients in them.

In this process our own logging is set up as a node sets it up, into a file of the session. Children write their logs
below the session's temporary folder. At the end the names, ids, birth dates and accession numbers of all patients that
any index of the session has known, and those of the fixtures, are looked for in all of it.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, SupportsIndex

import structlog

from dicom_node import logs
from dicom_node.config import LoggingSection

OWN_FILE = "own-log.txt"
_OURS = re.compile(rb"^(timestamp=\S+ level=|\{.*\"event\": )")
"""The beginning of a line of a configured node; the logs of Orthanc, DCMTK and PostgreSQL are not checked."""
_IN_OURS = (b"timestamp=", b'"event": ')
"""A file without either of these has no line of ours."""
_PART = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")
_BETWEEN_PARTS = bytes(byte if byte in _PART else ord(" ") for byte in range(256))
"""Makes everything a space that is no part of a line or a word."""
_FIXTURES = ("PID-77120", "Marchetti", "Ottavia", "ACC-55019", "Doe^Jane", "Example^Erika", "Phantom^Number", "SOAK-1")
SHORTEST = 5
"""Shorter words ("P1", "A1") stand in any log by chance."""
SHORTEST_NUMBER = 7
"""Shorter numbers are ports and process ids as well."""
_NO_NAMES = {"Number", "Patient", "Phantom", "Study", "Chest", "Anonymous", "Unknown", "Example"}
"""Parts of made-up names that a line may say by itself."""


class _KeptHandlers(list[logging.Handler]):
    """The root logger's handlers; the session's one cannot be taken: commands under test set up logging anew."""

    def __init__(self, handlers: Iterable[logging.Handler], kept: logging.Handler) -> None:
        super().__init__([*handlers, kept])
        self._kept = kept

    def __setitem__(self, key: SupportsIndex | slice, value: Any) -> None:
        super().__setitem__(key, value)
        if self._kept not in self:
            self.append(self._kept)


class LogWatch:
    """The log of one test session; `folder` is the session's temporary folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / OWN_FILE).open("a", encoding="utf-8", errors="backslashreplace")
        self._handler: logging.Handler | None = None

    def ensure(self) -> None:
        """Set logging up as a node does; again where a test has undone it."""
        root = logging.getLogger()
        is_ours = structlog.get_config()["logger_factory"] is logs._stdlib_logger
        if is_ours and self._handler in root.handlers and root.level <= logging.INFO:
            return
        others = [handler for handler in root.handlers if handler is not self._handler]
        root.handlers = []
        logs.configure(LoggingSection(level="info"), stream=self._file)
        logging.captureWarnings(False)  # pytest has its own way with warnings
        self._handler = root.handlers[0]
        root.handlers = _KeptHandlers(others, self._handler)

    def close(self) -> None:
        self._file.close()

    def lines(self, suspects: Callable[[bytes], bool] = bool) -> Iterator[tuple[Path, bytes]]:
        """Every line of ours, with the file that it stands in; only of the files of which `suspects` is true."""
        for path in sorted(self._folder.rglob("*")):
            if path.suffix in ("", ".log", ".txt") and path.is_file() and path.stat().st_size < 200 << 20:
                text = path.read_bytes()
                if any(sign in text for sign in _IN_OURS) and suspects(text):
                    for line in text.split(b"\n"):
                        if _OURS.match(line):
                            yield path, line

    def words(self) -> set[str]:
        """Words that identify a patient of this session."""
        found = set(_FIXTURES)
        for path in self._folder.rglob("*.db"):
            found |= patients_of(path)
        return found


def patients_of(index: Path) -> set[str]:
    """Names, ids, birth dates and accession numbers in an index file; nothing where it is none."""
    try:
        with sqlite3.connect(f"file:{index}?mode=ro", uri=True, timeout=30) as connection:
            rows = connection.execute(
                "SELECT patient_name, patient_id, patient_birth_date, accession_number FROM study"
            ).fetchall()
        connection.close()
    except sqlite3.Error:
        return set()
    words: set[str] = set()
    for name, *others in rows:
        words |= {name.split("=")[0].strip("^ "), *(str(other) for other in others)}
        words |= set(re.split(r"[\^= ]+", name)) - _NO_NAMES
    return {word for word in words if tells(word)}


def tells(word: str) -> bool:
    """Tell whether the word alone identifies a patient."""
    return len(word) >= (SHORTEST_NUMBER if word.isdigit() else SHORTEST)


class WordSearch:
    """Looks for words that stand by themselves: with neither a letter, a digit nor a dot beside them.

    A session has many thousand lines and thousands of words. Where a word stands by itself, each of its parts is a part
    of the line too, so looking a line's parts up among the words' longest ones leaves few words to search it for.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words: defaultdict[bytes, list[bytes]] = defaultdict(list)
        """By the longest part; those without any by the empty one."""
        for word in (word.encode() for word in words if tells(word)):
            self._words[max(_parts(word), key=len, default=b"")].append(word)
        self._patterns: dict[bytes, re.Pattern[bytes]] = {}

    def suspects(self, text: bytes) -> bool:
        """Tell whether one of the words may stand in a text, by a quick look."""
        return b"" in self._words or not self._words.keys().isdisjoint(_parts(text))

    def finds(self, line: bytes) -> bool:
        """Tell whether one of the words stands in a line."""
        return any(self._pattern(part).search(line) for part in self._words.keys() & [*_parts(line), b""])

    def _pattern(self, part: bytes) -> re.Pattern[bytes]:
        """Matches of the words with this longest part; few of them are ever looked for."""
        if part not in self._patterns:
            self._patterns[part] = _by_themselves(self._words[part])
        return self._patterns[part]


def leaks(lines: Iterable[tuple[Path, bytes]], search: WordSearch) -> list[str]:
    """The lines in which one of the words stands by itself, with the file's name."""
    return [f"{path.name}: {line[:400].decode(errors='replace')}" for path, line in lines if search.finds(line)]


def _parts(text: bytes) -> list[bytes]:
    """The runs of ASCII letters, digits, underscores and dots."""
    return text.translate(_BETWEEN_PARTS).split()


def _by_themselves(words: Iterable[bytes]) -> re.Pattern[bytes]:
    """Any of the words with neither a letter, a digit nor a dot beside it."""
    return re.compile(rb"(?<![\w.])(?:" + b"|".join(map(re.escape, sorted(words))) + rb")(?![\w.])")
