"""Where small data sets go while they arrive: query identifiers, action and event information."""

from __future__ import annotations

from typing import Final

from dicom_node.receive.upper_layer.pdu import ProtocolError

MAX_MEMORY_BYTES: Final = 1 << 20
"""A commitment request for some 8000 instances fits; an identifier has a few hundred bytes."""


MAX_PASSED_OVER_BYTES: Final = 32 << 20
"""A commitment request for 100,000 instances has some 14 MiB: it is heard to its end, so that it can be answered."""


class MemorySink:
    """Keeps a data set in memory, up to a cap.

    max_bytes: of the whole data set. What is above MAX_MEMORY_BYTES is not kept; `is_cut` tells.
    """

    def __init__(self, *, max_bytes: int = MAX_MEMORY_BYTES) -> None:
        self.data = bytearray()
        self.is_cut = False
        self._max_bytes = max_bytes
        self._size = 0

    def write(self, data: memoryview) -> None:
        self._size += len(data)
        if self._size > self._max_bytes:
            raise ProtocolError(f"an identifier above {self._max_bytes} bytes")
        if self._size > MAX_MEMORY_BYTES:
            self.is_cut = True
            self.data = bytearray()
        else:
            self.data += data

    def discard(self) -> None:
        self.data = bytearray()
