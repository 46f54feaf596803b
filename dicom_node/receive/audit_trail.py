"""Audit messages (PS3.15 section A.5) and counters of one receiver process, at little cost to C-STORE.

"Begin Transferring" is written in the transaction of a study's first instance on an association, and "Instances
Transferred" once when the association ends. Refusals are counted in memory and written every few seconds, so that a
stranger who knocks a thousand times costs a row, not a thousand. A kill loses the closing message of associations that
were open (their Begin message and instance rows are there) and the refusals of the last seconds (the log has them).
"""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from collections.abc import Callable
from typing import Final

from sqlalchemy.orm import Session

from dicom_node.audit import messages as audit
from dicom_node.audit.messages import AskedQuery, AuditedEvent, EventOutcome, EventType, Participant, this_node
from dicom_node.dicom.header import InstanceHeader
from dicom_node.errors import IndexUnavailableError
from dicom_node.index import counters as tally
from dicom_node.index.database import Database
from dicom_node.logs import get_logger
from dicom_node.receive.upper_layer.access_rules import ALERTS
from dicom_node.receive.upper_layer.services import Caller
from dicom_node.receive.upper_layer.transfers import TransferBook, about

log = get_logger(__name__)

WRITE_SECONDS: Final = 2.0
MOST_ALERTS: Final = 64
"""In one writing; what is more becomes one message of its own."""

RECEIVED: Final = "instances received"
"""Label: "new" or "held already"."""
INSTANCE_REFUSED: Final = "instances refused"
"""Label: the status, as four hexadecimal digits."""
ASSOCIATION_REFUSED: Final = "associations refused"
"""Label: why, from the fixed words of `rules`."""


class ReceiveAudit:
    """Messages and counters of one receiver process. `start` and `stop` once each."""

    def __init__(self, database: Database, *, ae_title: str, site: str, clock: Callable[[], dt.datetime]) -> None:
        self._database = database
        self._ae_title = ae_title
        self._site = site
        self._clock = clock
        self._guard = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._alerts: Counter[tuple[str, str]] = Counter()
        """(address, why) → how often since the last writing."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="receive-audit", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end."""
        self._ended.set()
        self._thread.join()

    def record_refusal(self, address: str, why: str) -> None:
        """A connection or association was refused; memory only, from any thread. why: one of the words of `rules`."""
        with self._guard:
            self._counts[ASSOCIATION_REFUSED, why] += 1
            if why in ALERTS:
                self._alerts[address, why] += 1

    def record_instance_refusal(self, status: int) -> None:
        """A C-STORE was answered with a failure; memory only."""
        with self._guard:
            self._counts[INSTANCE_REFUSED, f"{status:04X}"] += 1

    def began(self, session: Session, caller: Caller, header: InstanceHeader) -> None:
        """The first instance of a study on an association, in the transaction that takes it (section A.5.3.3)."""
        audit.record(
            session,
            AuditedEvent.BEGIN_TRANSFERRING,
            now=self._clock(),
            participants=self._participants(caller),
            study=about(header),
            site=self._site,
        )

    def record_query(self, session: Session, caller: Caller, query: AskedQuery) -> None:
        """A C-FIND came (section A.5.3.10), in the caller's transaction; what is answered is no part of the message."""
        audit.record(
            session,
            AuditedEvent.QUERY,
            now=self._clock(),
            participants=self._participants(caller),
            query=query,
            site=self._site,
        )

    def record_association_end(self, caller: Caller, book: TransferBook) -> None:
        """One message for each study that came on it (section A.5.3.7). Never raises: the association is over."""
        transfers = list(book)
        if not transfers:
            return
        with self._guard:
            for transfer in transfers:
                self._counts[RECEIVED, "new"] += transfer.new
                self._counts[RECEIVED, "held already"] += transfer.sop_classes.total() - transfer.new
        try:
            with self._database.write() as session:
                for transfer in transfers:
                    audit.record(
                        session,
                        AuditedEvent.INSTANCES_TRANSFERRED,
                        now=self._clock(),
                        participants=self._participants(caller),
                        study=transfer.about(),
                        # PS3.15 table A.5.3.7-1: "C" for what is new here, "R" where all was held already.
                        action="C" if transfer.new else "R",
                        site=self._site,
                    )
        except IndexUnavailableError as error:
            log.error("received studies not audited", studies=len(transfers), why=str(error))

    def write(self) -> None:
        """Write what was counted since the last time. Raises IndexUnavailableError; the counts then wait."""
        with self._guard:
            counts, self._counts = self._counts, Counter()
            alerts, self._alerts = self._alerts, Counter()
        # Unary plus drops what is zero.
        counts = +counts
        if not counts and not alerts:
            return
        try:
            with self._database.write() as session:
                for (name, label), count in counts.items():
                    tally.add(session, name, label, by=count)
                self._write_alerts(session, alerts)
        except IndexUnavailableError:
            with self._guard:
                # Added and not put back: others have counted meanwhile.
                self._counts += counts
                self._alerts += alerts
            raise

    def _write_alerts(self, session: Session, alerts: Counter[tuple[str, str]]) -> None:
        """Security alerts of refused nodes (section A.5.3.11), the busiest first."""
        ranked = alerts.most_common()
        for (address, why), count in ranked[:MOST_ALERTS]:
            self._record_alert(session, f"{why}: refused {count} times", address=address)
        rest = ranked[MOST_ALERTS:]
        if rest:
            total = sum(count for _, count in rest)
            self._record_alert(session, f"{total} more refusals from {len(rest)} other addresses or for other reasons")

    def _record_alert(self, session: Session, text: str, *, address: str = "") -> None:
        # Who performed what the alert is about is no requestor (table A.5.3.11-1).
        stranger = (Participant(user_id=address, address=address),) if address else ()
        audit.record(
            session,
            AuditedEvent.SECURITY_ALERT,
            event_type=EventType.NODE_AUTHENTICATION,
            outcome=EventOutcome.MINOR_FAILURE,
            now=self._clock(),
            participants=(this_node(self._ae_title), *stranger),
            alert=text,
            about_node=address,
            site=self._site,
        )

    def _participants(self, caller: Caller) -> tuple[Participant, ...]:
        peer = Participant(
            user_id=caller.calling_ae_title,
            ae_title=caller.calling_ae_title,
            requestor=True,
            role="source",
            address=caller.address,
        )
        return (peer, this_node(self._ae_title, role="destination"))

    def _run(self) -> None:
        while not self._ended.wait(WRITE_SECONDS):
            self._try_to_write()
        self._try_to_write()

    def _try_to_write(self) -> None:
        try:
            self.write()
        except Exception as error:  # noqa: BLE001 (a thread that ended here would never write again, unheard of)
            log.error("refusals wait to be counted", why=f"{type(error).__name__}: {error}")
