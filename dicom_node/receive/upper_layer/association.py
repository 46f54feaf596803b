"""One association as its acceptor: PDUs → messages → handlers → responses, in one thread, until release or abort.

The states of PS3.8 section 9.2 that an acceptor can be in are places in this file's control flow:
Sta2/Sta3 lie before it (acceptor, negotiation), Sta6 is `_serve`, Sta8 and Sta13 are its ends. Nothing polls: a thread
sleeps in recv until bytes or a deadline come.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from dicom_node.config import ReceiveSection
from dicom_node.dicom.dimse_status import UNRECOGNIZED_OPERATION
from dicom_node.errors import NodeError
from dicom_node.logs import get_logger
from dicom_node.receive.upper_layer.dimse import (
    MESSAGE_ID_RESPONDED_TO,
    Command,
    CommandField,
    Message,
    encode_command,
    response,
)
from dicom_node.receive.upper_layer.incoming_message import IncomingMessage
from dicom_node.receive.upper_layer.negotiation import AcceptedContext, Negotiated
from dicom_node.receive.upper_layer.pdu import (
    AbortReason,
    DeadlineError,
    Fragment,
    PduType,
    PeerGoneError,
    PeerStream,
    ProtocolError,
    abort,
    fragments,
    p_data,
    release_response,
)
from dicom_node.receive.upper_layer.services import Caller, DataSink, PutOff, Request, Services
from dicom_node.receive.upper_layer.transfers import TransferBook

log = get_logger(__name__)

_CANCEL_LOOK_SECONDS: Final = 0.001


class Association:
    """Serves one accepted association. `run` in a thread of its own; `stop` from any other."""

    def __init__(
        self,
        *,
        stream: PeerStream,
        caller: Caller,
        negotiated: Negotiated,
        services: Services,
        limits: ReceiveSection,
    ) -> None:
        self._stream = stream
        self._caller = caller
        self._negotiated = negotiated
        self._services = services
        self._limits = limits
        self._ends_by = time.monotonic() + limits.lifetime_seconds
        self._incoming = IncomingMessage(limits)
        self._later: list[tuple[float, PutOff]] = []
        self._outstanding: dict[int, int] = {}
        self._cancelled: set[int] = set()
        self._transfers = TransferBook()
        self._guard = threading.Lock()
        self._idle = False
        self._stopping = False
        self._gives_way = False
        self._has_served = False
        self.caller = caller
        self.idle_since = time.monotonic()
        """Monotonic time of the last whole message."""

    def run(self) -> None:
        """Serve until the association ends, however it does. Never raises."""
        about = {"peer": self._caller.address, "calling": self._caller.calling_ae_title}
        try:
            self._stream.send(self._negotiated.reply)
            self._serve()
        except PeerGoneError as error:
            log.info("association ended by the peer", why=str(error), **about)
            self._stream.close()
        except DeadlineError as error:
            log.warning("association aborted", why=str(error), **about)
            self._stream.send_and_close(abort(AbortReason.NOT_SPECIFIED))
        except ProtocolError as error:
            log.warning("association aborted", why=str(error), **about)
            self._stream.send_and_close(abort(error.reason), lingers=not self._gives_way)
        except NodeError as error:
            log.error("association aborted", why=str(error), **about)
            self._stream.send_and_close(abort(AbortReason.NOT_SPECIFIED))
        except Exception:  # the network edge: whatever a stranger's bytes can raise ends this association alone
            log.exception("association aborted by a defect of this node", **about)
            self._stream.send_and_close(abort(AbortReason.NOT_SPECIFIED))
        finally:
            self._incoming.discard()
            self._services.record_end(self._caller, self._transfers)

    def stop(self) -> None:
        """End after the message that is being worked on; at once where none is."""
        # `_next_pdu` sets `_idle` under the same guard after it looked at `_stopping`, so no association falls asleep
        # in between. One that is in a message is not interrupted: its data set, or the answer to it, would be lost.
        with self._guard:
            self._stopping = True
            if self._idle:
                self._stream.interrupt()

    def has_only_waited_since(self, moment: float) -> bool:
        """Tell whether nothing was transferred on it, and its last message came before a monotonic time."""
        return self._idle and self.idle_since < moment and not any(True for _ in self._transfers)

    def give_way(self) -> None:
        """End at once, without waiting for the peer to read why: another one needs the place."""
        self._gives_way = True
        self.stop()

    def end_now(self) -> None:
        """End in the middle of whatever is going on: the grace of `stop` is over."""
        self._stopping = True
        self._stream.interrupt()

    def _serve(self) -> None:
        while True:
            pdu_type, body = self._next_pdu()
            if pdu_type is PduType.P_DATA:
                for fragment in fragments(body):
                    self._take(fragment)
            elif pdu_type is PduType.RELEASE_RQ:
                self._stream.send_and_close(release_response())
                return
            elif pdu_type is PduType.ABORT:
                raise PeerGoneError("aborted by the peer")
            else:
                # PS3.8 table 9-10, state Sta6: anything else is answered with an abort (AA-8).
                raise ProtocolError(f"{pdu_type.name} while nobody asked for a release", AbortReason.UNEXPECTED_PDU)

    def _next_pdu(self) -> tuple[PduType, memoryview]:
        """The next PDU under the deadline that fits where we are: between messages, or inside of one."""
        if self._incoming.is_in_progress:
            # A peer that falls silent inside a message gets the DIMSE time-out; only between messages may it be idle
            # for long.
            start_by = min(time.monotonic() + self._limits.dimse_seconds, self._ends_by)
            return self._stream.read_pdu(start_by=start_by, whole_within=self._limits.dimse_seconds)
        with self._guard:
            if self._stopping:
                raise ProtocolError(self._why_stopping, AbortReason.NOT_SPECIFIED)
            self._idle = True
        try:
            return self._between_messages()
        except PeerGoneError:
            # `interrupt` looks like a close by the peer, but it is this node that ends: the peer is told so by an
            # A-ABORT.
            if self._stopping:
                raise ProtocolError(self._why_stopping, AbortReason.NOT_SPECIFIED) from None
            raise
        finally:
            with self._guard:
                self._idle = False

    @property
    def _why_stopping(self) -> str:
        return "idle while others waited" if self._gives_way else "the node is stopping"

    def _between_messages(self) -> tuple[PduType, memoryview]:
        """Wait for the peer, and send what was put off once it has been silent long enough."""
        is_new_stranger = not (self._has_served or self._caller.rule.is_named)
        limits = self._limits
        # A stranger that has asked for nothing yet holds a place that others may need, so it gets less patience.
        patience = min(limits.first_message_seconds, limits.idle_seconds) if is_new_stranger else limits.idle_seconds
        give_up = min(time.monotonic() + patience, self._ends_by)
        while True:
            # A read may not be broken off once bytes have come, so its deadline for the first byte is also the alarm
            # clock for what was put off.
            due = min((when for when, _ in self._later), default=give_up)
            try:
                return self._stream.read_pdu(start_by=min(due, give_up), whole_within=self._limits.dimse_seconds)
            except DeadlineError:
                now = time.monotonic()
                if now >= give_up or not any(when <= now for when, _ in self._later):
                    raise
                ready = [make for when, make in self._later if when <= now]
                self._later = [(when, make) for when, make in self._later if when > now]
                for message in (make() for make in ready):
                    if message is not None:
                        self._send(message)

    def _take(self, fragment: Fragment) -> None:
        """Add a fragment to the message that is coming in; serve the message when it is whole."""
        incoming = self._incoming
        if fragment.is_command:
            command = incoming.add_command(fragment)
            if command is None:
                return
            context = self._context(fragment.context_id)
            if command.has_data_set:
                incoming.expect_data_set(
                    command, fragment.context_id, self._services.sink(command, context, self._caller)
                )
                return
            incoming.reset()
            self._handle(command, context, None)
        elif incoming.add_data(fragment):
            command, sink = incoming.take()
            try:
                self._handle(command, self._context(fragment.context_id), sink)
            finally:
                # Whatever the end was: a file that was stored has left the sink by now.
                sink.discard()

    def _handle(self, command: Command, context: AcceptedContext, sink: DataSink | None) -> None:
        self.idle_since = time.monotonic()
        self._has_served = True
        if command.field == CommandField.C_CANCEL_RQ:
            # For a request that has been answered meanwhile: nothing to do (PS3.7 section 9.3.2.3).
            self._cancelled.add(command.number(MESSAGE_ID_RESPONDED_TO))
            return
        handler = self._services.handlers.get(command.field)
        if handler is None:
            # Bit 15 marks a response (PS3.7 annex E).
            if command.field & 0x8000:
                raise ProtocolError(f"a response {command.field:#06x} that nobody asked for")
            self._send(response(command, context.context_id, UNRECOGNIZED_OPERATION))
            return
        # Message ids come again: a cancel of an earlier request with this id must not end the new one.
        self._cancelled.clear()
        request = Request(
            caller=self._caller,
            context=context,
            command=command,
            data=sink,
            send_later=self._send_later,
            outstanding=self._outstanding,
            is_cancelled=lambda: self._look_for_cancel(command.message_id),
            transfers=self._transfers,
        )
        for message in handler(request):
            self._send(message)
        self.idle_since = time.monotonic()

    def _look_for_cancel(self, message_id: int) -> bool:
        """Read what the peer sent while we answer; only a C-CANCEL may come (no asynchronous operations)."""
        while message_id not in self._cancelled:
            soon = time.monotonic() + _CANCEL_LOOK_SECONDS
            try:
                pdu_type, body = self._stream.read_pdu(start_by=soon, whole_within=self._limits.dimse_seconds)
            except DeadlineError:
                return False
            if pdu_type is not PduType.P_DATA:
                raise PeerGoneError(f"{pdu_type.name} while being answered")
            for fragment in fragments(body):
                # A data fragment here has no command of its own, and C-CANCEL has no data set: it is passed over.
                command = self._incoming.add_command(fragment) if fragment.is_command else None
                if command is None:
                    continue
                if command.field != CommandField.C_CANCEL_RQ:
                    raise ProtocolError("a second request while the first is being answered")
                self._incoming.reset()
                self._cancelled.add(command.number(MESSAGE_ID_RESPONDED_TO))
        return True

    def _send(self, message: Message) -> None:
        room = self._negotiated.peer_max_pdu_bytes
        has_data_set = message.data_set is not None
        command = encode_command(message.elements, has_data_set=has_data_set)
        pdus = list(p_data(message.context_id, command, is_command=True, max_pdu_bytes=room))
        if message.data_set is not None:
            pdus += p_data(message.context_id, message.data_set, is_command=False, max_pdu_bytes=room)
        self._stream.send(*pdus)

    def _send_later(self, make: PutOff, seconds: float) -> None:
        self._later.append((time.monotonic() + seconds, make))

    def _context(self, context_id: int) -> AcceptedContext:
        context = self._negotiated.contexts.get(context_id)
        if context is None:
            raise ProtocolError(f"a message in presentation context {context_id}, which was not accepted")
        return context
