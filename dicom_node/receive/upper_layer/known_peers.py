"""The peers that the configuration names, and whether a caller is one of them: by AE title and by address.

An AE title is a word that anybody may say. A caller counts as a destination, or as an archive that this node queries,
only from an address that its `host` resolves to, or that [[receive.peers]] gives to its AE title.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from dicom_node.config import Retrieve, Settings
from dicom_node.logs import get_logger

log = get_logger(__name__)

RESOLVE_SECONDS: Final = 300.0
"""The time for which the addresses of a host name are believed."""


class KnownPeers:
    """Destinations, query peers and [[receive.peers]] of one configuration. For all threads of a receiver."""

    def __init__(self, settings: Settings) -> None:
        self._hosts: dict[str, set[str]] = {}
        peers = [
            (destination.ae_title, destination.host) for destination in settings.destinations if not destination.url
        ]
        # An archive that is asked by DIMSE may have a url as well.
        peers += [(peer.ae_title, peer.host) for peer in settings.query if peer.retrieve is not Retrieve.DICOMWEB]
        for ae_title, host in peers:
            self._hosts.setdefault(ae_title, set()).add(host)
        self._networks = {peer.ae_title: peer.addresses for peer in settings.receive.peers if peer.addresses}
        self._destinations = {
            destination.name: destination.ae_title for destination in settings.destinations if not destination.url
        }
        self._resolved: dict[str, tuple[float, frozenset[IPv4Address | IPv6Address]]] = {}
        self._guard = threading.Lock()

    def is_at(self, ae_title: str, address: str) -> bool:
        """Tell whether a caller of this AE title and address is the destination or query peer of that title."""
        if ae_title not in self._hosts:
            return False
        if within(address, self._networks.get(ae_title, ())):
            return True
        caller = parse_address(address)
        return any(caller in self._addresses(host) for host in self._hosts[ae_title])

    def is_destination(self, name: str, *, ae_title: str, address: str) -> bool:
        """Tell whether a caller is the destination of this name in the configuration."""
        return self._destinations.get(name) == ae_title and self.is_at(ae_title, address)

    def _addresses(self, host: str) -> frozenset[IPv4Address | IPv6Address]:
        now = time.monotonic()
        with self._guard:
            until, known = self._resolved.get(host, (0.0, frozenset()))
        if now < until:
            return known
        try:
            resolved = {parse_address(str(entry[4][0])) for entry in socket.getaddrinfo(host, None)}
            known = frozenset(resolved)
        except OSError as error:
            # What was known stays believed: a name server that is away must not make a stranger of the archive.
            log.warning("host name not resolved", host=host, why=error.strerror)
        with self._guard:
            self._resolved[host] = (now + RESOLVE_SECONDS, known)
        return known


def within(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Tell whether an address lies in one of the networks; an IPv4 address mapped into IPv6 counts as what it is."""
    parsed = parse_address(address)
    return any(parsed.version == network.version and parsed in network for network in networks)


def parse_address(address: str) -> IPv4Address | IPv6Address:
    """The address without its zone, an IPv4 address mapped into IPv6 as what it is."""
    parsed = ip_address(address.split("%")[0])
    return getattr(parsed, "ipv4_mapped", None) or parsed
