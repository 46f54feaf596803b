"""A connection that has no association yet, and how far it is."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from enum import Enum, auto

from dicom_node.receive.upper_layer.pdu import HEADER_BYTES


class ConnectionStage(Enum):
    """The stage of a connection that has no association yet (PS3.8 section 9.2)."""

    HANDSHAKE = auto()
    """TLS is being agreed on."""
    REQUEST = auto()
    """Sta2: its A-ASSOCIATE-RQ is not whole."""
    AWAIT_CLOSE = auto()
    """Sta13: refused; the peer may read why, and closes."""


@dataclass(slots=True, eq=False)
class PendingConnection:
    """One connection that has no association yet."""

    connection: socket.socket
    address: str
    is_tls: bool
    deadline: float
    stage: ConnectionStage
    received: bytearray = field(default_factory=bytearray)

    @property
    def missing(self) -> int:
        """The number of bytes the request still needs, as far as that is known."""
        if len(self.received) < HEADER_BYTES:
            return HEADER_BYTES - len(self.received)
        return HEADER_BYTES + int.from_bytes(self.received[2:6], "big") - len(self.received)
