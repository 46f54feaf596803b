"""Connections to the pages: closed when they say nothing, and never more than there are descriptors for.

uvicorn itself waits for ever for the first byte of a connection, so that a few dozen silent ones would keep everybody
else out, the health checks of a supervisor included.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from dicom_node.logs import get_logger

log = get_logger(__name__)

MAX_CONNECTIONS: Final = 256
MAX_SHARE_OF_DESCRIPTORS: Final = 4
"""At most one file descriptor of so many is a connection to the pages."""
HEADER_SECONDS: Final = 10.0
"""For a whole request header to arrive, from the connection on."""
STALL_SECONDS: Final = 60.0
"""For a peer that takes nothing of its answer to take some."""
BACKLOG: Final = 32
"""asyncio accepts so many connections before it looks at one of them."""


class Connections:
    """All connections of one server, the oldest first. Used in the server's event loop only."""

    def __init__(self, most: int | None = None) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = most or max(16, min(MAX_CONNECTIONS, soft // MAX_SHARE_OF_DESCRIPTORS))
        self._open: dict[CappedProtocol, None] = {}
        self._by_address: Counter[str] = Counter()
        self._told_at = -60.0

    def add(self, protocol: CappedProtocol) -> None:
        """Take one in; when there are too many, a silent one of the busiest address goes, the oldest first."""
        self._open[protocol] = None
        self._by_address[protocol.address] += 1
        if len(self._open) <= self.most:
            return
        silent = [connection for connection in self._open if connection.is_silent and connection is not protocol] or [
            protocol
        ]
        victim = max(silent, key=lambda one: self._by_address[one.address])  # the first of equals is the oldest
        if time.monotonic() - self._told_at > 60.0:
            self._told_at = time.monotonic()
            log.warning("too many connections to the pages: silent ones are closed", count=len(self._open))
        victim.abort()

    def remove(self, protocol: CappedProtocol) -> None:
        """Forget one that is closed."""
        if protocol in self._open:
            del self._open[protocol]
            self._by_address[protocol.address] -= 1
            if not self._by_address[protocol.address]:
                del self._by_address[protocol.address]


class CappedProtocol(H11Protocol):
    """uvicorn's protocol with an end to waiting. `all_open` is set by a subclass for each server."""

    all_open: Connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._close_if_silent)
        self._stall: asyncio.TimerHandle | None = None
        self.all_open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self._end_stall()
        self.all_open.remove(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for a peer that does not take its answer."""
        super().pause_writing()
        self._stall = self._stall or self.loop.call_later(STALL_SECONDS, self.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_stall()

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    @property
    def is_silent(self) -> bool:
        """Tell whether this node waits for the peer: for a request or the rest of one, or until it takes the answer."""
        cycle: Any = self.cycle  # None until a request came, whatever its annotation says
        return cycle is None or bool(cycle.response_complete or cycle.more_body or self.flow.write_paused)

    def abort(self) -> None:
        """Close at once and give the descriptor back."""
        self.transport.abort()

    def _close_if_silent(self) -> None:
        cycle: Any = self.cycle
        if cycle is None:
            self.abort()


def make_capped_protocol() -> type[CappedProtocol]:
    """A protocol class with connections of its own, for one server."""
    connections = Connections()
    namespace: dict[str, Any] = {"all_open": connections}
    return type("ServerProtocol", (CappedProtocol,), namespace)
