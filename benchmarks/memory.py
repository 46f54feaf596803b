"""Peak memory of a process."""

from __future__ import annotations

from pathlib import Path


def own_peak_bytes() -> int:
    """Largest resident size of this process since its program began (VmHWM of proc(5)), bytes.

    Not `ru_maxrss`: that one keeps what the parent held when it forked, and a test runner may hold gigabytes.
    """
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM: not a Linux kernel?")
