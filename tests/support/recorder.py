"""Records what a real peer says to a receiver: a proxy on loopback that keeps the bytes of one direction."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Sequence


def recorded(port: int, command: Sequence[str]) -> bytes:
    """Run a program against the receiver at `port` ("{port}" in the command is replaced); the bytes that it sent."""
    said = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own_port = listener.getsockname()[1]
        thread = threading.Thread(target=_proxy, args=(listener, port, said), daemon=True)
        thread.start()
        arguments = [part.replace("{port}", str(own_port)) for part in command]
        subprocess.run(arguments, check=True, capture_output=True, timeout=60)
        thread.join(60)
    return bytes(said)


def _proxy(listener: socket.socket, port: int, said: bytearray) -> None:
    client, _ = listener.accept()
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        back = threading.Thread(target=_copy, args=(server, client, bytearray()), daemon=True)
        back.start()
        _copy(client, server, said)
        back.join(30)


def _copy(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
    try:
        while data := source.recv(65536):
            kept += data
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return  # one side is gone, so is the association
