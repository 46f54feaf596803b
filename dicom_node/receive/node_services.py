"""The services of a node on its associations: which handler answers, and where a data set goes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from dicom_node.config import Settings
from dicom_node.index.database import Database
from dicom_node.receive.audit_trail import ReceiveAudit
from dicom_node.receive.c_echo import handle_echo
from dicom_node.receive.c_find import handle_find
from dicom_node.receive.c_store import StoreService, handle_store
from dicom_node.receive.group_commit import IndexWriter
from dicom_node.receive.instance_upload import StoreLimits
from dicom_node.receive.storage_commitment import CommitmentService, handle_action, handle_event, handle_event_response
from dicom_node.receive.upper_layer.access_rules import Rules
from dicom_node.receive.upper_layer.dimse import Command, CommandField
from dicom_node.receive.upper_layer.negotiation import AcceptedContext
from dicom_node.receive.upper_layer.services import Caller, DataSink, Handler
from dicom_node.receive.upper_layer.sinks import MAX_PASSED_OVER_BYTES, MemorySink
from dicom_node.receive.upper_layer.transfers import TransferBook
from dicom_node.storage.instance_store import InstanceStore

_MIB: Final = 1 << 20


class NodeServices:
    """All services of the node on its associations."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        store: InstanceStore,
        audit: ReceiveAudit,
        rules: Rules,
        clock: Callable[[], dt.datetime],
    ) -> None:
        self._audit = audit
        limits = StoreLimits(
            max_instance_bytes=settings.receive.max_instance_mib * _MIB,
            min_free_bytes=settings.receive.min_free_mib * _MIB,
        )
        self._storing = StoreService(
            store=store,
            index=IndexWriter(database),
            audit=audit,
            limits=limits,
            own_ae_title=settings.node.ae_title,
            clock=clock,
            is_peer_at=rules.known.is_at,
            expects_unnamed=any(not peer.names_originator for peer in settings.query),
        )
        committing = CommitmentService(
            database=database,
            store=store,
            clock=clock,
            is_destination=lambda name, caller: rules.known.is_destination(
                name, ae_title=caller.calling_ae_title, address=caller.address
            ),
        )
        self.handlers: Mapping[int, Handler] = {
            CommandField.C_ECHO_RQ: handle_echo,
            CommandField.C_STORE_RQ: partial(handle_store, self._storing),
            CommandField.C_FIND_RQ: partial(handle_find, database, audit),
            CommandField.N_ACTION_RQ: partial(handle_action, committing),
            CommandField.N_EVENT_REPORT_RQ: partial(handle_event, committing),
            CommandField.N_EVENT_REPORT_RSP: partial(handle_event_response, committing),
        }

    def sink(self, command: Command, context: AcceptedContext, caller: Caller) -> DataSink:
        if command.field == CommandField.C_STORE_RQ:
            return self._storing.upload(command, context)
        is_commitment = command.field in (CommandField.N_ACTION_RQ, CommandField.N_EVENT_REPORT_RQ)
        return MemorySink(max_bytes=MAX_PASSED_OVER_BYTES) if is_commitment else MemorySink()

    def close(self) -> None:
        """Give back what the services hold, once no association is left."""
        self._storing.index.close()

    def record_end(self, caller: Caller, transfers: TransferBook) -> None:
        self._audit.record_association_end(caller, transfers)
