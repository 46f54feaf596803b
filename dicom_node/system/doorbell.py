"""A bell between processes of one machine: whoever has committed work rings, and whoever waits for it looks at once.

It is a datagram to a name in Linux's abstract socket namespace, which needs no file. A ring that is lost, or that
nobody hears, costs the time to the next look and nothing else; so does one that means nothing.
"""

from __future__ import annotations

import hashlib
import select
import socket
from contextlib import suppress
from types import TracebackType


class Doorbell:
    """The end that hears, one for each name; a second one of a name hears nothing and only waits."""

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(_address(name))
        except OSError:  # another worker has it, or the system knows no abstract names
            self._socket.close()
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def __enter__(self) -> Doorbell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def wait(self, seconds: float) -> bool:
        """Return whether it rang since the last call, at once where it did, else after so long."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        rang = bool(poll.poll(seconds * 1000))
        while rang:  # many rings are one
            try:
                self._socket.recv(1)
            except BlockingIOError:
                break
        return rang


def ring(name: str) -> None:
    """Ring the bell of a name, whether there is one or not. Never raises: what it is rung for is done already."""
    # Nobody listens, nobody has emptied it yet (then somebody is about to look), or there is no descriptor left.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        sender.sendto(b"\1", _address(name))


def _address(name: str) -> bytes:
    return b"\0dicom-node-" + hashlib.sha256(name.encode()).hexdigest()[:32].encode()
