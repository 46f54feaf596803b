"""A DIMSE message that is being put together from its fragments, with its caps (PS3.7 section 6.3)."""

from __future__ import annotations

import time

from dicom_node.config import ReceiveSection
from dicom_node.receive.upper_layer.dimse import MAX_COMMAND_BYTES, Command, decode_command
from dicom_node.receive.upper_layer.pdu import DeadlineError, Fragment, ProtocolError
from dicom_node.receive.upper_layer.services import DataSink


class IncomingMessage:
    """The message that is being put together, with its caps."""

    def __init__(self, limits: ReceiveSection) -> None:
        self._limits = limits
        self._command_bytes = bytearray()
        self._command: Command | None = None
        self._context_id = 0
        self._sink: DataSink | None = None
        self._began_at = 0.0
        self._received = 0

    @property
    def is_in_progress(self) -> bool:
        """Tell whether a message has begun and is not whole."""
        return self._began_at > 0.0

    def add_command(self, fragment: Fragment) -> Command | None:
        """Add a fragment; return the command once it is whole. Raises ProtocolError, DeadlineError."""
        if self._sink is not None:
            raise ProtocolError("a new command before the data set of the last one was whole")
        self._count(fragment)
        # A command set is some hundred bytes; without a cap it would be a way to fill the memory.
        if len(self._command_bytes) + len(fragment.data) > MAX_COMMAND_BYTES:
            raise ProtocolError("a command set above 64 KiB")
        self._command_bytes += fragment.data
        return decode_command(self._command_bytes) if fragment.is_last else None

    def expect_data_set(self, command: Command, context_id: int, sink: DataSink) -> None:
        self._command, self._context_id, self._sink = command, context_id, sink

    def add_data(self, fragment: Fragment) -> bool:
        """Add a fragment; return whether the data set is whole. Raises ProtocolError, DeadlineError."""
        if self._sink is None:
            raise ProtocolError("a data set without a command")
        if fragment.context_id != self._context_id:
            raise ProtocolError("a data set in another presentation context than its command")
        self._count(fragment)
        self._sink.write(fragment.data)
        return fragment.is_last

    def take(self) -> tuple[Command, DataSink]:
        """The whole message; the next one may begin."""
        assert self._command is not None
        assert self._sink is not None
        # From here on the sink is the handler's: `discard` at the association's end must not find it again.
        command, sink = self._command, self._sink
        self._sink = None
        self.reset()
        return command, sink

    def reset(self) -> None:
        self._command_bytes = bytearray()
        self._command = None
        self._began_at, self._received = 0.0, 0

    def discard(self) -> None:
        """Drop a half-received data set."""
        if self._sink is not None:
            self._sink.discard()
            self._sink = None

    def _count(self, fragment: Fragment) -> None:
        """Cut off a peer that drips: after a first grace the whole message must keep up a least speed."""
        now = time.monotonic()
        self._began_at = self._began_at or now
        self._received += len(fragment.data)
        seconds = now - self._began_at - self._limits.dimse_seconds
        if seconds > 0 and self._received < seconds * self._limits.min_bytes_per_second:
            raise DeadlineError("a message comes too slowly")
