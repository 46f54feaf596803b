"""The process from which the children of `serve` are forked, so that each need not import the same libraries again.

It is the fork server of `multiprocessing`: a fresh interpreter without threads, files or connections of the node's,
which imports what every child needs (`fork_server_main`) and then only forks, at the node's start and whenever a child
is started again. A server that was killed takes its children with it; the next child starts a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any, Final

from dicom_node.system.child_process import end_with_parent

PRELOADED: Final = "dicom_node.runtime.fork_server_main"

fork_context = multiprocessing.get_context("forkserver")
"""Processes, events and shared values of children that are forked from the server."""
_spawn_context = multiprocessing.get_context("spawn")

_server_pid: int | None = None
"""Known to the server and to what it forks."""


def start_fork_server() -> None:
    """Have the server import its libraries while the caller imports its own; do nothing where it runs already.

    To be called by the main thread: when the thread that started the server ends, the server does.
    """
    forkserver.set_forkserver_preload([PRELOADED])
    with suppress(OSError):  # no folder for temporary files: the start of each child tells of it, and does without
        forkserver.ensure_running()


def start_process(target: Callable[..., None], args: tuple[Any, ...], name: str) -> BaseProcess:
    """Start a child, forked from the server; as a fresh interpreter where the server cannot be reached.

    The server listens at a socket in the folder of temporary files, which may be cleared after some days while the
    server and its children live on.

    Raises
    ------
    OSError
        Descriptors, memory or process ids have run out, or the server cannot be reached by a thread. A fresh
        interpreter would end with that thread, so the main thread must try again.
    EOFError
        The server was killed meanwhile.
    """
    from dicom_node.logs import get_logger  # the command line starts the server before it imports more than this

    forked = fork_context.Process(target=target, args=args, name=name)
    try:
        forked.start()
    except OSError as error:
        if threading.current_thread() is not threading.main_thread():
            raise
        get_logger(__name__).warning(
            "the fork server cannot be reached: starting an interpreter", child=name, why=error.strerror
        )
    else:
        return forked
    spawned = _spawn_context.Process(target=target, args=args, name=name)
    spawned.start()
    return spawned


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
