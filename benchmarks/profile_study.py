"""Where the CPU of a study goes: a node, pairs of films through it to a PACS, every process sampled 100 times a second.

    make profile-study              20 pairs; writes artefacts/profile/{table.md,flame.svg,stacks.txt}

The first half of the pairs goes through a node that nobody watches, and gives the CPU seconds of each process
(psutil). The second half is sampled by py-spy without stopping the processes, threads that wait left out, and gives
the shares. py-spy needs the right to read another process' memory: root, or `sysctl kernel.yama.ptrace_scope=0`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.bench_soak import unproven, waiting
from tests.support.common import wait_until
from tests.support.dcmtk import storescu
from tests.support.faulty_pacs import Pacs
from tests.support.faulty_pacs import running as running_pacs
from tests.support.node import Node, destination, new_node
from tests.support.node import running as running_node
from training.phantom.dicom import write_study_pair

RATE = 100
"""Samples a second."""
LONG_SIDE = 2000
"""Pixels: what a cassette of 35 × 43 cm has."""
FRAME = re.compile(r"^(?P<function>.+) \((?P<file>[^:()]+)(?::(?P<line>\d+))?\)$")
OURS = ("dicom_node", "model", "training")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The files of a patient's two studies, the earlier one first."""

    prior: Sequence[Path]
    current: Sequence[Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Samples of one room of one process."""

    process: str
    room: str
    samples: int


def write_pairs(folder: Path, count: int) -> list[Pair]:
    """Write phantom pairs of patients that differ in everything."""
    pairs = []
    for seed in range(count):
        made = write_study_pair(folder / str(seed), seed, long_side=LONG_SIDE)
        pairs.append(Pair(prior=made.prior.files, current=made.current.files))
    return pairs


@contextmanager
def site(folder: Path, model: str) -> Iterator[Node]:
    """Run a node of the given model beside a PACS that commits to what it gets."""
    with running_pacs(Pacs()) as pacs:
        extra = f'[model]\nsource = "{model}"\n[receive]\nmin_free_mib = 0\n'
        node = new_node(
            folder, destinations=destination("pacs", "FAULTY", pacs.port, "commitment"), quiet_seconds=1, extra=extra
        )
        node.is_forked = False
        with running_node(node):
            yield node


def pass_through(node: Node, batches: Sequence[Sequence[Path]]) -> None:
    """Send each study and wait until all are analysed and every report is proven."""
    for files in batches:
        storescu(files, node.port)
    wait_until(lambda: waiting(node) == 0 and unproven(node) == 0, seconds=1200, what="results and their proofs")


def processes_of(node: Node) -> list[int]:
    """Number each process of the node, its own first."""
    assert node.process is not None
    main = psutil.Process(node.process.pid)
    return [main.pid, *(child.pid for child in main.children(recursive=True))]


def cpu_seconds(pids: Sequence[int]) -> dict[int, float]:
    """Read user and system time of each process that still lives."""
    spent = {}
    for pid in pids:
        if psutil.pid_exists(pid):
            times = psutil.Process(pid).cpu_times()
            spent[pid] = times.user + times.system
    return spent


@contextmanager
def sampled(pid: int, output: Path, form: str) -> Iterator[None]:
    """Let py-spy sample a process and its children until the block ends."""
    command = [shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(pid)]
    command += ["--subprocesses", "--nonblocking", "--rate", str(RATE), "--format", form, "--output", str(output)]
    recorder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield
    finally:
        recorder.send_signal(signal.SIGINT)
        said, _ = recorder.communicate(timeout=120)
    if not output.is_file():
        raise SystemExit(f"py-spy wrote nothing (it needs root, or kernel.yama.ptrace_scope=0):\n{said}")


def our_rooms(frames: Sequence[str]) -> list[str]:
    """Name the room of each frame that is our code, from the root of the stack to its leaf."""
    rooms = []
    for frame in frames:
        found = FRAME.match(frame)
        parts = Path(found["file"]).with_suffix("").parts if found is not None else ()
        top = next((name for name in OURS if name in parts and "site-packages" not in parts), None)
        if top is not None:
            rooms.append(".".join(parts[parts.index(top) :][:3]))
    return rooms


def shares_of(stacks: str) -> tuple[list[Share], dict[int, str]]:
    """Count samples by process and room, and name the processes.

    stacks: lines "frame;frame;… count"; the last frame of the kind `process 123:"command"` says whose the sample is. A
    process has the name of the room that its stacks most often begin in, a sample that of our code nearest its leaf.
    """
    counted: Counter[tuple[int, str]] = Counter()
    begun: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        start = max((n for n, frame in enumerate(frames) if frame.startswith("process ")), default=0)
        pid = int(frames[start].split()[1].partition(":")[0])
        rooms = our_rooms(frames[start + 1 :]) or ["libraries and start"]
        counted[pid, rooms[-1]] += int(count)
        begun[pid][rooms[0]] += int(count)
    names = {pid: rooms.most_common(1)[0][0] for pid, rooms in begun.items()}
    merged: Counter[tuple[str, str]] = Counter()
    for (pid, room), samples in counted.items():
        merged[names[pid], room] += samples
    return [Share(process=process, room=room, samples=n) for (process, room), n in merged.most_common()], names


def table(shares: Sequence[Share], spent: dict[str, float], pairs: int) -> str:
    """Write the tables as Markdown. spent: CPU seconds by process, unwatched, of as many pairs."""
    whole = sum(spent.values())
    lines = [
        f"CPU seconds a pair, unwatched: **{whole / pairs:.2f}** ({pairs} pairs, load {os.getloadavg()[0]:.1f})",
        "",
    ]
    lines += ["| process | CPU seconds a pair |", "| --- | --- |"]
    lines += [
        f"| {name} | {seconds / pairs:.3f} |" for name, seconds in sorted(spent.items(), key=lambda item: -item[1])
    ]
    total = sum(share.samples for share in shares) or 1
    lines += ["", "| process | room | share of samples |", "| --- | --- | --- |"]
    for share in shares:
        if share.samples / total >= 0.005:
            lines.append(f"| {share.process} | {share.room} | {100 * share.samples / total:.1f} % |")
    return "\n".join(lines) + "\n"


def profile(folder: Path, out: Path, *, pairs: int, model: str) -> str:
    """Run it and write the three files; returns the table."""
    made = write_pairs(folder / "films", pairs)
    quiet, watched = made[: pairs // 2], made[pairs // 2 :]
    out.mkdir(parents=True, exist_ok=True)
    with site(folder / "node", model) as node:
        pass_through(node, [pair.prior for pair in made])
        pids = processes_of(node)
        before = cpu_seconds(pids)
        pass_through(node, [pair.current for pair in quiet])
        after = cpu_seconds(pids)
        assert node.process is not None
        pid = node.process.pid
        with sampled(pid, out / "stacks.txt", "raw"), sampled(pid, out / "flame.svg", "flamegraph"):
            pass_through(node, [pair.current for pair in watched])
    shares, names = shares_of((out / "stacks.txt").read_text("utf-8"))
    spent: defaultdict[str, float] = defaultdict(float)
    for pid, seconds in after.items():
        spent[names.get(pid, "others")] += seconds - before[pid]
    said = table(shares, dict(spent), len(quiet))
    (out / "table.md").write_text(said, "utf-8")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of a study by function.")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of films; half of them are sampled (default 20)")
    parser.add_argument("--model", default="demo", help="a source as in [model] (default demo)")
    parser.add_argument("--out", type=Path, default=Path("artefacts/profile"), help="folder of table.md and flame.svg")
    asked = parser.parse_args()
    if asked.pairs < 2:
        parser.error("--pairs: at least 2, one that is measured and one that is sampled")
    with tempfile.TemporaryDirectory() as folder:
        print(profile(Path(folder), asked.out, pairs=asked.pairs, model=asked.model))
    print(f"flame graph: {asked.out / 'flame.svg'}")


if __name__ == "__main__":
    main()
