"""Attacks on the pages: silent connections, half a header, a copied cookie, a flood of log-ins."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from dicom_node.web import connections, routing
from dicom_node.web.connections import Connections
from dicom_node.web.ended_sessions import EndedSessions
from dicom_node.web.server import WebServer
from tests.support.common import wait_until
from tests.support.delivery_node import Clock, make_node


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 24)
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(routing, "BODY_SECONDS", 0.5)
    node = make_node(tmp_path, Clock(), web={"port": 0})
    running = WebServer(node)
    running.start()
    yield running
    running.stop()
    node.database.close()


def live(server: WebServer) -> int:
    return httpx.get(f"http://127.0.0.1:{server.port}/health/live", timeout=20).status_code


HALVES = {
    "nothing": b"",
    "half a header": b"GET /health/live HTTP/1.1\r\nHost: ",
    "no body": b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
    "half a body": b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nname=",
    "a body in pieces": b"POST /login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nname=\r\n",
}


@pytest.mark.parametrize("first_bytes", HALVES.values(), ids=HALVES)
def test_silent_connections_keep_nobody_out_and_are_closed(server: WebServer, first_bytes: bytes) -> None:
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20)) for _ in range(100)
        ]
        for one in silent:
            try:
                one.sendall(first_bytes)
            except OSError:
                continue  # it had to give way already
        assert live(server) == 200
        wait_until(lambda: all(_is_closed(one) for one in silent), what="every silent connection to be closed")
    assert live(server) == 200


def test_peers_that_take_no_answer_keep_nobody_out_and_are_closed(server: WebServer) -> None:
    # What is accepted inherits it; else the kernel takes megabytes of answers for each.
    server._server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with ExitStack() as stack:
        for _ in range(40):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.settimeout(20)
            one.connect(("127.0.0.1", server.port))
            one.setblocking(False)
            with contextlib.suppress(OSError):  # it had to give way already
                one.send(b"GET /static/viewer.js HTTP/1.1\r\nHost: x\r\n\r\n" * 60)
        wait_until(lambda: _is_live(server), what="the pages to answer beside those that stall")
        wait_until(lambda: not server._server.server_state.connections, what="every stalled connection to be closed")
    assert live(server) == 200


def _is_live(server: WebServer) -> bool:
    """Tell whether it answers now; while all others are being answered, a new one may be turned away."""
    with contextlib.suppress(httpx.TransportError):
        return live(server) == 200
    return False


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def test_connections_stay_below_the_limit_of_descriptors() -> None:
    assert Connections().most <= connections.MAX_CONNECTIONS


def test_ended_session_stays_ended_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "ended"
    EndedSessions(path).end("one", 4_000_000_000.0)
    EndedSessions(path).end("old", 1.0)
    again = EndedSessions(path)
    assert "one" in again
    again.end("two", 4_000_000_000.0)
    assert "old" not in EndedSessions(path)
    assert "other" not in again


def test_damaged_list_of_ended_sessions_does_not_stop_the_pages(tmp_path: Path) -> None:
    (tmp_path / "ended").write_text("[1, 2")
    assert "one" not in EndedSessions(tmp_path / "ended")
