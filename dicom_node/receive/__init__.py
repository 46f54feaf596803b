"""The receiver: C-ECHO, C-STORE, storage commitment and C-FIND as SCP, hardened against strangers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicom_node.receive.receiver import Receiver, run_receiver

__all__ = ["Receiver", "run_receiver"]


def __getattr__(name: str) -> Any:
    """Import the receiver where it is asked for: other modules of this room are used without it (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dicom_node.receive import receiver

    return getattr(receiver, name)
