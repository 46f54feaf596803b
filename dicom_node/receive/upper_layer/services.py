"""The border between an association and the services on it: a request as its handler sees it, and where data go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from dicom_node.receive.upper_layer.access_rules import PeerRule
from dicom_node.receive.upper_layer.dimse import Command, Message
from dicom_node.receive.upper_layer.negotiation import AcceptedContext
from dicom_node.receive.upper_layer.transfers import TransferBook


class DataSink(Protocol):
    """Where the data set of a message goes while it arrives."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes; the view is valid only during the call. Raises ProtocolError above its cap."""

    def discard(self) -> None:
        """Drop what came: the message will not be completed, or its handler is done with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is at the other end."""

    address: str
    calling_ae_title: str
    called_ae_title: str
    rule: PeerRule
    is_tls: bool


PutOff = Callable[[], Message | None]
"""Makes a message when its time has come; None: it is not needed any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One whole message from the peer, as its handler sees it."""

    caller: Caller
    context: AcceptedContext
    command: Command
    data: DataSink | None
    send_later: Callable[[PutOff, float], None]
    """Ask for a message after so many seconds and send it between two of the peer's, if the association still lives."""
    outstanding: dict[int, int]
    """Message id of a request that we sent on this association → what its handler wants to remember about it."""
    is_cancelled: Callable[[], bool]
    """Tells whether the peer has cancelled this request since; looks at the wire."""
    transfers: TransferBook
    """The objects that have come over this association so far."""


Handler = Callable[[Request], Iterable[Message]]


class Services(Protocol):
    """The services that the node offers on an association."""

    handlers: Mapping[int, Handler]

    def sink(self, command: Command, context: AcceptedContext, caller: Caller) -> DataSink:
        """Where the data set that follows this command shall go."""

    def record_end(self, caller: Caller, transfers: TransferBook) -> None:
        """The association is over, with what came over it. Must not raise."""
