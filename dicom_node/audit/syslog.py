"""Sending audit messages to a syslog collector: RFC 5424 messages, framed by RFC 5425, over TLS or plain TCP."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
import ssl

from sqlalchemy import select

from dicom_node.config import AuditSection
from dicom_node.context import NodeContext
from dicom_node.errors import NodeError
from dicom_node.index.tables.core import AuditEvent

SYSLOG_PRIORITY = 10 * 8 + 5
"""Facility 10 (security), severity 5 (notice), as IHE ITI TF-2 3.20 has it."""
MESSAGE_ID = "DICOM+RFC3881"
"""Of PS3.15 section A.6: what collectors tell audit messages by."""
BATCH = 200
MOST_BATCHES = 50
"""In one tick: a collector that was away for a day is caught up with, and stopping does not wait for it."""
CONNECT_SECONDS = 5.0


class AuditError(NodeError):
    """The audit collector did not take messages; they stay in the database and go later."""


def send_waiting(node: NodeContext) -> None:
    """Tick: send what the collector has not got yet, oldest first. Raises AuditError; the rows then wait."""
    if node.settings.audit.host is None:
        return
    for _ in range(MOST_BATCHES):
        if node.stop.is_set() or _send_batch(node) < BATCH:
            return


def _send_batch(node: NodeContext) -> int:
    """Send the oldest messages on one connection; returns how many. Raises AuditError."""
    settings = node.settings.audit
    with node.database.read() as session:
        rows = session.execute(
            select(AuditEvent.id, AuditEvent.at, AuditEvent.message)
            .where(AuditEvent.sent_at.is_(None))
            .order_by(AuditEvent.id)
            .limit(BATCH)
        ).all()
    if not rows:
        return 0
    try:
        with connect(settings) as connection:
            for row in rows:
                connection.sendall(frame(row.at, row.message))
            # Before anything counts as sent: TCP takes bytes into its buffers that the collector may never read.
            _end_orderly(connection)
    except OSError as error:
        raise AuditError(
            f"the audit collector {settings.host}:{settings.port} did not take messages: {error}"
        ) from error
    with node.database.write() as session:
        # A crash before this line sends the batch again: a collector that has a message twice is better than one that
        # lacks it.
        now = node.clock()
        for event in session.scalars(select(AuditEvent).where(AuditEvent.id.in_([row.id for row in rows]))):
            event.sent_at = now
    return len(rows)


def _end_orderly(connection: socket.socket) -> None:
    """Say that no more comes, and wait for the collector's end: one that is gone shows itself before rows are marked.

    With TLS that is close_notify (RFC 5425 section 4.4); a collector that answers it by its end alone has all the same.
    """
    connection.settimeout(CONNECT_SECONDS)
    if isinstance(connection, ssl.SSLSocket):
        with contextlib.suppress(ssl.SSLEOFError, ssl.SSLZeroReturnError):
            connection = connection.unwrap()
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)


def frame(at: dt.datetime, message: str) -> bytes:
    """One RFC 5424 message with the octet count of RFC 5425 section 4.3 before it."""
    head = f"<{SYSLOG_PRIORITY}>1 {at.isoformat(timespec='milliseconds')} {socket.gethostname()} dicom-node"
    body = f"{head} {os.getpid()} {MESSAGE_ID} - ".encode() + b"\xef\xbb\xbf" + message.encode()
    return f"{len(body)} ".encode() + body


def connect(settings: AuditSection) -> socket.socket:
    """A connection to the collector, with TLS where that is configured. Raises OSError."""
    assert settings.host is not None
    plain = socket.create_connection((settings.host, settings.port), timeout=CONNECT_SECONDS)
    if settings.transport == "tcp" or settings.tls is None:
        return plain
    try:
        context = ssl.create_default_context(cafile=str(settings.tls.ca))
        if settings.tls.certificate is not None:
            context.load_cert_chain(settings.tls.certificate, settings.tls.key)
        return context.wrap_socket(plain, server_hostname=settings.host)
    except OSError:
        plain.close()
        raise
