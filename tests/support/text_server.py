"""A small HTTP server that speaks the chat-completion protocol and answers by a rule of the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.common import free_port, wait_until


@contextmanager
def text_server(answer: Callable[[str], str | int], seen: list[dict[str, Any]]) -> Iterator[str]:
    """Serve on a loopback port; `answer` makes the reply, or the HTTP status of a refusal, from the prompt; `seen`
    collects the request bodies."""

    async def chat(request: Request) -> Response:
        body = await request.json()
        seen.append(body)
        reply = answer(body["messages"][-1]["content"])
        if isinstance(reply, int):
            return JSONResponse({"error": {"message": "refused"}}, reply)
        return JSONResponse(
            {"choices": [{"message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}]}
        )

    application = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, what="the text server")
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
