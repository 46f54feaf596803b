"""Who may call, and what each caller may do: the configuration's rules as questions with answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dicom_node.config import ReceivePeer, Settings
from dicom_node.dicom.sop_classes import storage_classes
from dicom_node.index.tables.core import StudyPurpose
from dicom_node.receive.upper_layer.known_peers import KnownPeers, within


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    result: int
    source: int
    reason: int
    why: str


CALLING_NOT_RECOGNISED = Rejection(result=1, source=1, reason=3, why="calling AE title not recognised")
CALLED_NOT_RECOGNISED = Rejection(result=1, source=1, reason=7, why="called AE title not recognised")
LIMIT_EXCEEDED = Rejection(result=2, source=3, reason=2, why="local limit exceeded")
PROTOCOL_NOT_SUPPORTED = Rejection(result=1, source=2, reason=2, why="protocol version not supported")
CONTEXT_NAME_NOT_SUPPORTED = Rejection(result=1, source=1, reason=2, why="application context name not supported")


ADDRESS_NOT_ALLOWED = "address not allowed"
TLS_REFUSED = "TLS refused"
NO_REQUEST = "no association request"
"""Something else was said, or nothing in time: a port scanner, a load balancer's probe."""
NOT_UNDERSTOOD = "association request not understood"
ALERTS = frozenset({ADDRESS_NOT_ALLOWED, TLS_REFUSED, CALLING_NOT_RECOGNISED.why, CALLED_NOT_RECOGNISED.why})
"""Refusals that are Security Alerts (PS3.15 section A.5.3.11): somebody who is not who may come in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRule:
    """The permissions of one calling AE."""

    store: bool
    query: bool
    reject: bool
    """Send rejection notes, and dispute what is held under the UID of its objects."""
    report: bool
    """Send reports that become feedback."""
    commit: bool
    is_named: bool
    """True if the configuration names it: places are kept for it, and it may send again what was fetched."""
    sop_classes: frozenset[str]
    purpose: StudyPurpose
    host: str = ""
    port: int = 104


class Rules:
    """The rules of one receiver, compiled once."""

    def __init__(self, settings: Settings) -> None:
        receive = settings.receive
        self.ae_title = settings.node.ae_title
        self.known = KnownPeers(settings)
        self._called_required = receive.called_ae_title == "required"
        self._addresses = settings.access.addresses
        self._calling = frozenset(settings.access.calling_ae_titles)
        self._peers = {peer.ae_title: peer for peer in receive.peers}
        default = storage_classes(receive.sop_classes)
        self._default = PeerRule(
            store=receive.unnamed_store,
            query=receive.unnamed_query,
            reject=False,
            report=False,
            commit=True,
            is_named=False,
            sop_classes=default,
            purpose=StudyPurpose.ROUTED,
        )
        self._rules = {peer.ae_title: _rule(peer, default) for peer in receive.peers}

    def admits_address(self, address: str) -> bool:
        """Tell whether a connection from this IP address is taken at all."""
        return not self._addresses or within(address, self._addresses)

    def rejection(self, *, called: str, calling: str, address: str) -> Rejection | None:
        """Why this caller gets no association, or None."""
        if self._called_required and called != self.ae_title:
            return CALLED_NOT_RECOGNISED
        # A title that [[peer]] names is known too, and need not be listed twice.
        if self._calling and calling not in self._calling and calling not in self._peers:
            return CALLING_NOT_RECOGNISED
        peer = self._peers.get(calling)
        if peer is not None and peer.addresses and not within(address, peer.addresses):
            # PS3.8 9.3.4 has no reason for a wrong address.
            return CALLING_NOT_RECOGNISED
        return None

    def of(self, calling: str, address: str) -> PeerRule:
        """The permissions of this caller. A destination or query peer, at its own address, may reject and report
        too."""
        rule = self._rules.get(calling, self._default)
        if self.known.is_at(calling, address):
            return replace(rule, reject=True, report=True, is_named=True)
        return rule

    def callback(self, ae_title: str) -> tuple[str, int]:
        """Host and port at which a peer takes commitment reports; ("", …) where none is configured."""
        rule = self._rules.get(ae_title, self._default)
        return rule.host, rule.port


def _rule(peer: ReceivePeer, default: frozenset[str]) -> PeerRule:
    return PeerRule(
        store=peer.store,
        query=peer.query,
        reject=peer.reject,
        report=peer.report,
        commit=peer.commit,
        is_named=True,
        sop_classes=default if peer.sop_classes is None else storage_classes(peer.sop_classes),
        purpose=StudyPurpose(peer.purpose),
        host=peer.host,
        port=peer.port,
    )
