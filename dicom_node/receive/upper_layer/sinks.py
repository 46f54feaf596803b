"""Where small data sets go while they arrive: query identifiers, action and event information."""

from __future__ import annotations

from typing import Final

from dicom_node.receive.upper_layer.pdu import ProtocolError

MAX_MEMORY_BYTES: Final = 1 << 20
"""A commitment request for some 8000 instances fits; an identifier has a few hundred bytes."""


class MemorySink:
    """Keeps a data set in memory, up to a cap."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: memoryview) -> None:
        if len(self.data) + len(data) > MAX_MEMORY_BYTES:
            raise ProtocolError(f"an identifier above {MAX_MEMORY_BYTES} bytes")
        self.data += data

    def discard(self) -> None:
        self.data = bytearray()
