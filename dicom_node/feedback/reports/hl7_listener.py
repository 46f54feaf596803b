"""The MLLP listener (HL7 v2 over TCP): one message a frame, acknowledged when its reports are rows, and not before.

Frame: 0BH, message, 1CH 0DH (HL7 v2.5.1 appendix C, minimal lower layer protocol).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import threading
from functools import partial
from ipaddress import ip_address
from typing import Any

from sqlalchemy.orm import Session

from dicom_node.audit import messages as audit
from dicom_node.chart.messages import ORDERS, ChartMessage, chart_message, is_for_chart, sender_of
from dicom_node.chart.messages import is_result as is_result_of
from dicom_node.chart.store import keep
from dicom_node.chart.vocabulary import chart_vocabulary
from dicom_node.context import NodeContext
from dicom_node.errors import ConfigurationError, IndexUnavailableError
from dicom_node.feedback.reports.hl7_message import (
    Hl7Error,
    NoReportError,
    acknowledgement,
    envelope,
    refuse_unfit,
    reports_of,
)
from dicom_node.feedback.reports.job import text_hash
from dicom_node.hl7.syntax import segments
from dicom_node.index.tables.reports import ReportKind, new_report
from dicom_node.logs import get_logger
from dicom_node.studies import received_reports as queue

log = get_logger(__name__)

START, END = b"\x0b", b"\x1c\x0d"
END_OF_BLOCK = END[:1]
"""A message ends here: some senders leave out the carriage return behind it, and one that comes is passed over."""
HEAD_BYTES = 4000
START_SECONDS = 30.0
STOP_SECONDS = 15.0
ANSWER_SECONDS = 30.0
"""The time a peer may take to read the node's answer."""


class Hl7Listener:
    """`start`, then `stop`. `port` is the port listened on (settings may say 0). A thread of the main process."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self._settings = node.settings.hl7
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._ended: asyncio.Event | None = None
        self._failure = ""
        self._connections: set[asyncio.Task[None]] = set()
        self._idle: dict[asyncio.Task[None], None] = {}
        """Those between two messages, the longest first."""
        self._thread = threading.Thread(target=self._run, name="hl7", daemon=True)
        self.port = 0

    def start(self) -> None:
        """Listen. Raises ConfigurationError where the address cannot be had."""
        self._thread.start()
        if not self._ready.wait(START_SECONDS) or self._failure:
            raise ConfigurationError(f"hl7.host, hl7.port: cannot listen: {self._failure or 'no answer in time'}")
        log.info("HL7 listener ready", host=self._settings.host, port=self.port)

    def stop(self) -> None:
        """Answer what is being read, then end."""
        if self._ended is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._listen())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        self._ended = asyncio.Event()
        try:
            server = await asyncio.start_server(
                self._handle_connection,
                self._settings.host,
                self._settings.port,
                limit=self._settings.max_message_kib * 1024,
            )
        except OSError as error:
            self._failure = str(error)
            self._ready.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        async with server:
            await self._ended.wait()
        connections = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        address = str(writer.get_extra_info("peername")[0])
        is_allowed = self._admits(address)
        full = is_allowed and not self._has_room()  # counted before this one is in the set; a stranger takes no place
        self._connections.add(task)
        try:
            if not is_allowed:
                log.warning("HL7 connection refused: address not allowed", address=address)
            elif full:
                log.warning("HL7 connection refused: too many at once", address=address)
            else:
                await self._converse(reader, writer, address)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.CancelledError) as error:
            log.info("HL7 connection ended", address=address, why=type(error).__name__)
        finally:
            self._connections.discard(task)
            self._idle.pop(task, None)
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await writer.wait_closed()

    def _has_room(self) -> bool:
        """Tell whether one more connection may be served; where there are too many, the longest idle one gives way.

        A RIS that was switched off leaves its connections behind and needs new ones at once.
        """
        if len(self._connections) < self._settings.max_connections:
            return True
        longest = next(iter(self._idle), None)
        if longest is None:
            return False
        del self._idle[longest]
        self._connections.discard(longest)
        longest.cancel()
        return True

    def _admits(self, address: str) -> bool:
        parsed = ip_address(address.split("%")[0])
        # A socket for both families shows an IPv4 peer as ::ffff:a.b.c.d, which is in no IPv4 network.
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        allowed = self._settings.addresses
        return not allowed or any(parsed.version == network.version and parsed in network for network in allowed)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        """Message after message until the peer goes, says nothing for long, or breaks the framing."""
        while True:
            first = await self._first_byte(reader)
            if not first:
                return
            if first in b"\r\n":
                continue
            if first != START:
                log.warning("HL7 connection ended: bytes outside a frame", address=address)
                return
            try:
                async with asyncio.timeout(self._settings.message_seconds):
                    frame = await reader.readuntil(END_OF_BLOCK)
            except asyncio.LimitOverrunError:
                text = f"a message has at most {self._settings.max_message_kib} KiB"
                await self._answer(writer, self._refusal(await reader.read(HEAD_BYTES), text, "AR"))
                log.warning("HL7 connection ended: message too long", address=address)
                return
            # In a thread: a commit that waits for the index would hold up every other sender.
            answer = await self._loop.run_in_executor(None, self._take, frame[:-1], address)
            await self._answer(writer, answer)

    async def _first_byte(self, reader: asyncio.StreamReader) -> bytes:
        """The next byte of an idle connection. Raises CancelledError where another one needs its place."""
        task = asyncio.current_task()
        assert task is not None
        self._idle[task] = None
        async with asyncio.timeout(self._settings.idle_seconds):
            first = await reader.read(1)
        self._idle.pop(task, None)
        return first

    async def _answer(self, writer: asyncio.StreamWriter, message: bytes) -> None:
        writer.write(START + message + END)
        async with asyncio.timeout(ANSWER_SECONDS):
            await writer.drain()

    def _take(self, data: bytes, address: str) -> bytes:
        """Make rows of a message; its acknowledgement. AA only after the commit."""
        now = self._node.clock()
        try:
            chart, reports = self._read(data)
            with self._node.database.write() as session:
                new = self._keep_chart(session, chart, now) if chart is not None else 0
                for values in reports:
                    key, digest = values.pop("source_key"), text_hash(values["text"])
                    row = new_report(ReportKind.HL7, key, now=now, **values, text_sha256=digest)
                    new += queue.add(session, row, now=now)
        except Hl7Error as error:
            log.warning("HL7 message not taken", address=address, code=error.code, why=str(error))
            return self._refusal(data, str(error), error.code)
        except IndexUnavailableError:
            log.error("HL7 message not taken: the index does not answer", address=address)
            return self._refusal(data, "the index does not answer just now; send it again", "AE")
        except Exception as error:  # noqa: BLE001 (foreign bytes: without an answer the sender's queue stands still)
            log.error("HL7 message not taken: a fault of this node", address=address, why=type(error).__name__)
            return self._refusal(data, f"this node failed on the message: {type(error).__name__}", "AR")
        items = len(chart.items) if chart is not None else 0
        log.info("HL7 message taken", address=address, reports=len(reports), chart=items, new=new)
        return acknowledgement(envelope(data), "AA", "", now=now)

    def _read(self, data: bytes) -> tuple[ChartMessage | None, list[dict[str, Any]]]:
        """The part of a message for the chart, and its reports. Raises Hl7Error where it holds neither.

        From a laboratory that is heard, a message of which nothing is used is taken too: refused, it would stand before
        all others in the sender's queue.
        """
        read, settings = segments(data, charset=self._settings.charset), self._node.settings.chart
        vocabulary, is_heard = chart_vocabulary(settings), sender_of(read[0]) in settings.senders
        chart = None
        if is_heard and is_for_chart(read, vocabulary):
            refuse_unfit(read)
            chart = chart_message(read, vocabulary)
        elif ORDERS.match(read[0].raw(9)):
            raise Hl7Error("orders are taken only from the senders that [chart] senders names", code="AR")
        is_result = partial(is_result_of, vocabulary=vocabulary) if is_heard else (lambda _segment: False)
        try:
            return chart, reports_of(data, charset=self._settings.charset, is_result=is_result)
        # A laboratory's result without a report is the usual thing, and no fault.
        except NoReportError:
            if not is_heard:
                raise
        except Hl7Error:
            if chart is None:
                raise
        return chart, []

    def _keep_chart(self, session: Session, chart: ChartMessage, now: dt.datetime) -> int:
        node = audit.this_node(self._node.settings.node.ae_title, requestor=False)
        return keep(session, chart, now=now, audited=node, site=self._node.settings.audit.site)

    def _refusal(self, data: bytes, text: str, code: str) -> bytes:
        return acknowledgement(envelope(data), code, text, now=self._node.clock())
