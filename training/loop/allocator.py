"""Freed memory stays with the process: what a large tensor's block costs on a CPU is mostly its first touch.

glibc gives every block above 32 MiB back to the kernel when it is freed, and the next one of that size is mapped anew
and zeroed page by page. A GELU over 12.6 million float32 then took 26 ms instead of 8 (one core, virtual machine), a
training step of the demonstration model 1.8 s instead of 0.9. The price: a process keeps its peak memory.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # mallopt(3), malloc.h
_TRIM_BYTES = 2**31 - 1
_TOP_PAD_BYTES = 256 * 2**20


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed; True where it took the advice, False on another C library."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _TRIM_BYTES), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return all(bool(mallopt(name, value)) for name, value in settings)
