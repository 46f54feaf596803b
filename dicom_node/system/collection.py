"""Garbage collection held back while a process starts: what importing makes stays, and need not be looked through."""

from __future__ import annotations

import gc


def hold_collection() -> None:
    """Collect no garbage until `resume_collection`: looking for it would take a tenth of the time of importing."""
    gc.disable()


def resume_collection() -> None:
    """Collect garbage again where it was held back, but never among the modules and classes of the start."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
