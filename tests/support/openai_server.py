"""A small server that speaks OpenAI's protocol as vLLM does, with a real tiny model behind it and faults on demand."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from model.engine.vlm import Vlm
from tests.support.common import free_port, wait_until

MODEL_NAME = "tiny-nvila"


@dataclass
class Faults:
    """The faults of the server, and the requests that it received."""

    busy: int = 0
    """So many requests are answered `busy_status` first."""
    busy_status: int = 503
    refuse: int | None = None
    """Every chat is answered with this status."""
    garbage: bytes | None = None
    """Every chat is answered with these bytes and status 200."""
    trickle: bytes | None = None
    """Every chat is answered with these bytes, one every fifth of a second, without an end."""
    blind: bool = False
    """The pictures are black for the model, whatever was sent."""
    most_listed: int = 20
    """So many top_logprobs at most."""
    capitals: bool = False
    """Listed tokens are spelled with a capital, as an untrained model spells its answers."""
    hang: threading.Event | None = None
    """Every chat waits for this."""
    seen: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0


class ChatServer:
    """The application. vlm: an NVILA, whose prompt text ChatML messages make exactly."""

    def __init__(self, vlm: Vlm, faults: Faults) -> None:
        self.vlm, self.faults = vlm, faults
        self._lock = threading.Lock()
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/detokenize", self._detokenize, methods=["POST"]),
        ]
        self.application = Starlette(routes=routes)

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL_NAME, "object": "model"}]})

    async def _tokenize(self, request: Request) -> Response:
        body = await request.json()
        ids = self.vlm.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])["input_ids"]
        return JSONResponse({"count": len(ids), "tokens": ids})

    async def _detokenize(self, request: Request) -> Response:
        body = await request.json()
        return JSONResponse({"prompt": self.vlm.tokenizer.decode(body["tokens"])})

    async def _chat(self, request: Request) -> Response:
        faults = self.faults
        faults.keys.append(request.headers.get("authorization"))
        body = await request.json()
        with self._lock:
            faults.seen.append(body)
            faults.at_once += 1
            faults.most_at_once = max(faults.most_at_once, faults.at_once)
            busy = faults.busy > 0
            faults.busy -= busy
        try:
            if faults.hang is not None:
                await run_in_threadpool(faults.hang.wait)
            if busy:
                return JSONResponse({"error": "busy"}, faults.busy_status, headers={"Retry-After": "0.05"})
            if faults.refuse is not None:
                return JSONResponse({"error": "no"}, faults.refuse)
            if faults.garbage is not None:
                return Response(faults.garbage, media_type="application/json")
            if faults.trickle is not None:
                return StreamingResponse(_trickling(faults.trickle), media_type="application/json")
            return JSONResponse(await run_in_threadpool(self._complete, body))
        finally:
            with self._lock:
                faults.at_once -= 1

    def _spelled(self, token: int) -> str:
        text = str(self.vlm.tokenizer.decode([token]))
        return text.capitalize() if self.faults.capitals else text

    @torch.inference_mode()
    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        text, pictures = _rendered(body)
        if self.faults.blind:
            pictures = [np.zeros_like(picture) for picture in pictures]
        with self._lock:
            inputs = self.vlm.inputs(text, pictures)
            logs = self.vlm.model(**inputs).logits[0].float().log_softmax(-1)
            tokenizer = self.vlm.tokenizer
            reply: dict[str, Any] = {"object": "chat.completion", "model": body["model"]}
            if body.get("prompt_logprobs") is not None:
                ids = inputs["input_ids"][0].tolist()
                reply["prompt_logprobs"] = [None] + [
                    {str(token): {"logprob": _score(logs[place], token), "decoded_token": tokenizer.decode([token])}}
                    for place, token in enumerate(ids[1:])
                ]
            choice: dict[str, Any] = {"index": 0}
            if body.get("logprobs"):
                if "logprob_token_ids" in body:
                    # vLLM lists the token that it wrote before those that were asked for
                    wanted = [int(logs[-1].argmax()), *body["logprob_token_ids"]]
                    tokens = torch.tensor(list(dict.fromkeys(wanted)))
                    values = logs[-1][tokens]
                else:
                    values, tokens = logs[-1].topk(min(body["top_logprobs"], self.faults.most_listed))
                listed = [
                    {"token": self._spelled(token), "logprob": value}
                    for value, token in zip(values.tolist(), tokens.tolist(), strict=True)
                ]
                choice["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}]}
            output = self.vlm.model.generate(**inputs, max_new_tokens=body["max_tokens"], do_sample=False)
            row = output[0, inputs["input_ids"].shape[1] :].tolist()
            ended = bool(set(row) & set(self.vlm.stop_ids))
            choice["message"] = {"role": "assistant", "content": tokenizer.decode(row, skip_special_tokens=True)}
            choice["finish_reason"] = "stop" if ended else "length"
            return reply | {"choices": [choice]}


async def _trickling(content: bytes) -> AsyncIterator[bytes]:
    for place in itertools.count():
        yield content[place : place + 1] or b" "
        await asyncio.sleep(0.2)


def _score(row: torch.Tensor, token: int) -> float:
    """Image tokens stand behind the vocabulary: no word of the model's."""
    return float(row[token]) if token < len(row) else -100.0


def _rendered(body: dict[str, Any]) -> tuple[str, list[np.ndarray]]:
    """The ChatML text of the messages and their pictures, as a server's chat template makes them."""
    text, pictures = "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n", []
    for message in body["messages"]:
        text += f"<|im_start|>{message['role']}\n"
        content: str | list[dict[str, Any]] = message["content"]
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "text":
                text += part["text"]
            else:
                image: dict[str, str] = part["image_url"]
                kind, data = image["url"].split(",", 1)
                assert kind == "data:image/png;base64"
                pictures.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
                text += "<image>"
        if not body.get("continue_final_message") or message is not body["messages"][-1]:
            text += "<|im_end|>\n"
    if body.get("add_generation_prompt", True):
        text += "<|im_start|>assistant\n"
    return text, pictures


@contextmanager
def serving(vlm: Vlm, faults: Faults) -> Iterator[str]:
    """The server on a port of the loopback interface; gives its base address."""
    port = free_port()
    config = uvicorn.Config(ChatServer(vlm, faults).application, host="127.0.0.1", port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, what="the server of the test")
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if faults.hang is not None:
            faults.hang.set()
        server.should_exit = True
        thread.join(timeout=20)
