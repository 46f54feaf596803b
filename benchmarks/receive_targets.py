"""The receivers that `bench_receive.py` measures: this node, DCMTK storescp and Orthanc, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from dicom_node.admin.formats import amount
from tests.support.common import free_port, listening, wait_until

ROOT = Path(__file__).resolve().parent.parent
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running receiver."""

    name: str
    port: int
    ae_title: str
    processes: tuple[int, ...]
    """Process ids; their children count as they do."""

    def cpu_seconds(self) -> float:
        """The processor time of its processes so far, of children that ended too."""
        roots = [psutil.Process(number) for number in self.processes]
        living = {process for root in roots for process in (root, *root.children(recursive=True))}
        return sum(sum(process.cpu_times()[:4]) for process in living)


Start = Callable[[Path, str], AbstractContextManager[Target]]
"""Starts a target of this name in a working folder."""


def all_targets(beside: Path | None) -> dict[str, Start]:
    """Names of the targets and how each is started."""
    starts: dict[str, Start] = {
        f"node, {amount(count, 'process', 'processes')}": partial(node, processes=count) for count in (1, 2)
    }
    if beside is not None:
        starts |= {
            f"old, {amount(count, 'process', 'processes')}": partial(node, processes=count, tree=beside)
            for count in (1, 2)
        }
    starts["storescp --fork"] = storescp
    if shutil.which("cc"):
        starts["storescp, fsync"] = partial(storescp, syncs=True)
    return {**starts, "Orthanc": orthanc}


@contextmanager
def node(work: Path, name: str, *, processes: int, tree: Path = ROOT) -> Iterator[Target]:
    """The receiver of a checkout as separate processes on one port."""
    folder = work / name.replace(" ", "")
    folder.mkdir()
    port = free_port()
    config = folder / "config.toml"
    config.write_text(
        f'[node]\nae_title = "NODE"\nhost = "127.0.0.1"\nport = {port}\nreceivers = {processes}\n'
        "[receive]\nmin_free_mib = 0\n",
        "utf-8",
    )
    command = [sys.executable, "-m", "dicom_node.receive", str(config)]
    log = (folder / "log").open("w")
    started = []
    for _ in range(processes):
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        started.append(subprocess.Popen(command, stderr=log, stdout=log, cwd=folder, env=environment))
        wait_for(port)
        time.sleep(1.0)  # the second process listens on the same port: nothing to wait for from outside
    yield from until_closed(started, name, port, "NODE")


@contextmanager
def storescp(work: Path, name: str, *, syncs: bool = False) -> Iterator[Target]:
    """DCMTK's receiver, a process per association; no index. syncs: with an fsync of each file."""
    folder = work / name.replace(" ", "")
    folder.mkdir()
    port = free_port()
    command = [program("storescp"), "--fork", "-aet", "STORESCP", "-od", str(folder), "+xa", str(port)]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    if syncs:
        environment["LD_PRELOAD"] = str(library_that_syncs(work))
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    wait_for(port)
    yield from until_closed([process], name, port, "STORESCP")


def library_that_syncs(work: Path) -> Path:
    """Compile a library in whose presence fclose syncs a file that was written."""
    source, library = work / "sync.c", work / "sync.so"
    source.write_text(
        "#define _GNU_SOURCE\n#include <stdio.h>\n#include <dlfcn.h>\n#include <unistd.h>\n#include <fcntl.h>\n"
        "int fclose(FILE *file) {\n"
        '    int (*close_file)(FILE *) = (int (*)(FILE *))dlsym(RTLD_NEXT, "fclose");\n'
        "    if ((fcntl(fileno(file), F_GETFL) & O_ACCMODE) != O_RDONLY) { fflush(file); fsync(fileno(file)); }\n"
        "    return close_file(file);\n}\n",
        "utf-8",
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    return library


@contextmanager
def orthanc(work: Path, name: str) -> Iterator[Target]:
    """Orthanc as Debian ships it, with its SQLite index."""
    folder = work / name
    folder.mkdir()
    port = free_port()
    settings = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "DicomPort": port,
        "HttpServerEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": False,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), "utf-8")
    command = [program("Orthanc"), str(folder / "orthanc.json")]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(port)
    yield from until_closed([process], name, port, "ORTHANC")


def until_closed(processes: list[subprocess.Popen[bytes]], name: str, port: int, ae_title: str) -> Iterator[Target]:
    try:
        numbers = tuple(process.pid for process in processes)
        yield Target(name=name, port=port, ae_title=ae_title, processes=numbers)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def program(name: str) -> str:
    found = shutil.which(name, path=SEARCH)
    if found is None:
        raise SystemExit(f"{name} is not installed: scripts/install_test_tools.sh installs it")
    return found


def wait_for(port: int) -> None:
    wait_until(lambda: listening(port), what=f"somebody to listen on port {port}", closely=True)
