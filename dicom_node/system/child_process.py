"""Child processes of the node: ended with their parent, told to stop by SIGTERM."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when the thread that made it ends."""


def name_process(name: str) -> None:
    """Show this name, of at most 15 characters, for the process in `ps` and `top`, on Linux."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name[:15], "ascii")


def end_with_parent(parent_pid: int, *, ancestor: BaseProcess | None = None) -> None:
    """Make this process end when `parent_pid` is gone, however that died: an orphan would go on claiming jobs.

    Linux tells by signal. Elsewhere a thread looks once a second.

    Parameters
    ----------
    parent_pid
        The process that made this one.
    ancestor
        The process for which that one made it, and with which it ends on Linux; looked at as well.
    """
    if platform.system() == "Linux":
        # SIGKILL, because a Python handler of any other signal waits for the native call in hand.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if not _has_parents(parent_pid, ancestor):  # one died before prctl took effect
            os._exit(1)
        return
    threading.Thread(target=_watch_parents, args=(parent_pid, ancestor), name="parent-watch", daemon=True).start()


def _has_parents(parent_pid: int, ancestor: BaseProcess | None) -> bool:
    return os.getppid() == parent_pid and (ancestor is None or ancestor.is_alive())


def _watch_parents(parent_pid: int, ancestor: BaseProcess | None) -> None:
    pause = threading.Event()
    while _has_parents(parent_pid, ancestor):
        pause.wait(1.0)
    os._exit(1)


def stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` at SIGTERM and SIGINT. Main thread only. A second signal ends the process at once."""

    def _stop(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)


def is_running(pid: int) -> bool:
    """Tell whether a process with this id exists on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
