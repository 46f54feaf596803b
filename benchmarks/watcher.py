"""Memory, open files and bytes on the disk of every process of a node, sampled once a second, and their trend."""

from __future__ import annotations

import os
import re
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.node import Node

SAMPLE_SECONDS = 1.0
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at one thing: seconds since the start, resident bytes (or bytes on disk), open files."""

    at: float
    size: int
    files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """The course of the samples after the warm-up. rise: of the fitted line over that time; in MiB and files."""

    name: str
    median: float
    greatest: float
    rise: float
    files: float
    files_rise: float
    samples: int


class Watcher:
    """Samples the node's processes and its data folder in a thread of its own."""

    def __init__(self, node: Node) -> None:
        assert node.process is not None
        self._main = psutil.Process(node.process.pid)
        self._node = node
        self._names: dict[int, str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher")
        self.samples: dict[str, list[Sample]] = {}

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(SAMPLE_SECONDS):
            at = time.monotonic() - began
            for name, size, files in self._processes():
                self.samples.setdefault(name, []).append(Sample(at=at, size=size, files=files))
            for folder in ("instances", "documents"):
                size = folder_bytes(self._node.folder / "data" / folder)
                self.samples.setdefault(f"disk: {folder}", []).append(Sample(at=at, size=size))
            index = sum(path.stat().st_size for path in (self._node.folder / "data").glob("index.db*"))
            self.samples.setdefault("disk: index", []).append(Sample(at=at, size=index))

    def _processes(self) -> Iterator[tuple[str, int, int]]:
        """Each process of the node by its name; those of one name together."""
        sizes: dict[str, tuple[int, int]] = {}
        for process in (self._main, *self._main.children(recursive=True)):
            try:
                name = self._name(process)
                size, files = sizes.get(name, (0, 0))
                sizes[name] = size + process.memory_info().rss, files + process.num_fds()
            except psutil.Error:
                continue  # it ended between two looks
        for name, (size, files) in sizes.items():
            yield name, size, files

    def _name(self, process: psutil.Process) -> str:
        if process.pid not in self._names:
            self._names[process.pid] = self._find_name(process)
        return self._names[process.pid]

    def _find_name(self, process: psutil.Process) -> str:
        """The children of the main process name themselves in the log; theirs go by what they run."""
        if process.pid == self._main.pid:
            return "main (sweeps, pages)"
        for line in self._node.log.splitlines():
            if "process started" in line and re.search(rf"\bpid={process.pid}\b", line):
                found = re.search(r"\bchild=(\S+)", line)
                return found[1] if found else "?"
        command = " ".join(process.cmdline())
        if "resource_tracker" in command:
            return "resource trackers"
        if "sandbox_main" in command:
            return "decoder"
        return "model" if "spawn_main" in command else "fork server"


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below a folder that others write to and delete from meanwhile."""
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(here, name).stat().st_size
            except FileNotFoundError:
                continue
    return total


def trend(name: str, samples: Sequence[Sample], warm_up: float) -> Trend | None:
    """The fitted line of what lies after the warm-up; None where there is too little to judge."""
    kept = [sample for sample in samples if sample.at >= warm_up]
    if len(kept) < 10:
        return None
    times, sizes = [s.at for s in kept], [s.size / MIB for s in kept]
    files = [float(s.files) for s in kept]
    span = times[-1] - times[0]
    return Trend(
        name=name,
        median=statistics.median(sizes),
        greatest=max(sizes),
        rise=statistics.linear_regression(times, sizes).slope * span,
        files=statistics.median(files),
        files_rise=statistics.linear_regression(times, files).slope * span,
        samples=len(kept),
    )
