"""Accepts connections (Sta2 of PS3.8 section 9.2) and keeps them until their A-ASSOCIATE-RQ is whole.

One thread, no blocking call, everything capped.

A stranger costs a socket and a few bytes here, never a thread: idle and half-open connections, drip feeds and stalled
TLS handshakes end at their deadline, and beyond the caps the oldest connection of the busiest address goes first.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dicom_node.config import ReceiveSection
from dicom_node.logs import get_logger
from dicom_node.receive.upper_layer.access_rules import ADDRESS_NOT_ALLOWED, NO_REQUEST, TLS_REFUSED, Rejection
from dicom_node.receive.upper_layer.pdu import HEADER_BYTES, LINGER_SECONDS, AbortReason, PduType, abort, reject
from dicom_node.receive.upper_layer.pending import ConnectionStage, PendingConnection

log = get_logger(__name__)

MAX_REQUEST_BYTES: Final = 256 << 10
"""An A-ASSOCIATE-RQ with 128 contexts of 30 transfer syntaxes has about 130 KB; pynetdicom itself knows no cap."""
_MIN_REQUEST_BYTES: Final = 68
_ACCEPTS_PER_TURN: Final = 64
_RECV_BYTES: Final = 65_536
_OUT_OF_FILES_PAUSE: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A connection whose A-ASSOCIATE-RQ is whole."""

    connection: socket.socket
    address: str
    is_tls: bool
    request: bytes


Decide = Callable[[Arrival], Rejection | None]
"""Takes the connection over (None), or says why not; then the acceptor refuses and closes it."""
TellRefusal = Callable[[str, str], None]
"""Hears of each refusal: address, and why in the words of `rules`."""


class ConnectionAcceptor:
    """Listens, and hands each connection on once it has asked for an association."""

    def __init__(
        self,
        *,
        listeners: list[tuple[socket.socket, ssl.SSLContext | None]],
        limits: ReceiveSection,
        admits_address: Callable[[str], bool],
        decide: Decide,
        tell_refusal: TellRefusal,
    ) -> None:
        self._limits = limits
        self._admits_address = admits_address
        self._decide = decide
        self._tell_refusal = tell_refusal
        self._selector = selectors.DefaultSelector()
        self._waiting: dict[PendingConnection, None] = {}  # ordered: oldest first
        self._by_address: Counter[str] = Counter()
        # With nobody waiting, select sleeps without a limit: `stop` wakes it by a byte on this pair.
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._stopping = False
        self._selector.register(self._wake_receiver, selectors.EVENT_READ, None)
        self._listeners = listeners
        for listener, context in listeners:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, (listener, context))

    def run(self) -> None:
        """Serve until `stop`. The listening sockets and all waiting connections are closed then."""
        try:
            while not self._stopping:
                self._turn()
        finally:
            for listener, _ in self._listeners:
                listener.close()
            for pending in list(self._waiting):
                self._close(pending)
            self._selector.close()
            self._wake_receiver.close()
            self._wake_sender.close()

    def stop(self) -> None:
        """End `run`; from any thread."""
        self._stopping = True
        try:
            self._wake_sender.send(b"\0")
        except OSError:
            return  # it has ended already

    def _turn(self) -> None:
        # One thread serves every connection that has not asked for an association yet, and never blocks on one: a peer
        # that drips its request costs the others nothing. Only a whole request is worth a thread of its own.
        for key, _ in self._selector.select(self._until_next_deadline()):
            if isinstance(key.data, PendingConnection):
                if key.data in self._waiting:  # an accept of the same turn may have put it out
                    self._serve(key.data)
            elif key.data is not None:
                self._accept(*key.data)
        now = time.monotonic()
        for pending in [expired for expired in self._waiting if expired.deadline <= now]:
            log.info("connection closed: no association in time", peer=pending.address, stage=pending.stage.name)
            if pending.stage is not ConnectionStage.AWAIT_CLOSE:
                self._tell_refusal(pending.address, NO_REQUEST)
            self._close(pending)

    def _until_next_deadline(self) -> float | None:
        if not self._waiting:
            return None
        return max(0.0, min(pending.deadline for pending in self._waiting) - time.monotonic())

    def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        # Bounded, so that a flood of new connections cannot keep those already waiting from being read.
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of file descriptors: the oldest pending's is given back
                log.error("cannot accept", why=error.strerror)
                if self._waiting:
                    self._close(next(iter(self._waiting)))
                else:
                    time.sleep(_OUT_OF_FILES_PAUSE)  # associations hold them all; do not spin
                return
            self._admit(connection, str(address[0]), context)

    def _admit(self, connection: socket.socket, address: str, context: ssl.SSLContext | None) -> None:
        """Take a connection in, or close it at once."""
        if not self._admits_address(address):
            log.warning("connection refused: address not allowed", peer=address)
            self._tell_refusal(address, ADDRESS_NOT_ALLOWED)
            connection.close()
            return
        if self._by_address[address] >= self._limits.max_waiting_per_address:
            # The oldest of this address goes: a peer that has hung before must not lock itself out.
            self._close(next(pending for pending in self._waiting if pending.address == address))
        elif len(self._waiting) >= self._limits.max_waiting:
            # Full: the address that holds most places pays, so that one flood cannot evict the others.
            busiest = self._by_address.most_common(1)[0][0]
            self._close(next(pending for pending in self._waiting if pending.address == busiest))
        connection.setblocking(False)
        # DIMSE is question and answer in small PDUs: Nagle's algorithm would hold each answer until the peer's delayed
        # ACK.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stage = ConnectionStage.REQUEST
        if context is not None:
            try:
                # The handshake is made step by step in `_serve`, as its bytes come: made here it would have to block.
                connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            except (OSError, ValueError) as error:  # the peer is gone already
                log.info("connection lost before TLS", peer=address, why=str(error))
                connection.close()
                return
            stage = ConnectionStage.HANDSHAKE
        pending = PendingConnection(
            connection=connection,
            address=address,
            is_tls=context is not None,
            deadline=time.monotonic() + self._limits.association_seconds,
            stage=stage,
        )
        self._waiting[pending] = None
        self._by_address[address] += 1
        self._selector.register(connection, selectors.EVENT_READ, pending)

    def _serve(self, pending: PendingConnection) -> None:
        """Go on with a pending whose socket is ready."""
        try:
            if pending.stage is ConnectionStage.HANDSHAKE:
                # The request may come in the same record as the end of the handshake. It then lies decrypted in the
                # TLS layer, where select does not see it: go on to read it in this turn.
                self._shake_hands(pending)
            if pending.stage is ConnectionStage.REQUEST:
                self._read_request(pending)
            elif pending.stage is ConnectionStage.AWAIT_CLOSE:
                # Read and dropped: a socket that is closed with unread bytes sends RST, which can destroy our last PDU
                # before the peer has read it.
                while pending.connection.recv(_RECV_BYTES):
                    pass
                self._close(pending)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._wait_for(pending, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._wait_for(pending, selectors.EVENT_WRITE)
        except ssl.SSLError as error:
            log.warning("TLS refused", peer=pending.address, why=error.reason or "no TLS")
            self._tell_refusal(pending.address, TLS_REFUSED)
            self._close(pending)
        except OSError as error:
            log.info("connection lost", peer=pending.address, why=error.strerror)
            self._close(pending)

    def _shake_hands(self, pending: PendingConnection) -> None:
        assert isinstance(pending.connection, ssl.SSLSocket)
        pending.connection.do_handshake()
        pending.stage = ConnectionStage.REQUEST
        self._wait_for(pending, selectors.EVENT_READ)

    def _read_request(self, pending: PendingConnection) -> None:
        # Never a byte more than the request: what follows belongs to the association's own reader.
        while (missing := pending.missing) > 0:
            data = pending.connection.recv(min(missing, _RECV_BYTES))
            if not data:
                self._close(pending)
                return
            pending.received += data
            # Looked at as soon as its header is here: a length of gigabytes is refused and not waited for.
            if len(pending.received) >= HEADER_BYTES and not self._is_request(pending):
                return
        self._hand_over(pending)

    def _is_request(self, pending: PendingConnection) -> bool:
        """Check the header; a pending with another one is sent away."""
        length = int.from_bytes(pending.received[2:6], "big")
        if pending.received[0] != PduType.ASSOCIATE_RQ:
            known = PduType.ASSOCIATE_RQ <= pending.received[0] <= PduType.ABORT
            log.warning("connection refused: no A-ASSOCIATE-RQ", peer=pending.address, pdu_type=pending.received[0])
            self._tell_refusal(pending.address, NO_REQUEST)
            self._refuse(pending, abort(AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNISED_PDU))
            return False
        if not _MIN_REQUEST_BYTES <= length <= MAX_REQUEST_BYTES:
            log.warning("connection refused: length of A-ASSOCIATE-RQ", peer=pending.address, length=length)
            self._tell_refusal(pending.address, NO_REQUEST)
            self._refuse(pending, abort(AbortReason.INVALID_PARAMETER))
            return False
        return True

    def _hand_over(self, pending: PendingConnection) -> None:
        # Before `decide`, which starts the association's thread: the socket is that thread's to read from then on.
        self._selector.unregister(pending.connection)
        arrival = Arrival(
            connection=pending.connection,
            address=pending.address,
            is_tls=pending.is_tls,
            request=bytes(pending.received),
        )
        rejection = self._decide(arrival)
        if rejection is None:
            self._forget(pending)
            return
        self._selector.register(pending.connection, selectors.EVENT_READ, pending)
        log.warning("association rejected", peer=pending.address, why=rejection.why)
        self._tell_refusal(pending.address, rejection.why)
        self._refuse(pending, reject(rejection))

    def _refuse(self, pending: PendingConnection, last_pdu: bytes) -> None:
        """Say why and wait a little for the peer to close: closing first could destroy what it has not read yet."""
        pending.stage = ConnectionStage.AWAIT_CLOSE
        pending.received = bytearray()
        pending.deadline = time.monotonic() + LINGER_SECONDS
        pending.connection.send(last_pdu)  # ten bytes into an empty buffer; what does not fit is lost with the pending
        # The base class's method: SSLSocket.shutdown would drop the TLS layer, through which the peer's end is still
        # read.
        socket.socket.shutdown(pending.connection, socket.SHUT_WR)

    def _wait_for(self, pending: PendingConnection, event: int) -> None:
        self._selector.modify(pending.connection, event, pending)

    def _close(self, pending: PendingConnection) -> None:
        self._selector.unregister(pending.connection)
        pending.connection.close()
        self._forget(pending)

    def _forget(self, pending: PendingConnection) -> None:
        del self._waiting[pending]
        self._by_address[pending.address] -= 1
        if not self._by_address[pending.address]:
            del self._by_address[pending.address]
