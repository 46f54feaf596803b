"""Rows of JSON on disk, read one by one by number: a data set of any size for eight bytes of memory a row."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from training.records.drops import DataError


class RowWriter:
    """Writes `path` and its offsets beside it; both get their names only when everything is written.

    The process's number is in the temporary name: two ranks on one disc do not write into each other's file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        self._offsets = [0]
        self._file: BinaryIO | None = None

    def __enter__(self) -> RowWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._partial.open("wb")
        return self

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        assert self._file is not None
        data = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self._file.write(data)
        self._offsets.append(self._offsets[-1] + len(data))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._file is not None
        self._file.close()
        if kind is not None:
            self._partial.unlink()
            return
        # The offsets first: rows without offsets do not open, and offsets beside older rows do not fit their size.
        _save_offsets(self.path, np.asarray(self._offsets, np.int64))
        self._partial.replace(self.path)


class Rows:
    """A file of rows, opened anew in each process that reads it. Raises DataError where it is missing or cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: tuple[int, int] | None = None  # (process, file descriptor): never shared over a fork
        try:
            self._offsets: NDArray[np.int64] = np.load(_offsets_path(path), mmap_mode="r")
            size = path.stat().st_size
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not a readable file of rows ({error})") from error
        if int(self._offsets[-1]) != size:
            raise DataError(f"{path.name} is cut off: {size} bytes, {int(self._offsets[-1])} were written")

    def __reduce__(self) -> tuple[type[Rows], tuple[Path]]:
        return Rows, (self.path,)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One row."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        if self._descriptor is None or self._descriptor[0] != os.getpid():
            self._descriptor = (os.getpid(), os.open(self.path, os.O_RDONLY))
        start, stop = int(self._offsets[number]), int(self._offsets[number + 1])
        # pread has no position of its own, so threads may read at the same time.
        row: dict[str, Any] = json.loads(os.pread(self._descriptor[1], stop - start, start))
        return row


def _offsets_path(path: Path) -> Path:
    return path.with_suffix(".offsets.npy")


def _save_offsets(path: Path, offsets: NDArray[np.int64]) -> None:
    temporary = path.with_suffix(f".offsets.partial-{os.getpid()}")
    with temporary.open("wb") as file:
        np.save(file, offsets)
    temporary.replace(_offsets_path(path))
