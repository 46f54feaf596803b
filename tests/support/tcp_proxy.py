"""A wire between a client and a server of a test, which can be cut, or swallow what the server answers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto


class Wire(Enum):
    """The state of a proxy."""

    WHOLE = auto()
    DEAF = auto()
    """Data from the client arrives; no answer comes back."""
    CUT = auto()
    """Nothing passes, and nobody is told: a cable that was pulled."""


@dataclass(slots=True)
class TcpProxy:
    """Listens on loopback and passes on to `target`."""

    target: int
    listener: socket.socket
    state: Wire = Wire.WHOLE
    swallowed: int = 0
    """Bytes of answers that never came back."""
    _open: set[socket.socket] = field(default_factory=set)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def serve(self) -> None:
        """Accept until the listener is closed."""
        while True:
            try:
                client, _address = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target), timeout=10)
            except OSError:
                if self.listener.fileno() < 0:
                    return
                client.close()
                continue
            server.settimeout(None)
            self._open |= {client, server}
            for source, sink, is_answer in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass_on, args=(source, sink, is_answer), daemon=True).start()

    def drop(self) -> None:
        """End the connections that there are, as a firewall does that forgot them."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        self.listener.close()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.state is Wire.CUT or (self.state is Wire.DEAF and is_answer):
                    self.swallowed += len(data) if is_answer else 0
                    continue
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def tcp_proxy(target: int) -> Iterator[TcpProxy]:
    """A proxy to a port of loopback."""
    proxy = TcpProxy(target, socket.create_server(("127.0.0.1", 0)))
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
