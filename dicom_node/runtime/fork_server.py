"""The process from which the children of `serve` are forked, so that each need not import the same libraries again.

It is the fork server of `multiprocessing`: a fresh interpreter without threads, files or connections of the node's,
which imports what every child needs (`fork_server_main`) and then only forks, at the node's start and whenever a child
is started again. A server that was killed takes its children with it; the next child starts a new one.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver
from typing import Final

from dicom_node.system.child_process import end_with_parent

PRELOADED: Final = "dicom_node.runtime.fork_server_main"

fork_context = multiprocessing.get_context("forkserver")
"""Processes, events and shared values of children that are forked from the server."""

_server_pid: int | None = None
"""Known to the server and to what it forks."""


def start_fork_server() -> None:
    """Have the server import its libraries while the caller imports its own; do nothing where it runs already.

    To be called by the main thread: when the thread that started the server ends, the server does.
    """
    forkserver.set_forkserver_preload([PRELOADED])
    forkserver.ensure_running()


def become_server() -> None:
    """Mark this process as the one whose end ends the children."""
    global _server_pid
    _server_pid = os.getpid()


def is_server() -> bool:
    """Tell whether this process is the server itself and no child of it."""
    return _server_pid == os.getpid()


def end_with_server() -> None:
    """Make this child end when the server or the node's main process is gone, however they died.

    The server ends with the main process by a signal of the kernel, and each child with the server.
    """
    end_with_parent(_server_pid or os.getppid(), ancestor=multiprocessing.parent_process())
