"""The pages' server: uvicorn on a thread of the main process, ended with it."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

import uvicorn

from dicom_node.context import NodeContext
from dicom_node.errors import ConfigurationError
from dicom_node.logs import get_logger
from dicom_node.web.app import create_app
from dicom_node.web.connections import BACKLOG, make_capped_protocol

log = get_logger(__name__)

START_SECONDS = 30.0


class _Server(uvicorn.Server):
    """A server that is told of its end, where uvicorn looks for it ten times a second all night."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked_to_end = asyncio.Event()

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):  # the number 0 has it bring the header Date up to the second
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked_to_end.wait(), 1.0)

    def end(self) -> None:
        """Finish running requests, then end. From any thread."""
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._asked_to_end.set)


class WebServer:
    """`start`, then `stop`. `port` is the one that is listened on (settings may say 0)."""

    def __init__(self, node: NodeContext) -> None:
        web = node.settings.web
        self._where = f"{web.host}:{web.port}"
        self._server = _Server(
            uvicorn.Config(
                create_app(node),
                host=web.host,
                port=web.port,
                log_config=None,
                access_log=False,
                server_header=False,
                # The peer's address is the socket's; nobody may say another one by header.
                proxy_headers=False,
                timeout_keep_alive=10,
                timeout_graceful_shutdown=5,
                http=make_capped_protocol(),
                backlog=BACKLOG,
                h11_max_incomplete_event_size=32_768,
            )
        )
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens, once started."""
        port: int = self._server.servers[0].sockets[0].getsockname()[1]
        return port

    def start(self) -> None:
        """Listen. Raises ConfigurationError where the address cannot be had."""
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise ConfigurationError(f"web.host, web.port: cannot listen on {self._where}")
            time.sleep(0.01)  # uvicorn tells of its start by an attribute only
        log.info("pages ready", host=self._where.rsplit(":", 1)[0], port=self.port)

    def stop(self) -> None:
        """Finish running requests, then end."""
        self._server.end()
        self._thread.join(15)

    def _run(self) -> None:
        try:
            self._server.run()
        except SystemExit:  # uvicorn's way to say that the address is taken; start() tells
            return
