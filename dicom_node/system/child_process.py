"""Child processes of the node: spawned fresh, ended with their parent, told to stop by SIGTERM."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
from types import FrameType

_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when the thread that made it ends."""


def end_with_parent(parent_pid: int) -> None:
    """Make this process end when `parent_pid` is gone, however that died: an orphan would go on claiming jobs.

    Linux tells by signal. Elsewhere a thread looks once a second.
    """
    if platform.system() == "Linux":
        # SIGKILL, because a Python handler of any other signal waits for the native call in hand.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before prctl took effect
            os._exit(1)
        return
    threading.Thread(target=_watch_parent, args=(parent_pid,), name="parent-watch", daemon=True).start()


def _watch_parent(parent_pid: int) -> None:
    pause = threading.Event()
    while os.getppid() == parent_pid:
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
