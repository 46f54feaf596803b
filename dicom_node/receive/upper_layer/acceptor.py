"""The lobby: connections until their A-ASSOCIATE-RQ is whole. One thread, no blocking call, everything capped.

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
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from dicom_node.config import ReceiveSection
from dicom_node.logs import get_logger
from dicom_node.receive.upper_layer.access_rules import ADDRESS_NOT_ALLOWED, NO_REQUEST, TLS_REFUSED, Rejection
from dicom_node.receive.upper_layer.pdu import HEADER_BYTES, LINGER_SECONDS, AbortReason, PduType, abort, reject

log = get_logger(__name__)

MAX_REQUEST_BYTES: Final = 256 << 10
"""An A-ASSOCIATE-RQ with 128 contexts of 30 transfer syntaxes has about 130 KB; pynetdicom itself knows no cap."""
_MIN_REQUEST_BYTES: Final = 68
_BACKLOG: Final = 1024
_ACCEPTS_PER_TURN: Final = 64
_RECV_BYTES: Final = 65_536
_OUT_OF_FILES_PAUSE: Final = 0.05


class _Stage(Enum):
    HANDSHAKE = auto()
    REQUEST = auto()
    FAREWELL = auto()
    """We have refused and wait for the peer to close, so that it can read why."""


@dataclass(slots=True, eq=False)
class _Guest:
    """One connection that has no association yet."""

    connection: socket.socket
    address: str
    is_tls: bool
    deadline: float
    stage: _Stage
    received: bytearray = field(default_factory=bytearray)

    @property
    def missing(self) -> int:
        """How many bytes the request still needs, as far as that is known."""
        if len(self.received) < HEADER_BYTES:
            return HEADER_BYTES - len(self.received)
        return HEADER_BYTES + int.from_bytes(self.received[2:6], "big") - len(self.received)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A connection whose A-ASSOCIATE-RQ is whole."""

    connection: socket.socket
    address: str
    is_tls: bool
    request: bytes


Decide = Callable[[Arrival], Rejection | None]
"""Takes the connection over (None), or says why not; then the lobby refuses and closes it."""
TellRefusal = Callable[[str, str], None]
"""Hears of each refusal: address, and why in the words of `rules`."""


class Lobby:
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
        self._guests: dict[_Guest, None] = {}  # ordered: oldest first
        self._by_address: Counter[str] = Counter()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._stopping = False
        self._selector.register(self._wake_receiver, selectors.EVENT_READ, None)
        self._listeners = listeners
        for listener, context in listeners:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, (listener, context))

    def run(self) -> None:
        """Serve until `stop`. The listening sockets and all guests are closed then."""
        try:
            while not self._stopping:
                self._turn()
        finally:
            for listener, _ in self._listeners:
                listener.close()
            for guest in list(self._guests):
                self._close(guest)
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
        for key, _ in self._selector.select(self._until_next_deadline()):
            if isinstance(key.data, _Guest):
                if key.data in self._guests:  # an accept of the same turn may have put it out
                    self._attend(key.data)
            elif key.data is not None:
                self._accept(*key.data)
        now = time.monotonic()
        for guest in [guest for guest in self._guests if guest.deadline <= now]:
            log.info("connection closed: no association in time", peer=guest.address, stage=guest.stage.name)
            if guest.stage is not _Stage.FAREWELL:
                self._tell_refusal(guest.address, NO_REQUEST)
            self._close(guest)

    def _until_next_deadline(self) -> float | None:
        if not self._guests:
            return None
        return max(0.0, min(guest.deadline for guest in self._guests) - time.monotonic())

    def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of file descriptors: the oldest guest's is given back
                log.error("cannot accept", why=error.strerror)
                if self._guests:
                    self._close(next(iter(self._guests)))
                else:
                    time.sleep(_OUT_OF_FILES_PAUSE)  # associations hold them all; do not spin
                return
            self._welcome(connection, str(address[0]), context)

    def _welcome(self, connection: socket.socket, address: str, context: ssl.SSLContext | None) -> None:
        """Take a connection in, or close it at once."""
        if not self._admits_address(address):
            log.warning("connection refused: address not allowed", peer=address)
            self._tell_refusal(address, ADDRESS_NOT_ALLOWED)
            connection.close()
            return
        if self._by_address[address] >= self._limits.max_waiting_per_address:
            # The oldest of this address goes: a peer that has hung before must not lock itself out.
            self._close(next(guest for guest in self._guests if guest.address == address))
        elif len(self._guests) >= self._limits.max_waiting:
            busiest = self._by_address.most_common(1)[0][0]
            self._close(next(guest for guest in self._guests if guest.address == busiest))
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stage = _Stage.REQUEST
        if context is not None:
            try:
                connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            except (OSError, ValueError) as error:  # the peer is gone already
                log.info("connection lost before TLS", peer=address, why=str(error))
                connection.close()
                return
            stage = _Stage.HANDSHAKE
        guest = _Guest(
            connection=connection,
            address=address,
            is_tls=context is not None,
            deadline=time.monotonic() + self._limits.association_seconds,
            stage=stage,
        )
        self._guests[guest] = None
        self._by_address[address] += 1
        self._selector.register(connection, selectors.EVENT_READ, guest)

    def _attend(self, guest: _Guest) -> None:
        """Go on with a guest whose socket is ready."""
        try:
            if guest.stage is _Stage.HANDSHAKE:
                self._shake_hands(guest)
            if guest.stage is _Stage.REQUEST:
                self._read_request(guest)
            elif guest.stage is _Stage.FAREWELL:
                while guest.connection.recv(_RECV_BYTES):
                    pass
                self._close(guest)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._wait_for(guest, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._wait_for(guest, selectors.EVENT_WRITE)
        except ssl.SSLError as error:
            log.warning("TLS refused", peer=guest.address, why=error.reason or "no TLS")
            self._tell_refusal(guest.address, TLS_REFUSED)
            self._close(guest)
        except OSError as error:
            log.info("connection lost", peer=guest.address, why=error.strerror)
            self._close(guest)

    def _shake_hands(self, guest: _Guest) -> None:
        assert isinstance(guest.connection, ssl.SSLSocket)
        guest.connection.do_handshake()
        guest.stage = _Stage.REQUEST
        self._wait_for(guest, selectors.EVENT_READ)

    def _read_request(self, guest: _Guest) -> None:
        while (missing := guest.missing) > 0:
            data = guest.connection.recv(min(missing, _RECV_BYTES))
            if not data:
                self._close(guest)
                return
            guest.received += data
            if len(guest.received) >= HEADER_BYTES and not self._is_request(guest):
                return
        self._hand_over(guest)

    def _is_request(self, guest: _Guest) -> bool:
        """Check the header; a guest with another one is sent away."""
        length = int.from_bytes(guest.received[2:6], "big")
        if guest.received[0] != PduType.ASSOCIATE_RQ:
            known = PduType.ASSOCIATE_RQ <= guest.received[0] <= PduType.ABORT
            log.warning("connection refused: no A-ASSOCIATE-RQ", peer=guest.address, pdu_type=guest.received[0])
            self._tell_refusal(guest.address, NO_REQUEST)
            self._dismiss(guest, abort(AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNISED_PDU))
            return False
        if not _MIN_REQUEST_BYTES <= length <= MAX_REQUEST_BYTES:
            log.warning("connection refused: length of A-ASSOCIATE-RQ", peer=guest.address, length=length)
            self._tell_refusal(guest.address, NO_REQUEST)
            self._dismiss(guest, abort(AbortReason.INVALID_PARAMETER))
            return False
        return True

    def _hand_over(self, guest: _Guest) -> None:
        self._selector.unregister(guest.connection)
        arrival = Arrival(
            connection=guest.connection, address=guest.address, is_tls=guest.is_tls, request=bytes(guest.received)
        )
        rejection = self._decide(arrival)
        if rejection is None:
            self._forget(guest)
            return
        self._selector.register(guest.connection, selectors.EVENT_READ, guest)
        log.warning("association rejected", peer=guest.address, why=rejection.why)
        self._tell_refusal(guest.address, rejection.why)
        self._dismiss(guest, reject(rejection))

    def _dismiss(self, guest: _Guest, last_words: bytes) -> None:
        """Say why and wait a little for the peer to close: closing first could destroy what it has not read yet."""
        guest.stage = _Stage.FAREWELL
        guest.received = bytearray()
        guest.deadline = time.monotonic() + LINGER_SECONDS
        guest.connection.send(last_words)  # ten bytes into an empty buffer; what does not fit is lost with the guest
        socket.socket.shutdown(guest.connection, socket.SHUT_WR)

    def _wait_for(self, guest: _Guest, event: int) -> None:
        self._selector.modify(guest.connection, event, guest)

    def _close(self, guest: _Guest) -> None:
        self._selector.unregister(guest.connection)
        guest.connection.close()
        self._forget(guest)

    def _forget(self, guest: _Guest) -> None:
        del self._guests[guest]
        self._by_address[guest.address] -= 1
        if not self._by_address[guest.address]:
            del self._by_address[guest.address]


def listen(host: str, port: int, *, shared: bool) -> socket.socket:
    """A listening socket; `shared` lets other processes of ours listen on the same port (SO_REUSEPORT)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
