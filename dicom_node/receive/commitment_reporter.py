"""Commitment reports on associations of our own, to peers that asked and hung up. One thread per receiver process."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from typing import Final

from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel
from sqlalchemy import exists, select, update

from dicom_node.dicom.associate_pdu import accept_odd_associate_acs
from dicom_node.index.commits import CommitWatch
from dicom_node.index.database import Database
from dicom_node.index.tables.core import CommitmentRequest, CommitmentState
from dicom_node.logs import get_logger
from dicom_node.receive.storage_commitment import WELL_KNOWN_INSTANCE, event_information, mark_reported, verdict
from dicom_node.receive.upper_layer.access_rules import Rules
from dicom_node.storage.instance_store import InstanceStore, StoreUnavailableError
from dicom_node.system.backoff import pause_after

log = get_logger(__name__)
accept_odd_associate_acs()

TICK_SECONDS: Final = 2.0
NETWORK_SECONDS: Final = 30.0
LEASE: Final = dt.timedelta(seconds=120)
"""While one process tries, the others leave the row alone."""
FIRST_RETRY: Final = dt.timedelta(seconds=60)
LONGEST_RETRY: Final = dt.timedelta(hours=1)
GIVE_UP_AFTER: Final = dt.timedelta(days=2)


class CommitmentReporter:
    """Sends what is due. `start` and `stop` once each."""

    def __init__(
        self, *, database: Database, store: InstanceStore, rules: Rules, clock: Callable[[], dt.datetime]
    ) -> None:
        self._database = database
        self._store = store
        self._rules = rules
        self._clock = clock
        self._watch = CommitWatch(database)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commitment-reporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End; a report that is on its way is finished first."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            try:
                if self._watch.look(self._has_pending):
                    self.send_due()
            except Exception as error:  # noqa: BLE001 (a thread that ended here would never report again)
                log.error("commitment reports wait", why=f"{type(error).__name__}: {error}")
        self._watch.close()

    def _has_pending(self) -> bool:
        """Tell whether a peer waits for a report, due or not."""
        with self._database.read() as session:
            pending = exists().where(CommitmentRequest.state == CommitmentState.PENDING)
            return bool(session.scalar(select(pending)))

    def send_due(self) -> int:
        """Send every report that is due now; returns how many peers took theirs. Raises IndexUnavailableError."""
        taken = 0
        while not self._stop.is_set() and (row := self._claim()) is not None:
            taken += self._send(row)
        return taken

    def _claim(self) -> CommitmentRequest | None:
        now = self._clock()
        # The due time is the lease: a report that one process tries is not due for the others, and comes due by itself
        # where that process dies. A row that another one is just taking is passed over.
        due = (
            select(CommitmentRequest.id)
            .where(CommitmentRequest.state == CommitmentState.PENDING, CommitmentRequest.next_attempt_at <= now)
            .order_by(CommitmentRequest.next_attempt_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self._database.write() as session:
            row = session.scalar(
                update(CommitmentRequest)
                .where(CommitmentRequest.id == due.scalar_subquery())
                .values(next_attempt_at=now + LEASE, attempts=CommitmentRequest.attempts + 1)
                .returning(CommitmentRequest)
                .execution_options(synchronize_session=False)
            )
            session.expunge_all()
            return row

    def _send(self, row: CommitmentRequest) -> bool:
        host, port = self._rules.callback(row.calling_ae_title)
        # N-EVENT-REPORT on an association of ours (PS3.4 J.3.3): the one on which it was asked for may be closed by
        # then.
        why = self._report(row, host, port) if host else "no host is configured for this AE ([[receive.peers]])"
        now = self._clock()
        with self._database.write() as session:
            if not why:
                mark_reported(session, row.id, now=now)
                return True
            pause = pause_after(row.attempts, first=FIRST_RETRY, longest=LONGEST_RETRY)
            is_over = now - row.created_at > GIVE_UP_AFTER
            session.execute(
                update(CommitmentRequest)
                .where(CommitmentRequest.id == row.id)
                .values(
                    state=CommitmentState.DEAD if is_over else CommitmentState.PENDING,
                    next_attempt_at=now + pause,
                    last_error=why,
                )
                .execution_options(synchronize_session=False)
            )
        log.warning("commitment report not delivered", to=row.calling_ae_title, why=why, given_up=is_over)
        return False

    def _report(self, row: CommitmentRequest, host: str, port: int) -> str:
        """Send one report as the SCP on an association that we open (PS3.4 section J.3.3); "" or what failed."""
        try:
            with self._database.read() as session:
                committed = verdict(session, self._store, row.referenced_sops)
        except StoreUnavailableError as error:
            return str(error)
        event_type, information = event_information(row.transaction_uid, committed)
        ae = AE(ae_title=self._rules.ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = NETWORK_SECONDS
        ae.add_requested_context(StorageCommitmentPushModel, ImplicitVRLittleEndian)
        # This node opens the association and yet is the SCP of the service, which the peer must agree to by role
        # selection (PS3.7 section D.3.3.4).
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = ae.associate(host, port, ae_title=row.calling_ae_title, ext_neg=[role])
        if not association.is_established:
            return f"no association with {host}:{port}"
        try:
            answer, _ = association.send_n_event_report(
                information, event_type, StorageCommitmentPushModel, WELL_KNOWN_INSTANCE
            )
        except (RuntimeError, ValueError) as error:
            return str(error)
        finally:
            association.release()
        status = answer.get("Status")
        return "" if status == 0 else f"the peer answered {status if status is None else f'{status:04X}H'}"
