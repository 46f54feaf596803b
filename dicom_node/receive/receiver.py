"""The receiver: listening sockets, acceptor, one thread per association, and the services on them. One per process."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from dicom_node.config import Settings
from dicom_node.index.clock import clock_of
from dicom_node.index.database import Database
from dicom_node.logs import get_logger
from dicom_node.receive.audit_trail import ReceiveAudit
from dicom_node.receive.commitment_reporter import CommitmentReporter
from dicom_node.receive.listeners import listeners_of
from dicom_node.receive.node_services import NodeServices
from dicom_node.receive.recovery import recover
from dicom_node.receive.upper_layer.acceptor import Arrival, ConnectionAcceptor
from dicom_node.receive.upper_layer.access_rules import LIMIT_EXCEEDED, NOT_UNDERSTOOD, Rejection, Rules
from dicom_node.receive.upper_layer.association import Association
from dicom_node.receive.upper_layer.negotiation import ae_titles
from dicom_node.receive.upper_layer.negotiation_memory import NegotiationMemory
from dicom_node.receive.upper_layer.pdu import PeerStream, ProtocolError, abort, reject
from dicom_node.receive.upper_layer.services import Caller
from dicom_node.receive.upper_layer.tls import server_context
from dicom_node.storage.instance_store import InstanceStore

log = get_logger(__name__)

MAX_NAMED_CLASSES: Final = 3
"""At most this many refused SOP classes are logged; a workstation proposes a hundred."""
RESERVED_SHARE: Final = 8
"""One place in so many is kept for peers that the configuration names."""
MIN_IDLE_SECONDS: Final = 1.0
"""An association that was accepted a moment ago is about to be used."""
STOP_SECONDS: Final = 10.0
"""An association in the middle of a message gets so long to finish it when the receiver stops."""


class Receiver:
    """Receives for one node on its plain and, where configured, its TLS port. `start` and `stop` once each."""

    def __init__(self, settings: Settings, database: Database, store: InstanceStore) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._rules = Rules(settings)
        # All receivers of a node write times by one clock: the index's, where it has one of its own.
        clock = self._clock = clock_of(database)
        self._audit = ReceiveAudit(database, ae_title=settings.node.ae_title, site=settings.audit.site, clock=clock)
        self._services = NodeServices(settings, database, store, self._audit, self._rules, clock)
        self._reporter = CommitmentReporter(database=database, store=store, rules=self._rules, clock=clock)
        self._negotiations = NegotiationMemory(max_pdu_bytes=settings.receive.pdu_bytes)
        self._guard = threading.Lock()
        self._associations: dict[Association, None] = {}
        self._stopping = False
        self._by_address: Counter[str] = Counter()
        self._threads: set[threading.Thread] = set()
        self._ended: set[Association] = set()
        """Associations that had to give way and have not gone yet."""
        self._ended_by_address: Counter[str] = Counter()
        has_named = bool(settings.destinations or settings.query or settings.receive.peers)
        self._reserved = max(1, settings.receive.max_associations // RESERVED_SHARE) if has_named else 0
        self._acceptor: ConnectionAcceptor | None = None
        self._acceptor_thread: threading.Thread | None = None
        self.port = 0
        """The port listened on: the configured one, or the one that the system chose for 0."""
        self.tls_port = 0

    def start(self) -> None:
        """Recover what an earlier life left, listen, and return. Raises ConfigurationError, NodeError."""
        tls = self._settings.tls
        context = server_context(tls) if tls is not None else None
        # Before listening, so that nothing of this process is on its way in while store and index are compared.
        if self._store.recovers_at_start:
            recover(self._database, self._store, clock=self._clock)
        else:
            self._store.remove_orphans(lambda _names: ())
        self._store.expect_many()
        plain, encrypted = listeners_of(self._settings)
        self.port = plain.getsockname()[1]
        listeners: list[tuple[socket.socket, ssl.SSLContext | None]] = [(plain, None)]
        if encrypted is not None:
            self.tls_port = encrypted.getsockname()[1]
            listeners.append((encrypted, context))
        self._acceptor = ConnectionAcceptor(
            listeners=listeners,
            limits=self._settings.receive,
            admits_address=self._rules.admits_address,
            decide=self._decide,
            tell_refusal=self._audit.record_refusal,
        )
        self._acceptor_thread = threading.Thread(target=self._acceptor.run, name="acceptor", daemon=True)
        self._reporter.start()
        self._audit.start()
        self._acceptor_thread.start()  # last: everything runs before the first connection
        log.info("receiver listening", port=self.port, tls_port=self.tls_port or None, pid=os.getpid())

    def stop(self) -> None:
        """Take no new association, let messages in work finish, end. May be called twice."""
        if self._acceptor is None or self._acceptor_thread is None:
            return
        self._acceptor.stop()
        self._acceptor_thread.join()
        self._acceptor = None
        self._stopping = True
        for association in self._running():
            association.stop()
        # First they may finish the message in work; who does not in this time is ended, its message unanswered and sent
        # again.
        if not self._wait_for_threads(STOP_SECONDS):
            for association in self._running():
                association.end_now()
            self._wait_for_threads(STOP_SECONDS)
        self._reporter.stop()
        self._audit.stop()
        self._services.close()
        self._store.close()
        log.info("receiver stopped", port=self.port)

    @property
    def association_count(self) -> int:
        """The number of associations now."""
        with self._guard:
            return len(self._associations)

    def _decide(self, arrival: Arrival) -> Rejection | None:
        """Called in the acceptor's thread with a whole request: reject it, or start the association's thread."""
        called, calling = ae_titles(arrival.request)
        rejection = self._rules.rejection(called=called, calling=calling, address=arrival.address)
        if rejection is not None:
            return rejection
        with self._guard:
            if not self._has_room(arrival.address, is_named=self._rules.of(calling, arrival.address).is_named):
                return LIMIT_EXCEEDED
            thread = threading.Thread(target=self._serve, args=(arrival, calling), name="association", daemon=True)
            # Entered before it starts: an association that ends at once takes itself out, and must find itself in.
            self._threads.add(thread)
            self._by_address[arrival.address] += 1
        thread.start()
        return None

    def _has_room(self, address: str, *, is_named: bool) -> bool:
        """Find a place for one more association; a stranger's that is idle gives way. Called with the guard held.

        Places are kept for the peers that the configuration names, so that no crowd can lock them out.
        """
        limits = self._settings.receive
        kept = 0 if is_named else self._reserved
        # One that was told to give way keeps its thread for a moment, but its place counts as free at once.
        per_address = self._by_address[address] - self._ended_by_address[address]
        total = len(self._threads) - self._ended_by_address.total()
        if per_address >= limits.max_associations_per_address:
            return False
        if total < limits.max_associations - kept:
            return True
        if len(self._threads) >= 2 * limits.max_associations:
            return False  # those that were ended have not gone yet
        oldest = self._longest_idle_stranger(than_address_with=per_address)
        if oldest is None:
            return False
        log.warning("idle association ended for another one", peer=oldest.caller.address)
        self._ended_by_address[oldest.caller.address] += 1
        self._ended.add(oldest)
        oldest.give_way()
        return True

    def _longest_idle_stranger(self, *, than_address_with: int) -> Association | None:
        """The unnamed peer's association that has waited longest without any transfer, of the busiest address."""
        now = time.monotonic()  # one that began a moment ago counts of a busier address only: a crowd comes again
        idle = [
            association
            for association in self._associations
            if association not in self._ended
            and not association.caller.rule.is_named
            and association.has_only_waited_since(
                now if self._by_address[association.caller.address] > than_address_with + 1 else now - MIN_IDLE_SECONDS
            )
        ]
        return min(idle, key=lambda one: (-self._by_address[one.caller.address], one.idle_since), default=None)

    def _serve(self, arrival: Arrival, calling: str) -> None:
        """The life of one association, in its own thread."""
        try:
            self._negotiate_and_run(arrival, calling)
        finally:
            arrival.connection.close()  # whatever ended it: a connection that stays open is a way to fill us up
            with self._guard:
                self._threads.discard(threading.current_thread())
                self._by_address[arrival.address] -= 1
                if not self._by_address[arrival.address]:
                    del self._by_address[arrival.address]

    def _negotiate_and_run(self, arrival: Arrival, calling: str) -> None:
        limits = self._settings.receive
        stream = PeerStream(arrival.connection, max_pdu_bytes=limits.pdu_bytes, send_seconds=limits.dimse_seconds)
        rule = self._rules.of(calling, arrival.address)
        try:
            negotiated = self._negotiations.negotiate(arrival.request, rule=rule)
        except ProtocolError as error:
            log.warning("association refused", peer=arrival.address, why=str(error))
            self._audit.record_refusal(arrival.address, NOT_UNDERSTOOD)
            stream.send_and_close(abort(error.reason))
            return
        if isinstance(negotiated, Rejection):
            log.warning("association rejected", peer=arrival.address, why=negotiated.why)
            self._audit.record_refusal(arrival.address, negotiated.why)
            stream.send_and_close(reject(negotiated))
            return
        association = Association(
            stream=stream,
            caller=Caller(
                address=arrival.address,
                calling_ae_title=calling,
                called_ae_title=negotiated.called_ae_title,
                rule=rule,
                is_tls=arrival.is_tls,
            ),
            negotiated=negotiated,
            services=self._services,
            limits=limits,
        )
        if negotiated.refused:
            few, count = negotiated.refused[:MAX_NAMED_CLASSES], len(negotiated.refused)
            log.info("presentation contexts refused", calling=calling, count=count, among_them=few)
        self._run(association)

    def _run(self, association: Association) -> None:
        """Run an association to its end, among those that `stop` and a lack of places look at."""
        with self._guard:
            self._associations[association] = None
        # `stop` may have made its list of associations before this one stood in it.
        if self._stopping:
            association.stop()
        try:
            association.run()
        finally:
            with self._guard:
                del self._associations[association]
                if association in self._ended:
                    self._ended.discard(association)
                    self._ended_by_address[association.caller.address] -= 1

    def _running(self) -> list[Association]:
        with self._guard:
            return list(self._associations)

    def _wait_for_threads(self, seconds: float) -> bool:
        """Wait for the association threads; False if one did not end in time."""
        deadline = time.monotonic() + seconds
        with self._guard:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)


def run_receiver(
    settings: Settings,
    database: Database,
    store: InstanceStore,
    *,
    stop: threading.Event,
    ready: Callable[[], None] | None = None,
) -> None:
    """Receive until `stop` is set (SIGTERM sets it in a node's process), then end gracefully."""
    receiver = Receiver(settings, database, store)
    receiver.start()
    if ready is not None:
        ready()
    stop.wait()
    receiver.stop()
