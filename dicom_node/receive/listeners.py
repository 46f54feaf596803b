"""The listening sockets of the receivers, and what must hold before one is started.

Imports nothing of the receiver itself: the main process looks here before it starts anything.
"""

from __future__ import annotations

import socket
from typing import Final

from dicom_node.config import Settings
from dicom_node.errors import ConfigurationError
from dicom_node.receive.upper_layer.tls import server_context

_BACKLOG: Final = 1024


def listeners_of(settings: Settings) -> tuple[socket.socket, socket.socket | None]:
    """The listening sockets: DICOM, and TLS where configured. Raises ConfigurationError naming the key of the port."""
    node, tls = settings.node, settings.tls
    shared = node.receivers > 1
    ports = [("node.port", node.port)] + ([("tls.port", tls.port)] if tls is not None else [])
    listeners: list[socket.socket] = []
    for key, port in ports:
        try:
            listeners.append(listen(node.host, port, shared=shared))
        except OSError as error:
            # All or none: a node that takes plain DICOM only, where TLS was asked for, would be a surprise.
            for listener in listeners:
                listener.close()
            raise ConfigurationError(f"{key} {port} on {node.host}: {error.strerror}") from error
    return listeners[0], listeners[1] if tls is not None else None


def require_ports(settings: Settings) -> None:
    """Raise ConfigurationError where the receivers could not listen, before any of them is started."""
    for listener in listeners_of(settings):
        if listener is not None:
            listener.close()


def require_certificates(settings: Settings) -> None:
    """Raise ConfigurationError where certificate and key of the TLS port cannot be used."""
    if settings.tls is not None:
        server_context(settings.tls)


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
