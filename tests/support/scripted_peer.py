"""A scripted peer: raw PDUs on a socket, right or wrong on purpose, for what a well-behaved library cannot send."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
C_ECHO_RQ, C_STORE_RQ, C_FIND_RQ = 0x0030, 0x0001, 0x0020

P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 4, 5, 6, 7
ASSOCIATE_AC, ASSOCIATE_RJ = 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A DIMSE response: status, error comment, and the command's elements."""

    status: int
    comment: str
    elements: Mapping[int, bytes]


class Peer:
    """One connection to a receiver."""

    def __init__(
        self, port: int, *, source: str = "127.0.0.1", tls: ssl.SSLContext | None = None, seconds: float = 20.0
    ) -> None:
        self.socket: socket.socket = socket.create_connection(
            ("127.0.0.1", port), timeout=seconds, source_address=(source, 0)
        )
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def associate(self, contexts: Iterable[tuple[str, Iterable[str]]], **titles: Any) -> dict[int, tuple[int, str]]:
        """Ask for an association; context id → (result, transfer syntax), as the receiver answered."""
        self.send(associate_rq(contexts, **titles))
        kind, body = self.read_pdu()
        if kind != ASSOCIATE_AC:
            raise ConnectionError(f"PDU type {kind}, body {body.hex()}")
        answer = A_ASSOCIATE_AC()
        answer.decode(struct.pack(">BBI", kind, 0, len(body)) + body)
        results = answer.to_primitive().presentation_context_definition_results_list
        return {cx.context_id: (cx.result, str(cx.transfer_syntax[0])) for cx in results}

    def store(self, context_id: int, sop_class: str, sop_instance: str, data_set: bytes, **more: str) -> Response:
        """C-STORE of bytes as they are; returns the response."""
        self.send(store_rq(context_id, sop_class, sop_instance, data_set, **more))
        return self.response()

    def echo(self, context_id: int = 1) -> Response:
        self.send(p_data(context_id, 3, command({0x0002: VERIFICATION, 0x0100: C_ECHO_RQ, 0x0110: 1, 0x0800: 0x0101})))
        return self.response()

    def release(self) -> None:
        self.send(struct.pack(">BBII", RELEASE_RQ, 0, 4, 0))
        assert self.read_pdu()[0] == RELEASE_RP

    def read_pdu(self) -> tuple[int, bytes]:
        """The next PDU: type and body. Raises ConnectionError where the receiver closed."""
        kind, _, length = struct.unpack(">BBI", self._exactly(6))
        return kind, self._exactly(length)

    def response(self) -> Response:
        """The next DIMSE response; its data set, if any, is read and dropped."""
        kind, body = self.read_pdu()
        if kind != P_DATA:
            raise ConnectionError(f"PDU type {kind}, body {body.hex()}")
        elements = parse_command(body[6:])
        return Response(
            status=int.from_bytes(elements.get(0x0900, b""), "little"),
            comment=elements.get(0x0902, b"").decode().strip(),
            elements=elements,
        )

    def is_closed(self) -> bool:
        """Read until the receiver closes; False where it keeps the connection open until the time-out."""
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("closed by the receiver")
            data += piece
        return bytes(data)


def associate_rq(
    contexts: Iterable[tuple[str, Iterable[str]]], *, called: str = "LUMEN", calling: str = "PEER", max_pdu: int = 16384
) -> bytes:
    """An A-ASSOCIATE-RQ PDU; contexts get the ids 1, 3, 5, …"""
    asked = A_ASSOCIATE()
    asked.application_context_name = UID("1.2.840.10008.3.1.1.1")
    asked.called_ae_title, asked.calling_ae_title = called, calling
    items = []
    for number, (abstract_syntax, transfer_syntaxes) in enumerate(contexts):
        context = build_context(abstract_syntax, list(transfer_syntaxes))
        context.context_id = 2 * number + 1
        items.append(context)
    asked.presentation_context_definition_list = items
    maximum = MaximumLengthNotification()
    maximum.maximum_length_received = max_pdu
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.3.4")
    asked.user_information = [maximum, implementation]
    return bytes(A_ASSOCIATE_RQ(asked).encode())


def store_rq(
    context_id: int, sop_class: str, sop_instance: str, data_set: bytes, *, move_originator: str = ""
) -> bytes:
    """The PDUs of a C-STORE-RQ with its data set in one fragment per 16 KiB."""
    elements: dict[int, int | str] = {
        0x0002: sop_class,
        0x0100: C_STORE_RQ,
        0x0110: 1,
        0x0700: 0,
        0x0800: 1,
        0x1000: sop_instance,
    }
    if move_originator:
        elements |= {0x1030: move_originator, 0x1031: 1}
    return p_data(context_id, 3, command(elements)) + data_pdus(context_id, data_set)


def data_pdus(context_id: int, data_set: bytes, size: int = 16_000) -> bytes:
    pieces = [data_set[start : start + size] for start in range(0, max(len(data_set), 1), size)]
    return b"".join(
        p_data(context_id, 2 if number == len(pieces) - 1 else 0, piece) for number, piece in enumerate(pieces)
    )


def p_data(context_id: int, control: int, data: bytes) -> bytes:
    """One P-DATA PDU with one value."""
    return struct.pack(">BBIIBB", P_DATA, 0, len(data) + 6, len(data) + 2, context_id, control) + data


def command(elements: Mapping[int, int | str]) -> bytes:
    """A command set in implicit VR little endian."""
    body = b""
    for element in sorted(elements):
        value = elements[element]
        data = struct.pack("<H", value) if isinstance(value, int) else value.encode("latin-1")
        data += b"\0" if len(data) % 2 else b""
        body += struct.pack("<HHI", 0, element, len(data)) + data
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def parse_command(data: bytes) -> dict[int, bytes]:
    elements, position = {}, 0
    while position + 8 <= len(data):
        _, element, length = struct.unpack_from("<HHI", data, position)
        elements[element] = data[position + 8 : position + 8 + length]
        position += 8 + length
    return elements
