"""The fork server of `serve`: small and without threads, and whoever is killed, no child is left alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from dicom_node.system.child_process import is_running
from tests.support.common import listening, wait_until
from tests.support.node import Node, new_node, running

_LOOK = """
import dicom_node.runtime.fork_server_main
import gc, json, os, sys
print(json.dumps([len(os.listdir("/proc/self/task")), gc.get_freeze_count(), sorted(sys.modules)]))
"""
MAX_MODULES = 800
UNUSED = (
    "apscheduler",
    "dicomweb_client",
    "requests",
    "dicom_node.serving",
    "highdicom",
    "jinja2",
    "starlette",
    "torch",
    "typer",
)


def test_the_server_has_imported_what_a_receiver_needs_and_has_no_thread() -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "8"}
    done = subprocess.run([sys.executable, "-c", _LOOK], check=True, capture_output=True, text=True, env=environment)
    threads, frozen, names = json.loads(done.stdout)
    modules = set(names)
    assert threads == 1, "a lock that a thread holds at a fork is held in the child for ever"
    assert frozen > 0
    assert {"dicom_node.receive.receiver", "pydicom", "pynetdicom"} <= modules
    assert modules.isdisjoint(UNUSED)
    assert len(modules) <= MAX_MODULES


def test_children_come_back_when_the_server_is_killed_and_none_outlives_the_node(tmp_path: Path) -> None:
    with running(new_node(tmp_path)) as node:
        first = _started(node)
        server = _parent(first["receive-0"])
        assert _parent(first["work"]) == server
        for name, pid in first.items():
            assert Path(f"/proc/{pid}/comm").read_text("ascii").strip() == name, "what top and ps show"
        os.kill(server, signal.SIGTERM)  # as to a whole group of processes: the main process ends the children, not it
        os.kill(server, signal.SIGKILL)
        wait_until(
            lambda: _started(node).keys() == first.keys() and _all_new(node, first), seconds=120, what="children"
        )
        assert not any(map(is_running, first.values()))
        wait_until(lambda: listening(node.port), seconds=120, what="the new receiver to listen")
        second = _started(node)
        _remove_socket(_parent(second["receive-0"]))  # as what clears old temporary files does
        os.kill(second["receive-0"], signal.SIGKILL)
        wait_until(
            lambda: _started(node)["receive-0"] != second["receive-0"] and listening(node.port),
            seconds=120,
            what="a receiver without the server",
        )
        assert _started(node)["work"] == second["work"]
        node.kill()  # waits until no descendant is left
        assert not any(map(is_running, _started(node).values()))


def _remove_socket(server: int) -> None:
    opened = {str(entry.readlink()) for entry in Path(f"/proc/{server}/fd").iterdir() if entry.is_symlink()}
    sockets = [line.split() for line in Path("/proc/net/unix").read_text("utf-8").splitlines()[1:]]
    (path,) = {row[7] for row in sockets if len(row) == 8 and f"socket:[{row[6]}]" in opened}
    Path(path).unlink()


def _all_new(node: Node, first: dict[str, int]) -> bool:
    return all(pid != first[name] for name, pid in _started(node).items())


def _started(node: Node) -> dict[str, int]:
    """The process id that each child told last."""
    return {name: int(pid) for name, pid in re.findall(r'"process started" child=(\S+) pid=(\d+)', node.log)}


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[1])
