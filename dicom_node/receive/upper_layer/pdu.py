"""PDUs on a socket (PS3.8 section 9.3): read under caps and deadlines, P-DATA taken apart and put together."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from dicom_node.receive.upper_layer.access_rules import Rejection

HEADER_BYTES: Final = 6
BUFFERED_PDUS: Final = 4
"""Room in a stream's buffer, in PDUs of the largest size: a peer that is fast fills it with one recv."""
LINGER_SECONDS: Final = 2.0
"""After our last PDU the peer gets so long to close first (ARTIM of PS3.8 section 9.1.5)."""
_PDV_HEADER_BYTES: Final = 6
_CONTROL_BYTES: Final = 4
"""Length of A-RELEASE-RQ/RP and A-ABORT bodies."""


class PduType(IntEnum):
    """PS3.8 tables 9-11 to 9-26."""

    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    P_DATA = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07


class AbortReason(IntEnum):
    """PS3.8 table 9-26, for aborts by the service provider."""

    NOT_SPECIFIED = 0
    UNRECOGNISED_PDU = 1
    UNEXPECTED_PDU = 2
    INVALID_PARAMETER = 6


class PeerGoneError(Exception):
    """The peer closed or reset the connection."""


class DeadlineError(Exception):
    """The peer did not send or take bytes in time. The message says which deadline."""


class ProtocolError(Exception):
    """The peer broke the protocol or a cap of ours; the association is aborted."""

    def __init__(self, message: str, reason: AbortReason = AbortReason.INVALID_PARAMETER) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """One presentation data value: a piece of a command or of a data set."""

    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview
    """Valid only until the next PDU is read."""


class PeerStream:
    """The connection of one association. Not for several threads, `interrupt` excepted."""

    def __init__(self, connection: socket.socket, *, max_pdu_bytes: int, send_seconds: float) -> None:
        self._socket = connection
        self._max_pdu_bytes = max_pdu_bytes
        self._send_seconds = send_seconds
        # The socket never blocks: with a time-out set on it, Python would make three system calls of each recv.
        connection.setblocking(False)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        # At least twice the largest PDU: one recv may bring the end of one and the start of the next without a move.
        self._buffer = bytearray(BUFFERED_PDUS * (max_pdu_bytes + HEADER_BYTES))
        self._view = memoryview(self._buffer)
        self._begin = 0
        self._end = 0

    def read_pdu(self, *, start_by: float, whole_within: float) -> tuple[PduType, memoryview]:
        """The next PDU's type and body; the body is valid until the next call.

        start_by: monotonic time by which its first byte must be here. whole_within: seconds from then to its last.
        Raises DeadlineError, PeerGoneError, ProtocolError.
        """
        self._need(1, start_by, "idle for too long")
        deadline = time.monotonic() + whole_within
        self._need(HEADER_BYTES, deadline, "a PDU's header came too slowly")
        number, _, length = struct.unpack_from(">BBI", self._buffer, self._begin)
        pdu_type = self._check_header(number, length)
        self._need(HEADER_BYTES + length, deadline, "a PDU came too slowly")
        start = self._begin + HEADER_BYTES
        self._begin = start + length
        return pdu_type, self._view[start : start + length]

    @property
    def has_input(self) -> bool:
        """Tell whether bytes of a next PDU were read already."""
        return self._end > self._begin

    def send(self, *pdus: bytes) -> None:
        """Send all of it. Raises DeadlineError where the peer does not take it in time, PeerGoneError."""
        unsent = memoryview(b"".join(pdus))
        deadline = time.monotonic() + self._send_seconds
        while unsent:
            try:
                unsent = unsent[self._socket.send(unsent) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait_for(select.POLLOUT, deadline, "the peer does not read our answers")
            except ssl.SSLWantReadError:
                self._wait_for(select.POLLIN, deadline, "the peer does not read our answers")
            except OSError as error:
                raise PeerGoneError(str(error)) from error

    def interrupt(self) -> None:
        """Make a read in another thread end as if the peer had closed."""
        try:
            # The base class's method: SSLSocket.shutdown drops the TLS layer under the reading thread's feet.
            socket.socket.shutdown(self._socket, socket.SHUT_RD)
        except OSError:
            return  # it is closed already

    def close(self, *, linger_seconds: float = 0.0) -> None:
        """Close; with a linger, wait so long for the peer to close first, so that it can read our last PDU."""
        deadline = time.monotonic() + linger_seconds
        try:
            if linger_seconds:
                socket.socket.shutdown(self._socket, socket.SHUT_WR)
                while (left := deadline - time.monotonic()) > 0:
                    self._socket.settimeout(left)
                    if not self._socket.recv(65536):
                        break
        except OSError:
            pass  # gone is what we waited for
        finally:
            self._socket.close()

    def send_and_close(self, last_pdu: bytes, *, lingers: bool = True) -> None:
        """Send a last PDU, give the peer a moment to read it, close. Never raises."""
        try:
            self.send(last_pdu)
        except (DeadlineError, PeerGoneError):
            self.close()
        else:
            self.close(linger_seconds=LINGER_SECONDS if lingers else 0.0)

    def _check_header(self, number: int, length: int) -> PduType:
        try:
            pdu_type = PduType(number)
        except ValueError as error:
            raise ProtocolError(f"unknown PDU type {number:#04x}", AbortReason.UNRECOGNISED_PDU) from error
        if pdu_type is PduType.P_DATA:
            allowed = length <= self._max_pdu_bytes
        elif pdu_type in (PduType.RELEASE_RQ, PduType.RELEASE_RP, PduType.ABORT):
            # RELEASE and ABORT have a fixed length (PS3.8 9.3.6 to 9.3.8).
            allowed = length == _CONTROL_BYTES
        else:
            raise ProtocolError(f"{pdu_type.name} inside an association", AbortReason.UNEXPECTED_PDU)
        if not allowed:
            raise ProtocolError(f"a {pdu_type.name} PDU of {length} bytes")
        return pdu_type

    def _need(self, count: int, deadline: float, late: str) -> None:
        """Have `count` bytes from `_begin` on in the buffer."""
        while self._end - self._begin < count:
            if self._begin == self._end:
                self._begin = self._end = 0
            elif self._begin + count > len(self._buffer):
                rest = self._end - self._begin
                # Copied out first: source and target may overlap.
                self._view[:rest] = bytes(self._view[self._begin : self._end])
                self._begin, self._end = 0, rest
            self._receive(deadline, late)

    def _receive(self, deadline: float, late: str) -> None:
        """Take what has come into the buffer, at least one byte."""
        while True:
            if time.monotonic() >= deadline:
                raise DeadlineError(late)
            try:
                received = self._socket.recv_into(self._view[self._end :])
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait_for(select.POLLIN, deadline, late)
                continue
            except ssl.SSLWantWriteError:  # TLS has something of its own to say first
                self._wait_for(select.POLLOUT, deadline, late)
                continue
            except OSError as error:
                raise PeerGoneError(str(error)) from error
            if received == 0:
                raise PeerGoneError("closed by the peer")
            self._end += received
            return

    def _wait_for(self, event: int, deadline: float, late: str) -> None:
        """Sleep until the socket is ready. Raises DeadlineError."""
        self._poll.modify(self._socket, event)
        if not self._poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
            raise DeadlineError(late)


def fragments(body: memoryview) -> Iterator[Fragment]:
    """The presentation data values of a P-DATA PDU (PS3.8 section 9.3.5.1). Raises ProtocolError."""
    position = 0
    if not body:
        raise ProtocolError("a P-DATA PDU without a presentation data value")
    while position < len(body):
        if position + _PDV_HEADER_BYTES > len(body):
            raise ProtocolError("a presentation data value without a whole header")
        length, context_id, control = struct.unpack_from(">IBB", body, position)
        end = position + 4 + length
        # The item length counts the context ID and the control header, two bytes, besides the fragment (PS3.8 section
        # 9.3.5.1).
        if length < 2 or end > len(body):
            raise ProtocolError(f"a presentation data value that says it has {length} bytes")
        yield Fragment(
            context_id=context_id,
            # Message control header: bit 0 a command, bit 1 the last fragment (PS3.8 section E.2).
            is_command=bool(control & 1),
            is_last=bool(control & 2),
            data=body[position + _PDV_HEADER_BYTES : end],
        )
        position = end


def p_data(context_id: int, data: bytes, *, is_command: bool, max_pdu_bytes: int) -> Iterator[bytes]:
    """P-DATA PDUs of one command or data set; `max_pdu_bytes` is the peer's cap, 0 for none (PS3.8 section D.1)."""
    room = (max_pdu_bytes if max_pdu_bytes else 131_072) - _PDV_HEADER_BYTES
    # An empty data set is one empty fragment too: without a last one the peer would wait for it.
    for start in range(0, max(len(data), 1), room):
        piece = data[start : start + room]
        control = (1 if is_command else 0) | (2 if start + room >= len(data) else 0)
        length = len(piece) + 2
        yield struct.pack(">BBIIBB", PduType.P_DATA, 0, length + 4, length, context_id, control) + piece


def reject(rejection: Rejection) -> bytes:
    """An A-ASSOCIATE-RJ PDU."""
    fields = (PduType.ASSOCIATE_RJ, 0, 4, 0, rejection.result, rejection.source, rejection.reason)
    return struct.pack(">BBIBBBB", *fields)


def abort(reason: AbortReason) -> bytes:
    """An A-ABORT PDU by the service provider."""
    return struct.pack(">BBIBBBB", PduType.ABORT, 0, 4, 0, 0, 2, reason)


def release_response() -> bytes:
    """An A-RELEASE-RP PDU."""
    return struct.pack(">BBII", PduType.RELEASE_RP, 0, 4, 0)
